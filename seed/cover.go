package seed

import (
	"fmt"
	"slices"

	"github.com/ociv2-sync/ociv2-sync/caibx"
	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/internal/numset"
	"github.com/ociv2-sync/ociv2-sync/toc"
)

// Span is one chunk in the byte space of an image.
type Span struct {
	ID   chunk.ID
	Size uint64
	// Stored is the size of the chunk in the repository's store, in bytes.
	Stored int64
}

// Space is the byte space of an image cut into chunks: the catar stream,
// followed by the extra stream of contents that the catar leaves out.
type Space struct {
	// Algorithm is the digest that makes the chunk ids.
	Algorithm chunk.Algorithm
	// Params are those that the catar was cut with.
	Params chunk.Params
	spans  []Span
	ends   []uint64 // ends[i] is where span i ends
	// known tells of which spans the ids are known; nil for all.
	known []bool
}

// NewSpace joins the chunk indexes of an image: that of its catar and, where
// there is one, that of its extra stream (nil otherwise). stored holds the
// stored size of every chunk of both, in the same order.
func NewSpace(catar, extra *caibx.Index, stored []int64) (*Space, error) {
	s := &Space{Algorithm: catar.Algorithm(), Params: catar.Params}
	n := len(catar.Chunks)
	if extra != nil {
		if extra.Algorithm() != catar.Algorithm() {
			return nil, fmt.Errorf("%w: two digest algorithms in one image", ErrSpace)
		}
		n += len(extra.Chunks)
	}
	if len(stored) != n {
		return nil, fmt.Errorf("%w: %d chunks but %d chunk sizes", ErrSpace, n, len(stored))
	}
	s.spans = make([]Span, 0, n)
	s.ends = make([]uint64, 0, n)
	for _, x := range []*caibx.Index{catar, extra} {
		if x == nil {
			continue
		}
		base := s.Size()
		for i := range x.Chunks {
			off, size := x.Span(i)
			s.spans = append(s.spans, Span{ID: x.Chunks[i].ID, Size: size, Stored: stored[len(s.spans)]})
			s.ends = append(s.ends, base+off+size)
		}
	}
	return s, nil
}

// Size returns the length of the byte space.
func (s *Space) Size() uint64 {
	if len(s.ends) == 0 {
		return 0
	}
	return s.ends[len(s.ends)-1]
}

// span returns the half-open range of chunks that cover [off, off+size).
func (s *Space) span(off, size uint64) (from, to int) {
	from = upper(s.ends, off)
	to = from
	for to < len(s.ends) && s.ends[to] < off+size {
		to++
	}
	return from, to + 1
}

// Chunks returns the chunks that cover [off, off+size), which must lie within
// the space and not be empty.
func (s *Space) Chunks(off, size uint64) []Chunk {
	from, to := s.span(off, size)
	out := make([]Chunk, 0, to-from)
	for i := from; i < to; i++ {
		out = append(out, Chunk{Span: s.spans[i], Offset: s.ends[i] - s.spans[i].Size})
	}
	return out
}

// upper returns the first index whose value is above v.
func upper(ends []uint64, v uint64) int {
	lo, hi := 0, len(ends)
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		if ends[mid] > v {
			hi = mid
		} else {
			lo = mid + 1
		}
	}
	return lo
}

// Cover chooses the chunks for the contents that no seed has and fills
// Plan.Chunks; the space knows the ids of those that Unknown named. cached reports whether a chunk is on the device already, from
// an interrupted pull; it costs nothing then.
//
// A content that lies at several places of the image is cut from the place
// whose chunks cost least beside those that are needed anyway. That choice is
// greedy, contents with one place first, and depends on nothing but the
// arguments.
func (p *Plan) Cover(nodes []toc.Node, layout *toc.Layout, space *Space, cached func(chunk.ID) bool) error {
	unknown, err := p.Unknown(nodes, layout, space)
	if err != nil {
		return err
	}
	if len(unknown) > 0 {
		return fmt.Errorf("%w: it says nothing of chunk %d", ErrSpace, unknown[0][0])
	}
	p.miss()
	places := p.places(nodes, layout)
	c := &cover{
		space:  space,
		picked: make([]bool, len(space.spans)),
		have:   make(map[chunk.ID]bool),
		cached: cached,
	}
	var several []int // indexes in Missing
	for k, m := range p.Missing {
		at := places.of(k)
		switch len(at) {
		case 0:
			return fmt.Errorf("%w: content %x has no place in it", ErrSpace, *p.Contents[m].Digest)
		case 1:
			p.Contents[m].At = at[0]
			c.take(at[0], uint64(p.Contents[m].Size))
		default:
			several = append(several, k)
		}
	}
	for _, k := range several {
		m := p.Missing[k]
		size := uint64(p.Contents[m].Size)
		best, cost := places.of(k)[0], int64(-1)
		for _, at := range places.of(k) {
			if k := c.cost(at, size); cost < 0 || k < cost {
				best, cost = at, k
			}
		}
		p.Contents[m].At = best
		c.take(best, size)
	}
	p.sortByPlace()
	p.Chunks = c.chunks()
	return nil
}

