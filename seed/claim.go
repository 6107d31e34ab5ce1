package seed

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/ociv2-sync/ociv2-sync/toc"
)

// Claim is a tree on some other device: it is taken to have all that its table of
// contents says, and is no seed to copy from.
type Claim struct {
	name  string
	nodes []toc.Node
	read  func(ctx context.Context, node int) (*os.File, error)
	at    map[string]int32 // nodes of the big files, by path
	bigFiles
}

// NewClaim returns a tree with the given nodes. read opens the content of one of
// them, for those who look for parts of files in it; the caller closes it. name
// stands for the tree in messages.
func NewClaim(name string, nodes []toc.Node, read func(ctx context.Context, node int) (*os.File, error)) *Claim {
	return &Claim{name: name, nodes: nodes, read: read}
}

// String implements [Seed].
func (c *Claim) String() string { return c.name }

// Find implements [Seed].
func (c *Claim) Find(ctx context.Context, want *Wanted, found func(Digest, string)) error {
	c.reset()
	c.at = make(map[string]int32)
	var dirs []string // dirs[d] is the path of the open directory at depth d
	for i := range c.nodes {
		n := &c.nodes[i]
		path := n.Name
		if n.Depth > 1 {
			path = filepath.Join(dirs[n.Depth-1], n.Name)
		}
		if n.IsDir() {
			dirs = append(dirs[:n.Depth], path)
		}
		if !n.IsRegular() || n.Link >= 0 || n.Size == 0 {
			continue
		}
		if n.Size >= bigSize {
			c.at[path] = int32(i)
			c.add(candidate{path: path, size: n.Size})
		}
		if want.Take(n.Digest, n.Size) {
			found(n.Digest, "")
		}
	}
	return ctx.Err()
}

// Open implements [Seed] for files that are large enough to have chunks of their
// own.
func (c *Claim) Open(ctx context.Context, path string) (io.ReadCloser, error) {
	i, ok := c.at[path]
	if !ok {
		return nil, fmt.Errorf("seed: %s: %q: %w", c, path, fs.ErrNotExist)
	}
	return c.read(ctx, int(i))
}
