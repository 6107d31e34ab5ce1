package root

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"

	"github.com/ociv2-sync/ociv2-sync/internal/durable"
)

// Remove removes a tag with all its predecessors; ErrNotFound if the root does not have
// it. The trees stay until [Writer.Prune].
func (w *Writer) Remove(name, tag string) error {
	if err := checkName(name, tag); err != nil {
		return err
	}
	r := w.root
	link := r.linkPath(name, tag)
	st, err := os.Lstat(link)
	isLink := err == nil && st.Mode().Type() == fs.ModeSymlink
	_, refErr := os.Lstat(r.refPath(name, tag))
	if !isLink && errors.Is(refErr, fs.ErrNotExist) {
		return fmt.Errorf("root: %s:%s: %w", name, tag, ErrNotFound)
	}
	// The symlink goes first: a record without one is no image, a symlink without a
	// record would be a corrupt one.
	if isLink {
		if err := removeDurably(link); err != nil {
			return err
		}
	}
	if err := removeDurably(r.refPath(name, tag)); err != nil {
		return err
	}
	// What is not empty stays, and so does what cannot be removed: it harms nobody.
	_ = os.Remove(r.join(refsDir, url.PathEscape(name)))
	for dir := name; dir != "."; dir = filepath.Dir(dir) {
		if os.Remove(r.join(imagesDir, filepath.FromSlash(dir))) != nil {
			break
		}
	}
	return nil //nolint:nilerr // as said above
}

// removeDurably removes a file, if it is there, so that it does not come back.
func removeDurably(path string) error {
	err := os.Remove(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = durable.SyncDir(filepath.Dir(path))
	}
	if err != nil {
		return fmt.Errorf("root: %w", err)
	}
	return nil
}

// RemoveUnused removes what no image needs: the records of tags without a symlink, whose
// writer or remover was cut, then what [Writer.Prune] removes. It returns the manifests
// of the trees that went.
func (w *Writer) RemoveUnused(ctx context.Context) ([]digest.Digest, error) {
	r := w.root
	var errs []error
	err := r.eachRef(func(name, tag string) {
		if _, err := os.Lstat(r.linkPath(name, tag)); errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, w.Remove(name, tag))
		}
	})
	if err := errors.Join(append(errs, err)...); err != nil {
		return nil, err
	}
	w.stale = true
	return w.Prune(ctx)
}
