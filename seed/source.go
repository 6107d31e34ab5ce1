package seed

import (
	"slices"
	"sort"

	"github.com/ociv2-sync/ociv2-sync/chunk"
)

// chunksOf returns the chunks that a missing content is cut out of.
func (p *Plan) chunksOf(c *Content) []Chunk {
	end := c.At + uint64(c.Size)
	from := sort.Search(len(p.Chunks), func(i int) bool { return p.Chunks[i].Offset+p.Chunks[i].Size > c.At })
	to := sort.Search(len(p.Chunks), func(i int) bool { return p.Chunks[i].Offset >= end })
	return p.Chunks[from:max(from, to)]
}

// Lacking returns the indexes in Contents of those that need chunks to be
// fetched, in the order of Missing.
func (p *Plan) Lacking() []int32 {
	fetched := make(map[chunk.ID]bool)
	for i := range p.Chunks {
		if c := &p.Chunks[i]; c.Origin == Fetched {
			fetched[c.ID] = true
		}
	}
	var out []int32
	for _, m := range p.Missing {
		cs := p.chunksOf(&p.Contents[m])
		if slices.ContainsFunc(cs, func(c Chunk) bool { return fetched[c.ID] }) {
			out = append(out, m)
		}
	}
	return out
}

// Source returns the content of a node and, if it is missing, the chunks that
// it is cut out of; nil if the node has none, or is a further name of another.
func (p *Plan) Source(node int32) (*Content, []Chunk) {
	for i := range p.Contents {
		c := &p.Contents[i]
		if !slices.Contains(c.Nodes, node) {
			continue
		}
		if c.Seed != None {
			return c, nil
		}
		return c, p.chunksOf(c)
	}
	return nil, nil
}
