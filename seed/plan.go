package seed

import (
	"cmp"
	"errors"
	"slices"

	"github.com/ociv2-sync/ociv2-sync/internal/numset"
	"github.com/ociv2-sync/ociv2-sync/toc"
)

// None is the index of no seed: the content's bytes are not on the device.
const None = -1

// Content is one distinct content of an image and where it comes from. There may
// be hundreds of thousands, so that the order of the fields leaves no gaps.
type Content struct {
	// Digest is the SHA-256 of the content, which is that of its first node, not a
	// copy; Size is its length, above 0.
	Digest *Digest
	Size   int64
	// Nodes are the nodes of the TOC that hold it, in order, without the
	// followers of hard-link groups. There is at least one.
	Nodes []int32

	// Path is where the seed has it that Seed, an index in Plan.Seeds, says; None
	// if no seed has.
	Path string
	Seed int32

	// Record is the record of the plan's delta that makes the content; None if it
	// does not come from a delta. It means something only while Seed is None.
	Record int32

	// At is the offset in the image's byte space from which the content is
	// cut out of chunks. It means something only while Seed is None, and
	// after Cover.
	At uint64
}

// Chunk is one chunk of the plan: a span of the image's byte space whose bytes
// are needed.
type Chunk struct {
	Span
	// Offset is where the span begins in the byte space.
	Offset uint64
	// Origin says where the chunk's bytes come from.
	Origin Origin
	// Seed, Path and At say where a Seeded chunk is: the index in Plan.Seeds,
	// the path that Open takes, the offset in that file.
	Seed int
	Path string
	At   int64
}

// Origin is where the bytes of a chunk come from.
type Origin uint8

// The origins of a chunk.
const (
	// Fetched: from the repository's chunk store, one request.
	Fetched Origin = iota
	// Cached: an earlier, interrupted pull has fetched it.
	Cached
	// Repeated: an earlier chunk of the same plan has the same id.
	Repeated
	// Seeded: a part of a seed's file has the bytes. Set by Recut.
	Seeded
	// Early: this very pull has fetched it before the plan was complete.
	Early
)

// Plan says where each content of an image comes from, and what has to be
// fetched, exactly.
type Plan struct {
	// Seeds are the seeds that were asked, in the order in which they were.
	Seeds []Seed
	// Contents are the distinct non-empty contents of the image in the order
	// of their first nodes; after Cover, those that are cut out of chunks
	// appear in Missing in the order of their places.
	Contents []Content
	// Missing are the indexes in Contents of those that no seed has and no delta
	// makes.
	Missing []int32
	// Bases are where the bases of the plan's delta are, by their index in it;
	// nil for a plan without a delta.
	Bases []Place
	// Chunks are the chunks that Missing needs, in the order of the byte
	// space. Set by Cover.
	Chunks []Chunk
}

// miss derives Missing from Contents.
func (p *Plan) miss() {
	p.Missing = p.Missing[:0]
	for i := range p.Contents {
		if c := &p.Contents[i]; c.Seed == None && c.Record == None {
			p.Missing = append(p.Missing, int32(i))
		}
	}
}

// Lose takes back what the plan said of a content: the seed did not have it
// after all. Cover must be called again before the plan can be carried out.
func (p *Plan) Lose(content int32) {
	c := &p.Contents[content]
	c.Seed, c.Path = None, ""
}

// Use lets a delta make what no seed has: record returns its record for a
// content, or None, and bases are where its bases are. A nil record takes that
// back. Cover must be called again.
func (p *Plan) Use(record func(content int) int32, bases []Place) {
	p.Bases = bases
	for i := range p.Contents {
		c := &p.Contents[i]
		c.Record = None
		if record != nil && c.Seed == None {
			c.Record = record(i)
		}
	}
	p.miss()
}

// distinct returns the distinct non-empty contents of the nodes, and the numbers that they
// have by their digests.
func distinct(nodes []toc.Node) ([]Content, *numset.Set[Digest]) {
	has := func(n *toc.Node) bool { return n.IsRegular() && n.Size > 0 && n.Link < 0 }
	count := 0
	for i := range nodes {
		if has(&nodes[i]) {
			count++
		}
	}
	firsts := make([]int32, 0, count) // the first node of each content
	of := make([]int32, 0, count)     // the content of each node that has one
	index := numset.New(count, func(k int32) *Digest { return &nodes[firsts[k]].Digest })
	for i := range nodes {
		if !has(&nodes[i]) {
			continue
		}
		next := int32(len(firsts))
		firsts = append(firsts, int32(i))
		k, added := index.Add(next)
		if !added {
			firsts = firsts[:next]
		}
		of = append(of, k)
	}
	counts := make([]int32, len(firsts))
	for _, k := range of {
		counts[k]++
	}
	cs, room := make([]Content, len(firsts)), make([]int32, count)
	for k, n := range counts {
		first := &nodes[firsts[k]]
		cs[k] = Content{Digest: &first.Digest, Size: first.Size, Nodes: room[:0:n], Seed: None, Record: None}
		room = room[n:]
	}
	at := 0
	for i := range nodes {
		if has(&nodes[i]) {
			c := &cs[of[at]]
			c.Nodes = append(c.Nodes, int32(i))
			at++
		}
	}
	return cs, index
}

// Use is what a plan takes from one source.
type Use struct {
	// Contents counts the contents taken from a seed, Chunks the chunks for
	// other contents, Bytes the bytes of both.
	Contents, Chunks int
	Bytes            int64
}

// PerSeed returns what the plan takes from each of its seeds.
func (p *Plan) PerSeed() []Use {
	uses := make([]Use, len(p.Seeds))
	for i := range p.Contents {
		if c := &p.Contents[i]; c.Seed != None {
			uses[c.Seed].Contents++
			uses[c.Seed].Bytes += c.Size
		}
	}
	for i := range p.Chunks {
		if c := &p.Chunks[i]; c.Origin == Seeded {
			uses[c.Seed].Chunks++
			uses[c.Seed].Bytes += int64(c.Size)
		}
	}
	return uses
}

// ChunkUse is what a plan takes from chunks of one origin.
type ChunkUse struct {
	Chunks int
	// Wire is the number of stored (compressed) bytes, Bytes the number of
	// uncompressed ones.
	Wire, Bytes int64
}

// PerOrigin returns what the plan takes from chunks of the given origin.
func (p *Plan) PerOrigin(o Origin) ChunkUse {
	var u ChunkUse
	for i := range p.Chunks {
		if c := &p.Chunks[i]; c.Origin == o {
			u.Chunks++
			u.Wire += c.Stored
			u.Bytes += int64(c.Size)
		}
	}
	return u
}

// ErrSpace means that a byte space and a layout are not those of one image.
var ErrSpace = errors.New("seed: the chunk index does not fit the table of contents")

// sortByPlace orders Missing by the places of the contents.
func (p *Plan) sortByPlace() {
	slices.SortFunc(p.Missing, func(a, b int32) int {
		return cmp.Compare(p.Contents[a].At, p.Contents[b].At)
	})
}

// FromDelta counts the contents that a delta makes, and their bytes.
func (p *Plan) FromDelta() Use {
	var u Use
	for i := range p.Contents {
		if c := &p.Contents[i]; c.Seed == None && c.Record != None {
			u.Contents++
			u.Bytes += c.Size
		}
	}
	return u
}
