package transfer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"syscall"

	"github.com/opencontainers/go-digest"

	"github.com/ociv2-sync/ociv2-sync/internal/catalogue"
	"github.com/ociv2-sync/ociv2-sync/internal/root"
	"github.com/ociv2-sync/ociv2-sync/seed"
	"github.com/ociv2-sync/ociv2-sync/toc"
)

// openMemory opens the catalogue of a root. save keeps what was learned; that
// it cannot costs the next run some reading, no more.
func openMemory(r *root.Root, log *slog.Logger) (_ seed.Memory, save func(), err error) {
	c, err := catalogue.Open(r.Catalogue(), catalogue.Options{Logger: log})
	if err != nil {
		return nil, nil, err
	}
	return c, func() {
		level := slog.LevelWarn
		err := c.Save()
		if errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS) {
			level = slog.LevelInfo // a plan by somebody who may only read
		}
		if err != nil {
			log.Log(context.Background(), level, "what was read of seeds is not remembered", "reason", err)
		}
	}, nil
}

// IndexSeeds learns what the files of directory trees hold and keeps it in the
// catalogue of the root at rootPath, where plans find it. Files that are known
// are not read.
func IndexSeeds(ctx context.Context, rootPath string, paths []string, log *slog.Logger) (seed.Indexed, error) {
	var sum seed.Indexed
	r, err := root.Open(rootPath, root.Options{})
	if err != nil {
		return sum, err
	}
	memory, save, err := openMemory(r, log)
	if err != nil {
		return sum, err
	}
	defer save()
	for _, p := range paths {
		i, err := seed.Index(ctx, p, seed.DirOptions{Logger: log, Memory: memory})
		sum.Files += i.Files
		sum.Bytes += i.Bytes
		sum.Read += i.Read
		sum.ReadBytes += i.ReadBytes
		if err != nil {
			return sum, err
		}
	}
	return sum, nil
}

// seedOpener opens seeds, each recognised by what it is.
type seedOpener struct {
	root   *root.Root // nil where there is none yet
	memory seed.Memory
	log    *slog.Logger
}

// open returns the trees of the root, which cost no reading, and after them
// the seeds at paths.
func (o *seedOpener) open(paths []string) ([]seed.Seed, error) {
	r, log := o.root, o.log
	var seeds []seed.Seed
	own := ""
	if r != nil {
		own = r.Path()
		seeds = append(seeds, treeSeeds(r, log)...)
	}
	for _, p := range paths {
		abs, err := filepath.Abs(p)
		if err != nil {
			return nil, fmt.Errorf("transfer: seed: %w", err)
		}
		if abs == own {
			continue // a seed anyway
		}
		other, err := root.Open(abs, root.Options{ReadOnly: true})
		switch {
		case err == nil:
			seeds = append(seeds, treeSeeds(other, log)...)
			continue
		case !errors.Is(err, root.ErrNotRoot) && !errors.Is(err, fs.ErrNotExist):
			return nil, fmt.Errorf("transfer: seed: %w", err)
		}
		s, err := seed.OpenDir(p, seed.DirOptions{Logger: log, Memory: o.memory})
		if err != nil {
			return nil, fmt.Errorf("transfer: %w", err)
		}
		seeds = append(seeds, s)
	}
	return seeds, nil
}

// treeSeeds returns the trees of a root. One that is damaged is of no use and
// no reason to fail.
func treeSeeds(r *root.Root, log *slog.Logger) []seed.Seed {
	trees, err := r.Trees()
	if err != nil {
		log.Warn("a tree of the root is of no use as a seed", "root", r.Path(), "reason", err)
	}
	names := treeNames(r, trees)
	seeds := make([]seed.Seed, 0, len(trees))
	for _, t := range trees {
		seeds = append(seeds, seed.NewTree(names[t.Manifest], t.RootFS, func() (*toc.TOC, error) {
			b, err := r.Blob(t.TOC)
			if err != nil {
				return nil, err
			}
			return toc.Parse(b)
		}))
	}
	return seeds
}

// treeNames says for people what each tree of a root is: the first image that
// shows it, or the digest of one that is kept for rollback.
func treeNames(r *root.Root, trees []*root.Tree) map[digest.Digest]string {
	names := make(map[digest.Digest]string, len(trees))
	for _, t := range trees {
		names[t.Manifest] = fmt.Sprintf("image %.19s in %s", t.Manifest, r.Path())
	}
	images, _ := r.Images() // what cannot be read has a tree without a name
	for _, i := range images {
		if _, ok := names[i.Current.Manifest]; ok {
			names[i.Current.Manifest] = fmt.Sprintf("image %s:%s in %s", i.Name, i.Tag, r.Path())
		}
	}
	return names
}
