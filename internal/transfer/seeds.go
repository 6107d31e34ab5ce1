package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
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
	// spool is where contents out of archives wait to be copied; "" if
	// nothing is copied.
	spool string

	seeds   []seed.Seed
	closers []io.Closer // of what was opened, also after an error
}

// The kinds of seeds that a path can be said to be, as in KIND:PATH.
const (
	kindRoot    = "root"
	kindLayout  = "oci"
	kindArchive = "archive"
	kindDir     = "dir"
)

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

// named opens a seed given as PATH or KIND:PATH.
func (o *seedOpener) named(name string) error {
	if kind, path, ok := strings.Cut(name, ":"); ok {
		switch kind {
		case kindRoot:
			ok, err := o.otherRoot(path)
			if err == nil && !ok {
				err = fmt.Errorf("seed: %s: %w", path, root.ErrNotRoot)
			}
			return err
		case kindLayout:
			return o.layout(path)
		case kindArchive:
			return o.archive(path)
		case kindDir:
			return o.dir(path)
		}
	}
	fi, err := os.Stat(name)
	if err != nil {
		return fmt.Errorf("seed: %w", err)
	}
	if !fi.IsDir() {
		return o.archive(name)
	}
	ok, err := o.image(name)
	if err != nil || ok {
		return err
	}
	if err := o.dir(name); err != nil {
		return err
	}
	// A directory of images: as a tree it has the files of those that lie
	// there unpacked, and of the others none.
	entries, err := os.ReadDir(name)
	if err != nil {
		return fmt.Errorf("seed: %w", err)
	}
	for _, e := range entries {
		path := filepath.Join(name, e.Name())
		switch {
		case e.IsDir():
			_, err = o.image(path)
		case e.Type().IsRegular() && archiveName.MatchString(e.Name()):
			err = o.archive(path)
		}
		if err != nil {
			o.log.Warn("seed passed over", "seed", path, "reason", err)
		}
	}
	return nil
}

// archiveName is what archives in a directory of images are called; other files
// there are not looked into.
var archiveName = regexp.MustCompile(`\.(tar|tgz|catar|tar\.(gz|zst|zstd))$`)

// image opens a directory that is a root or has layers, and reports whether it
// is.
func (o *seedOpener) image(path string) (bool, error) {
	if ok, err := o.otherRoot(path); err != nil || ok {
		return ok, err
	}
	if _, err := os.Stat(filepath.Join(path, "blobs", "sha256")); err != nil {
		return false, nil //nolint:nilerr // then it is a directory tree
	}
	return true, o.layout(path)
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

func (o *seedOpener) dir(path string) error {
	s, err := seed.OpenDir(path, seed.DirOptions{Logger: o.log, Memory: o.memory})
	if err == nil {
		o.seeds = append(o.seeds, s)
	}
	return err
}

func (o *seedOpener) archive(path string) error {
	return o.add(seed.OpenArchive(path, seed.ArchiveOptions{SpoolDir: o.spool, Logger: o.log}))
}

func (o *seedOpener) layout(path string) error {
	return o.add(seed.OpenLayout(path, seed.ArchiveOptions{SpoolDir: o.spool, Logger: o.log}))
}

func (o *seedOpener) add(a *seed.Archive, err error) error {
	if err == nil {
		o.seeds, o.closers = append(o.seeds, a), append(o.closers, a)
	}
	return err
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
