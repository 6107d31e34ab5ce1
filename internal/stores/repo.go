package stores

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/ociv2-sync/ociv2-sync/internal/repo"
	"github.com/ociv2-sync/ociv2-sync/store"
	"github.com/ociv2-sync/ociv2-sync/store/filestore"
	"github.com/ociv2-sync/ociv2-sync/store/httpstore"
	"github.com/ociv2-sync/ociv2-sync/store/local"
	"github.com/ociv2-sync/ociv2-sync/store/s3store"
	"github.com/ociv2-sync/ociv2-sync/store/sftpstore"
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
	return c.open(where, repo.OpenDir)
}

// OpenMirrors opens a repository that is at several places, to be read: see
// [repo.Mirrors].
func (c Clients) OpenMirrors(where []string) (repo.Files, io.Closer, error) {
	var all []repo.Files
	var open closers
	for _, one := range where {
		files, closer, err := c.OpenRepo(one)
		if err != nil {
			return nil, nil, errors.Join(err, open.Close())
		}
		if d, ok := files.(*httpstore.Dir); ok && len(where) > 1 {
			files = d.Once()
		}
		all, open = append(all, files), append(open, closer)
	}
	return repo.Mirrors(all, store.MirrorOptions{Retries: c.SSH.Retries, Logger: c.SSH.Logger}), open, nil
}

// OpenSpace opens the repository at a path or a URL to be written to. With
// create a directory that is not there is made. The caller closes the closer.
func (c Clients) OpenSpace(where string, create bool) (repo.Space, io.Closer, error) {
	if IsURL(where) {
		return nil, nil, fmt.Errorf("stores: %w: %s: images are pushed into a directory, also by ssh or sftp, or a bucket", ErrReadOnly, repo.Redact(where))
	}
	if create {
		return c.open(where, repo.CreateDir)
	}
	return c.open(where, repo.OpenDir)
}

// open opens what can be written to, a directory by openDir.
func (c Clients) open(where string, openDir func(string) (*repo.Dir, error)) (repo.Space, io.Closer, error) {
	if isS3(where) {
		d, err := s3store.Open(where, c.S3)
		return d, d, err
	}
	if isSFTP(where) {
		d, err := sftpstore.Open(where, sftpstore.Options{SSH: c.SSH, Server: c.Server})
		return d, d, err
	}
	d, err := openDir(where)
	return d, d, err
}

func isSFTP(where string) bool {
	return strings.HasPrefix(where, "ssh://") || strings.HasPrefix(where, "sftp://")
}

func isS3(where string) bool { return strings.HasPrefix(where, "s3://") }

// OpenChunks opens the chunk store at a place that an image of the repository at
// where has named; the stores before are asked first. What is in the repository
// is read as files, which are the repository's, are.
func (c Clients) OpenChunks(files repo.Files, where, at string, before []string) (store.Store, io.Closer, error) {
	far, ok := files.(filestore.Files)
	dir, inside := strings.CutPrefix(at, where+"/")
	if !ok || !inside || !isSFTP(where) && !isS3(where) {
		return Open(append(slices.Clone(before), at), c)
	}
	own := filestore.New(far, dir, filestore.Options{})
	if len(before) == 0 {
		return own, closers{}, nil
	}
	first, closer, err := Open(before, c)
	if err != nil {
		return nil, nil, err
	}
	return store.Chain(first, own), closer, nil
}

// farJobs is how many chunks are sent at a time: each takes several steps there
// and back.
const farJobs = 32

// LockTarget keeps makers of indexes, as make and casync's push, out of the chunk
// store in a directory of a repository until unlock is called: where that is on
// this machine. A store that is not there is nobody's.
func LockTarget(ctx context.Context, space repo.Space, dir string) (unlock func() error, err error) {
	nothing := func() error { return nil }
	d, ok := space.(*repo.Dir)
	if !ok {
		return nothing, nil
	}
	st, err := local.Open(filepath.Join(d.String(), dir), local.Options{})
	if errors.Is(err, fs.ErrNotExist) {
		return nothing, nil
	}
	if err != nil {
		return nil, err
	}
	release, err := st.Lock(ctx, true)
	if err != nil {
		return nil, errors.Join(err, st.Close())
	}
	return func() error { return errors.Join(release(), st.Close()) }, nil
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
		far, ok := space.(filestore.Files)
		if !ok {
			return Target{}, fmt.Errorf("stores: %w: %s", ErrReadOnly, space)
		}
		_, listed := space.(*s3store.Dir)      // where a list is a request for a thousand
		nothing := func() error { return nil } // what Create has made lasts
		return Target{Store: filestore.New(far, dir, filestore.Options{ListFirst: listed}), Jobs: farJobs, flush: nothing, close: nothing}, nil
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
