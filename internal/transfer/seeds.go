package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"path/filepath"
	"syscall"

	"github.com/opencontainers/go-digest"

	"github.com/ociv2-sync/ociv2-sync/internal/catalogue"
	"github.com/ociv2-sync/ociv2-sync/internal/root"
	"github.com/ociv2-sync/ociv2-sync/seed"
)

// openMemory opens the catalogue of a root. save keeps what was learned, and frees what was known; that
// it cannot costs the next run some reading, no more.
func openMemory(r *root.Root, log *slog.Logger) (_ seed.Memory, save func(), err error) {
	c, err := catalogue.Open(r.Catalogue(), catalogue.Options{Logger: log})
	if err != nil {
		return nil, nil, err
	}
	return c, func() {
		level := slog.LevelWarn
		err := c.Close()
		if errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS) {
			level = slog.LevelInfo // a plan by somebody who may only read
		}
		if err != nil {
			log.Log(context.Background(), level, "what was read of seeds is not remembered", "reason", err)
		}
	}, nil
}

// IndexSeeds learns what the files of seeds hold and keeps it in the catalogue of
// the root at rootPath, where plans find it. Files that are known are not read.
// names are as those of PullOptions.Seeds.
func IndexSeeds(ctx context.Context, rootPath string, names []string, log *slog.Logger) (_ seed.Indexed, err error) {
	var sum seed.Indexed
	r, err := root.Open(rootPath, root.Options{})
	if err != nil {
		return sum, err
	}
	memory, err := catalogue.Open(r.Catalogue(), catalogue.Options{Logger: log})
	if err != nil {
		return sum, err
	}
	defer func() { err = errors.Join(err, memory.Close()) }() // to remember is all that this is for
	seeds := seedOpener{memory: memory, log: log}
	defer func() {
		for _, c := range seeds.closers {
			err = errors.Join(err, c.Close())
		}
	}()
	if err := seeds.open(names); err != nil {
		return sum, err
	}
	for _, s := range seeds.seeds {
		i, err := seed.Index(ctx, s)
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
	// spool is where contents out of archives wait to be copied; "" if
	// nothing is copied.
	spool string

	seeds    []seed.Seed
	archived []*seed.Archive // those of seeds that are archives
	closers  []io.Closer     // of what was opened, also after an error
}

// open opens the trees of the root, which cost no reading, and after them the
// seeds that are named.
func (o *seedOpener) open(names []string) error {
	if o.root != nil {
		o.seeds = append(o.seeds, treeSeeds(o.root, o.log)...)
	}
	for _, name := range names {
		if err := o.named(name); err != nil {
			return fmt.Errorf("transfer: %w", err)
		}
	}
	return nil
}

// otherRoot opens the trees of another root, if it is one. Our own is a seed
// anyway.
func (o *seedOpener) otherRoot(path string) (bool, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return false, fmt.Errorf("seed: %w", err)
	}
	if o.root != nil && abs == o.root.Path() {
		return true, nil
	}
	other, err := root.Open(abs, root.Options{ReadOnly: true})
	switch {
	case err == nil:
		o.seeds = append(o.seeds, treeSeeds(other, o.log)...)
		return true, nil
	case errors.Is(err, root.ErrNotRoot), errors.Is(err, fs.ErrNotExist):
		return false, nil
	}
	return false, fmt.Errorf("seed: %w", err)
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
		seeds = append(seeds, seed.NewTree(names[t.Manifest], t.RootFS, func() ([]byte, error) { return r.Blob(t.TOC) }))
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
