package stores

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/ociv2-sync/ociv2-sync/internal/repo"
	"github.com/ociv2-sync/ociv2-sync/store"
	"github.com/ociv2-sync/ociv2-sync/store/local"
)

// ErrReadOnly reports a repository that cannot be written to where it is.
var ErrReadOnly = errors.New("a repository that can only be read")

// Close ends what the clients keep open. None of them is used any more.
func (c Clients) Close() { c.HTTP.Close() }

// OpenRepo opens the repository at a path or a URL to be read. The caller closes
// the closer.
func (c Clients) OpenRepo(where string) (repo.Files, io.Closer, error) {
	if IsURL(where) {
		d, err := c.HTTP.Dir(where)
		return d, closers{}, err
	}
	d, err := repo.OpenDir(where)
	return d, d, err
}

// OpenSpace opens the repository at a path or a URL to be written to. With
// create a directory that is not there is made. The caller closes the closer.
func (c Clients) OpenSpace(where string, create bool) (repo.Space, io.Closer, error) {
	if IsURL(where) {
		return nil, nil, fmt.Errorf("stores: %w: %s: images are pushed into a directory", ErrReadOnly, repo.Redact(where))
	}
	open := repo.OpenDir
	if create {
		open = repo.CreateDir
	}
	d, err := open(where)
	return d, d, err
}

// Target is a chunk store that an image is published to.
type Target struct {
	store.Store
	// Jobs is the number of chunks to work on at a time, 0 for the default.
	Jobs  int
	flush func() error
	close func() error
}

// Flush returns once every chunk that was put before is as lasting as the store
// can make it.
func (t Target) Flush() error { return t.flush() }

// Unwrap returns the store.
func (t Target) Unwrap() store.Store { return t.Store }

// Close ends the use of the store.
func (t Target) Close() error { return t.close() }

// OpenTarget opens the chunk store in the directory dir of a repository, to be
// written to. What collects casync's way waits until it is closed.
func (c Clients) OpenTarget(ctx context.Context, space repo.Space, dir string) (Target, error) {
	d, ok := space.(*repo.Dir)
	if !ok {
		return Target{}, fmt.Errorf("stores: %w: %s", ErrReadOnly, space)
	}
	st, err := local.Open(filepath.Join(d.String(), dir), local.Options{Create: true, Sync: true})
	if err != nil {
		return Target{}, err
	}
	unlock, err := st.Lock(ctx, false)
	if err != nil {
		return Target{}, errors.Join(err, st.Close())
	}
	return Target{Store: st, flush: st.Flush, close: func() error { return errors.Join(unlock(), st.Close()) }}, nil
}
