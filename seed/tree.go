package seed

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/ociv2-sync/ociv2-sync/toc"
)

// treeSeed is a tree whose TOC is known: nothing of it need be hashed to know
// what it holds.
type treeSeed struct {
	name string
	path string
	load func() (*toc.TOC, error)
	bigFiles
}

// NewTree returns the filesystem tree at path as a seed that is known to have
// been made from the TOC that load returns. load is called by Find. name
// stands for the seed in messages.
//
// A file is offered when its type, size and modification time still are those
// of the TOC. Whether its bytes are too is for the reader of the seed to see,
// who hashes them anyway.
func NewTree(name, path string, load func() (*toc.TOC, error)) Seed {
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
	t, err := s.load()
	if err != nil {
		return fmt.Errorf("seed %s: %w", s.name, err)
	}
	s.reset()
	for i, path := range paths(t.Nodes) {
		n := &t.Nodes[i]
		if n.IsRegular() && n.Link < 0 {
			s.add(candidate{path: path, size: n.Size})
		}
		if !n.IsRegular() || !want.HasSize(n.Size) {
			continue
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if !s.unchanged(path, n) {
			continue
		}
		if want.Take(n.Digest, n.Size) {
			found(n.Digest, path)
		}
	}
	return nil
}

// unchanged reports whether the file at path looks as node n says.
func (s *treeSeed) unchanged(path string, n *toc.Node) bool {
	fi, err := os.Lstat(filepath.Join(s.path, path))
	return err == nil && fi.Mode().IsRegular() && fi.Size() == n.Size &&
		fi.ModTime().Equal(time.Unix(n.Sec, int64(n.Nsec)))
}

// paths yields the index and the slash-separated path of every node below the
// root.
func paths(nodes []toc.Node) func(yield func(int, string) bool) {
	return func(yield func(int, string) bool) {
		var dirs []string // dirs[d] is the path of the open directory at depth d
		for i := range nodes {
			n := &nodes[i]
			var path string
			if n.Depth > 0 {
				dirs = dirs[:n.Depth]
				path = filepath.Join(dirs[n.Depth-1], n.Name)
				if !yield(i, path) {
					return
				}
			}
			dirs = append(dirs[:n.Depth], path)
		}
	}
}
