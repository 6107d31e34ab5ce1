package transfer

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"

	"github.com/opencontainers/go-digest"

	"github.com/ociv2-sync/ociv2-sync/internal/root"
	"github.com/ociv2-sync/ociv2-sync/seed"
	"github.com/ociv2-sync/ociv2-sync/toc"
)

// openSeeds returns the trees of the root, which cost no reading, and after
// them the seeds at paths, each recognised by what it is. r is nil where there
// is no root yet.
func openSeeds(r *root.Root, paths []string, log *slog.Logger) ([]seed.Seed, error) {
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
		s, err := seed.OpenDir(p, seed.DirOptions{Logger: log})
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
