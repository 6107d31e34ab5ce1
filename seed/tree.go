package seed

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/ociv2-sync/ociv2-sync/toc"
)

// treeSeed is a tree whose TOC is known: nothing of it need be hashed to know
// what it holds.
type treeSeed struct {
	name string
	path string
	load func() ([]byte, error)
	bigFiles
}

// NewTree returns the filesystem tree at path as a seed that is known to have
// been made from the TOC whose canonical bytes load returns. load is called by Find. name
// stands for the seed in messages.
//
// A file is offered when its type, size and modification time still are those
// of the TOC. Whether its bytes are too is for the reader of the seed to see,
// who hashes them anyway.
func NewTree(name, path string, load func() ([]byte, error)) Seed {
	return &treeSeed{name: name, path: path, load: load}
}

func (s *treeSeed) String() string { return s.name }

func (s *treeSeed) Open(_ context.Context, path string) (io.ReadCloser, error) {
	f, _, err := openRegular(filepath.Join(s.path, path))
	return f, err
}

// look implements looker: nothing is read.
func (s *treeSeed) look(ctx context.Context, want *Wanted, found func(Digest, string), _ func(int64)) (func(context.Context) error, error) {
	return func(context.Context) error { return nil }, s.Find(ctx, want, found)
}

func (s *treeSeed) Find(ctx context.Context, want *Wanted, found func(Digest, string)) error {
	b, err := s.load()
	if err != nil {
		return fmt.Errorf("seed %s: %w", s.name, err)
	}
	s.reset()
	var dirs []string // dirs[d] is the path of the open directory at depth d
	err = toc.Each(b, func(n *toc.Node) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		path := n.Name
		if n.Depth > 1 {
			path = dirs[n.Depth-1] + "/" + n.Name
		}
		if n.IsDir() {
			dirs = append(dirs[:n.Depth], path)
		}
		if !n.IsRegular() || n.Link >= 0 { // of a hard-link group the first name will do
			return nil
		}
		s.add(candidate{path: path, size: n.Size})
		if want.HasSize(n.Size) && s.unchanged(path, n) && want.Take(n.Digest, n.Size) {
			found(n.Digest, path)
		}
		return nil
	})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("seed %s: %w", s.name, err)
	}
	return nil
}

// unchanged reports whether the file at path looks as node n says.
func (s *treeSeed) unchanged(path string, n *toc.Node) bool {
	var st unix.Stat_t // what os.Lstat allocates, there may be hundreds of thousands of
	path = s.path + "/" + path
	err := unix.Lstat(path, &st)
	for errors.Is(err, unix.EINTR) {
		err = unix.Lstat(path, &st)
	}
	return err == nil && st.Mode&unix.S_IFMT == unix.S_IFREG && st.Size == n.Size &&
		int64(st.Mtim.Sec) == n.Sec && int64(st.Mtim.Nsec) == int64(n.Nsec)
}
