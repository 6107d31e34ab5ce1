package assemble

import (
	"context"

	"github.com/ociv2-sync/ociv2-sync/internal/objects"
	"github.com/ociv2-sync/ociv2-sync/seed"
)

// place is where a content goes: a node, and the key of its file if there are objects.
type place struct {
	node int32
	key  objects.Key
}

// places returns those of a content.
func (b *builder) places(c *seed.Content) []place {
	to := make([]place, len(c.Nodes))
	var again map[objects.Key]int
	if len(c.Nodes) > 1 {
		again = make(map[objects.Key]int)
	}
	for k, i := range c.Nodes {
		to[k].node = i
		if b.opts.Objects == nil {
			continue
		}
		key := objects.KeyOf(&b.job.Nodes[i], 0)
		if again == nil {
			to[k].key = key
			continue
		}
		if n := again[key]; n > 0 { // the image has two files, not one of two names
			to[k].key = objects.KeyOf(&b.job.Nodes[i], n)
		} else {
			to[k].key = key
		}
		again[key]++
	}
	return to
}

// link makes those files of a content that are objects, and returns the places of the
// others.
func (b *builder) link(ctx context.Context, at *cursor, c *seed.Content) ([]place, error) {
	to := b.places(c)
	if b.opts.Objects == nil {
		return to, nil
	}
	var rest []place
	for _, p := range to {
		n := &b.job.Nodes[p.node]
		d, err := at.dir(p.node)
		if err != nil {
			return nil, err
		}
		ok, err := b.opts.Objects.Link(ctx, d, n.Name, p.key, n)
		if err != nil {
			return nil, b.at(p.node, err)
		}
		if !ok {
			rest = append(rest, p)
			continue
		}
		b.linked.Add(1)
		b.linkedBytes.Add(c.Size)
		b.opts.Progress(0, c.Size)
	}
	return rest, nil
}

// unlink takes back the files of a content that are not in rest, which could not be made.
func (b *builder) unlink(at *cursor, c *seed.Content, rest []place) error {
	missing := make(map[int32]bool, len(rest))
	for _, p := range rest {
		missing[p.node] = true
	}
	for _, i := range c.Nodes {
		if missing[i] {
			continue
		}
		if err := at.remove(i); err != nil {
			return err
		}
		b.linked.Add(-1)
		b.linkedBytes.Add(-c.Size)
	}
	return nil
}
