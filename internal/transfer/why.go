package transfer

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/ociv2-sync/ociv2-sync/internal/repo"
	"github.com/ociv2-sync/ociv2-sync/seed"
	"github.com/ociv2-sync/ociv2-sync/toc"
)

var (
	// ErrNoFile means that an image has no such path.
	ErrNoFile = errors.New("no such path in the image")
	// ErrOffline means that a pull that may fetch nothing would have to.
	ErrOffline = errors.New("not on this device")
)

// MissingError says what a pull that may fetch nothing lacks. It matches
// ErrOffline.
type MissingError struct {
	// Paths are those of the files, in the order of the image.
	Paths []string
	// Bytes is the sum of their sizes.
	Bytes int64
}

func (e *MissingError) Error() string {
	return fmt.Sprintf("transfer: %d files of %d bytes are %s", len(e.Paths), e.Bytes, ErrOffline)
}

// Is makes the error match ErrOffline.
func (e *MissingError) Is(target error) bool { return target == ErrOffline }

// missing returns a *MissingError if the plan fetches chunks.
func (p *Prepared) missing() error {
	lacking := p.Plan.Lacking()
	if len(lacking) == 0 {
		return nil
	}
	e := &MissingError{}
	for _, i := range lacking {
		c := &p.Plan.Contents[i]
		for _, n := range c.Nodes {
			e.Paths = append(e.Paths, toc.Path(p.tree.TOC.Nodes, int(n)))
			e.Bytes += c.Size
		}
	}
	return e
}

// Why is where the bytes of a file come from.
type Why struct {
	// Node is the file in the image.
	Node toc.Node
	// Content is its content's place in the plan; nil if there is none, as for
	// directories and empty files, or if the root has the image already.
	Content *seed.Content
	// Chunks are those that the content is cut out of.
	Chunks []seed.Chunk
	// Delta is the delta that makes the content; nil if it comes otherwise.
	Delta *repo.Delta
}

// Why tells where the bytes of the file at path, which is relative to the
// image's root or begins with a slash, come from; ErrNoFile if the image has
// none. There is no more than its node to tell when Present is set.
func (p *Prepared) Why(ctx context.Context, path string) (*Why, error) {
	if p.tree == nil {
		if err := p.contents(ctx, p.root); err != nil {
			return nil, err
		}
	}
	want := strings.Trim(path, "/")
	for i := range p.tree.TOC.Nodes {
		if strings.TrimPrefix(toc.Path(p.tree.TOC.Nodes, i), "/") != want {
			continue
		}
		w := &Why{Node: p.tree.TOC.Nodes[i]}
		if p.Present {
			return w, nil
		}
		if link := w.Node.Link; link >= 0 {
			i = int(link)
		}
		w.Content, w.Chunks = p.Plan.Source(int32(i))
		if c := w.Content; c != nil && c.Seed == seed.None && c.Record != seed.None && p.delta != nil {
			w.Delta = &p.delta.Delta
		}
		return w, nil
	}
	return nil, fmt.Errorf("transfer: %s: %w", path, ErrNoFile)
}