// places returns, for each missing content, the offsets at which the byte
// space has it.
func (p *Plan) places(nodes []toc.Node, layout *toc.Layout) *contentPlaces {
	if len(p.Missing) == 0 {
		return &contentPlaces{ends: make([]int32, 1)}
	}
	index := numset.New(len(p.Missing), func(k int32) *Digest { return p.Contents[p.Missing[k]].Digest })
	for k := range p.Missing {
		index.Add(int32(k))
	}
	// Counted first, for most contents have one place, and a list of one for each
	// takes many times its room.
	c := &contentPlaces{ends: make([]int32, len(p.Missing)+1)}
	of := make([]int32, len(nodes)) // which content a place has, None for none
	for i := range nodes {
		of[i] = None
		n := &nodes[i]
		if !n.IsRegular() || layout.Offset[i] < 0 {
			continue
		}
		if k, ok := index.Find(&n.Digest); ok {
			of[i] = k
			c.ends[k+1]++
		}
	}
	for k := range p.Missing {
		c.ends[k+1] += c.ends[k]
	}
	c.at = make([]uint64, c.ends[len(p.Missing)])
	next := slices.Clone(c.ends)
	for i, k := range of {
		if k != None {
			c.at[next[k]] = uint64(layout.Offset[i])
			next[k]++
		}
	}
	return c
}

// contentPlaces are the places of the contents of Plan.Missing, by index in it.
type contentPlaces struct {
	at   []uint64
	ends []int32 // those of k are at[ends[k]:ends[k+1]]
}

func (c *contentPlaces) of(k int) []uint64 { return c.at[c.ends[k]:c.ends[k+1]] }

// cover collects the chunks of a plan.
type cover struct {
	space  *Space
	picked []bool            // by position in the byte space
	have   map[chunk.ID]bool // ids picked, or found to be cached, so far
	cached func(chunk.ID) bool
}

// free reports whether the chunk's bytes are had without a further request.
func (c *cover) free(id chunk.ID) bool {
	if got, ok := c.have[id]; ok {
		return got
	}
	got := c.cached(id)
	c.have[id] = got
	return got
}

// cost returns the stored bytes that [off, off+size) adds to what is picked.
func (c *cover) cost(off, size uint64) int64 {
	var sum int64
	from, to := c.space.span(off, size)
	for i := from; i < to; i++ {
		if !c.free(c.space.spans[i].ID) {
			sum += c.space.spans[i].Stored
		}
	}
	return sum
}

// take picks the chunks of [off, off+size).
func (c *cover) take(off, size uint64) {
	from, to := c.space.span(off, size)
	for i := from; i < to; i++ {
		c.picked[i] = true
		c.have[c.space.spans[i].ID] = true
	}
}

// chunks returns what was picked in the order of the byte space.
func (c *cover) chunks() []Chunk {
	var out []Chunk
	seen := make(map[chunk.ID]bool)
	for i, picked := range c.picked {
		if !picked {
			continue
		}
		s := c.space.spans[i]
		ch := Chunk{Span: s, Offset: c.space.ends[i] - s.Size}
		switch {
		case seen[s.ID]:
			ch.Origin = Repeated
		case c.cached(s.ID):
			ch.Origin = Cached
		}
		seen[s.ID] = true
		out = append(out, ch)
	}
	return out
}
