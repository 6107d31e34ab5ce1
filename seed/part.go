package seed

import "github.com/ociv2-sync/ociv2-sync/chunk"

// Part says that a content has a chunk of an image, so that whoever has the content
// need not fetch the chunk.
type Part struct {
	// Chunk is the number of the chunk in the byte space.
	Chunk int
	// Base is the index of the content in a list of them, At the offset in it, in
	// bytes.
	Base int
	At   int64
}

// Parts returns the chunks that the plan, with this byte space, takes out of files
// of claimed trees, in order, and the contents that these are, in the order in
// which the parts first name them.
func (p *Plan) Parts(space *Space) (bases []Base, parts []Part) {
	index := make(map[Base]int)
	for i := range p.Chunks {
		k := &p.Chunks[i]
		if k.Origin != Seeded {
			continue
		}
		c, ok := p.Seeds[k.Seed].(*Claim)
		if !ok {
			continue
		}
		n := &c.nodes[c.at[k.Path]]
		b := Base{Size: n.Size}
		copy(b.Prefix[:], n.Digest[:])
		at, ok := index[b]
		if !ok {
			at = len(bases)
			index[b], bases = at, append(bases, b)
		}
		parts = append(parts, Part{Chunk: upper(space.ends, k.Offset), Base: at, At: k.At})
	}
	return bases, parts
}

// Placed are parts that seeds have, by the ids of their chunks.
type Placed map[chunk.ID]place

// Has reports whether a chunk is among them.
func (f Placed) Has(id chunk.ID) bool {
	_, ok := f[id]
	return ok
}

// Place returns those of the parts that the plan's seeds have: places is what Locate
// returned for the bases. It says false if one of the parts cannot be: there is no such
// chunk, or it is longer than what is left of its base.
func (p *Plan) Place(space *Space, bases []Base, parts []Part, places []Place) (Placed, bool) {
	seeds := make(map[Seed]int)
	for i, s := range p.Seeds {
		seeds[s] = i
	}
	found := make(Placed)
	for _, t := range parts {
		if t.Chunk >= len(space.spans) {
			return nil, false
		}
		s := &space.spans[t.Chunk]
		size := bases[t.Base].Size
		if t.At > size || uint64(size-t.At) < s.Size {
			return nil, false
		}
		at := places[t.Base]
		if i, ok := seeds[at.Seed]; ok && (space.known == nil || space.known[t.Chunk]) {
			found[s.ID] = place{base{i, candidate{at.Path, size}}, t.At}
		}
	}
	return found, true
}

// TakeParts makes the chunks of the plan Seeded that are placed, unless better says
// that they are at hand elsewhere.
func (p *Plan) TakeParts(placed Placed, better func(chunk.ID) bool) {
	taken := make(map[chunk.ID]place)
	for i := range p.Chunks {
		id := p.Chunks[i].ID
		if at, ok := placed[id]; ok && !better(id) {
			taken[id] = at
		}
	}
	p.reseed([]map[chunk.ID]place{taken})
}
