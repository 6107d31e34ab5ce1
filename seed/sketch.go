package seed

import (
	"fmt"

	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/toc"
)

// NewSketch returns the space of chunks whose ids are not known yet: sizes and
// stored are their lengths in bytes, uncompressed and in the store. Learn adds
// the ids that Unknown asks for.
func NewSketch(alg chunk.Algorithm, params chunk.Params, sizes []uint64, stored []int64) *Space {
	s := &Space{
		Algorithm: alg, Params: params,
		spans: make([]Span, len(sizes)), ends: make([]uint64, len(sizes)), known: make([]bool, len(sizes)),
	}
	var end uint64
	for i, size := range sizes {
		end += size
		s.spans[i] = Span{Size: size, Stored: stored[i]}
		s.ends[i] = end
	}
	return s
}

// Learn gives the chunks from the one at first on their ids.
func (s *Space) Learn(first int, ids []chunk.ID) {
	for i, id := range ids {
		s.spans[first+i].ID = id
		s.known[first+i] = true
	}
}

// Unknown returns the chunks that Cover may choose for the plan and whose ids
// are not known: half-open ranges in ascending order, apart from each other.
func (p *Plan) Unknown(nodes []toc.Node, layout *toc.Layout, space *Space) ([][2]int, error) {
	if err := space.fits(layout); err != nil || space.known == nil {
		return nil, err
	}
	need := make([]bool, len(space.spans))
	p.miss()
	places := p.places(nodes, layout)
	for k, m := range p.Missing {
		for _, off := range places.of(k) {
			from, to := space.span(off, uint64(p.Contents[m].Size))
			for i := from; i < to; i++ {
				need[i] = !space.known[i]
			}
		}
	}
	var runs [][2]int
	for i, needed := range need {
		switch n := len(runs); {
		case !needed:
		case n > 0 && runs[n-1][1] == i:
			runs[n-1][1]++
		default:
			runs = append(runs, [2]int{i, i + 1})
		}
	}
	return runs, nil
}

// Places returns at how many places of the image its missing contents lie, and
// how many bytes they have there.
func (p *Plan) Places(nodes []toc.Node, layout *toc.Layout) (n int, bytes int64) {
	p.miss()
	places := p.places(nodes, layout)
	for k, m := range p.Missing {
		at := len(places.of(k))
		n += at
		bytes += int64(at) * p.Contents[m].Size
	}
	return n, bytes
}

// fits checks that space and layout are of one image.
func (s *Space) fits(layout *toc.Layout) error {
	if size := layout.CatarSize + layout.ExtraSize; s.Size() != size {
		return fmt.Errorf("%w: the chunks make %d bytes, the table of contents %d", ErrSpace, s.Size(), size)
	}
	return nil
}
