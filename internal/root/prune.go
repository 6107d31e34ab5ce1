package root

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// ClearChunkCache empties the chunk cache, as is done when a pull is complete.
func (w *Writer) ClearChunkCache() error {
	r := w.root
	// What is no longer at its place is not used half: a cut leaves a directory in tmp/.
	dir, err := os.MkdirTemp(r.join(tmpDir), "chunks-")
	if err == nil {
		err = os.Rename(r.join(chunksDir), filepath.Join(dir, "old"))
	}
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		err = os.Mkdir(r.join(chunksDir), 0o700)
	}
	if err == nil {
		err = removeAll(dir)
	}
	if err != nil {
		return fmt.Errorf("root: %w", err)
	}
	return nil
}

// Prune removes the trees and blobs that no tag needs, now or for rollback, and on which
// nobody has a lease, and returns
// the manifests of the trees that went. When any record cannot be read it removes
// nothing. The context is looked at between trees.
func (w *Writer) Prune(ctx context.Context) ([]digest.Digest, error) {
	r := w.root
	needed, err := w.neededTrees()
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(r.join(treesDir))
	if err != nil {
		return nil, fmt.Errorf("root: %w", err)
	}
	blobs := map[string]bool{} // of the trees that stay
	var gone []digest.Digest
	w.leased = nil
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return gone, err
		}
		d := digest.NewDigestFromEncoded(digest.SHA256, strings.TrimPrefix(e.Name(), hexPrefix))
		if d.Validate() != nil || treeName(d) != e.Name() {
			continue // not made by this package
		}
		if !needed[d] {
			leased, err := w.discardUnleased(r.join(treesDir, e.Name()))
			if err != nil {
				return gone, err
			}
			if !leased {
				gone = append(gone, d)
				continue
			}
			w.leased = append(w.leased, d)
		}
		t, err := r.Tree(d)
		if err != nil {
			return gone, err
		}
		blobs[d.Encoded()], blobs[t.Config.Encoded()], blobs[t.TOC.Encoded()] = true, true, true
	}
	if len(gone) > 0 || w.stale {
		if err := w.pruneObjects(ctx); err != nil {
			return gone, err
		}
	}
	return gone, w.pruneBlobs(blobs)
}

// pruneBlobs removes the blobs that are not needed, and what dead writers have left there.
func (w *Writer) pruneBlobs(needed map[string]bool) error {
	files, err := os.ReadDir(w.root.join(blobsDir))
	if err != nil {
		return fmt.Errorf("root: %w", err)
	}
	for _, f := range files {
		if needed[f.Name()] {
			continue
		}
		if err := os.Remove(w.root.join(blobsDir, f.Name())); err != nil {
			return fmt.Errorf("root: %w", err)
		}
	}
	return nil
}

// pruneObjects removes the objects that no tree has.
func (w *Writer) pruneObjects(ctx context.Context) error {
	dirs, err := os.ReadDir(w.root.Objects())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("root: %w", err)
	}
	for _, d := range dirs {
		dir := filepath.Join(w.root.Objects(), d.Name())
		files, err := os.ReadDir(dir)
		if err != nil {
			return fmt.Errorf("root: %w", err)
		}
		for _, f := range files {
			if err := ctx.Err(); err != nil {
				return err
			}
			fi, err := f.Info()
			if err != nil {
				return fmt.Errorf("root: %w", err)
			}
			if st, ok := fi.Sys().(*syscall.Stat_t); ok && st.Nlink == 1 {
				if err := os.Remove(filepath.Join(dir, f.Name())); err != nil {
					return fmt.Errorf("root: %w", err)
				}
			}
		}
	}
	return nil
}

// neededTrees returns the manifests of every version of every record, those that were
// rolled back from included: the next commit of the tag drops them.
func (w *Writer) neededTrees() (map[digest.Digest]bool, error) {
	needed := map[digest.Digest]bool{}
	var errs []error
	err := w.root.eachRef(func(name, tag string) {
		_, versions, err := w.root.image(name, tag)
		if err != nil && !errors.Is(err, ErrNotFound) {
			errs = append(errs, err)
		}
		for _, v := range versions {
			needed[v.Manifest] = true
		}
	})
	return needed, errors.Join(append(errs, err)...)
}

// Leased returns the manifests of the trees that the last Prune left to those who have a
// lease, though no tag needs them.
func (w *Writer) Leased() []digest.Digest { return w.leased }

// discardUnleased removes a tree unless somebody has a lease on it: a shared flock on its
// tree.json, which the kernel ends with the process (docs/format/root.md, section 6).
func (w *Writer) discardUnleased(path string) (leased bool, err error) {
	f, err := os.Open(filepath.Join(path, treeJSON))
	if errors.Is(err, fs.ErrNotExist) { // damaged; nobody can have a lease
		return false, w.discard(path)
	} else if err != nil {
		return false, fmt.Errorf("root: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	switch err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); {
	case errors.Is(err, unix.EWOULDBLOCK):
		return true, nil
	case err != nil:
		return false, fmt.Errorf("root: lease on %s: %w", path, err)
	}
	return false, w.discard(path)
}

// discard removes a tree. It leaves its place whole, by a rename, and is taken apart in tmp/.
func (w *Writer) discard(path string) error {
	dir, err := os.MkdirTemp(w.root.join(tmpDir), "gone-")
	if err == nil {
		err = os.Rename(path, filepath.Join(dir, "old"))
	}
	if err == nil {
		err = removeAll(dir)
	}
	if err != nil {
		return fmt.Errorf("root: %w", err)
	}
	return nil
}

// removeAll is os.RemoveAll also where an ordinary user owns directories that they may not
// change.
func removeAll(path string) error {
	err := os.RemoveAll(path)
	if !errors.Is(err, fs.ErrPermission) {
		return err
	}
	dir, openErr := os.OpenRoot(path)
	if openErr != nil {
		return err
	}
	// WalkDir calls before it reads a directory.
	walkErr := fs.WalkDir(dir.FS(), ".", func(name string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() {
			err = dir.Chmod(name, 0o700)
		}
		return err
	})
	if err := errors.Join(walkErr, dir.Close()); err != nil {
		return err
	}
	return os.RemoveAll(path)
}
