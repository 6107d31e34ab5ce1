package seed

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ociv2-sync/ociv2-sync/caibx"
	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/toc"
)

// image is a flat tree with its byte space, cut into chunks of one size.
type image struct {
	nodes  []toc.Node
	layout *toc.Layout
	space  *Space
	bytes  []byte
}

// newImage makes an image of files named 000, 001, … with the given contents,
// and cuts its catar into chunks of size bytes, each stored as half of that.
func newImage(t *testing.T, contents []string, size int) image {
	t.Helper()
	nodes := []toc.Node{{Mode: toc.TypeDir | 0o755, Link: -1}}
	for i, c := range contents {
		nodes = append(nodes, toc.Node{
			Name: fmt.Sprintf("%03d", i), Depth: 1, Mode: toc.TypeRegular | 0o644, Link: -1,
			Size: int64(len(c)), Digest: digest(c),
		})
	}
	layout, err := toc.NewLayout(nodes)
	if err != nil {
		t.Fatal(err)
	}
	im := image{nodes: nodes, layout: layout, bytes: make([]byte, layout.CatarSize)}
	for i, c := range contents {
		if c != "" {
			copy(im.bytes[layout.Offset[i+1]:], c)
		}
	}
	x := &caibx.Index{FeatureFlags: uint64(toc.ProjectionFlags), Params: chunk.Params{Min: 1, Avg: uint64(size), Max: uint64(size)}}
	var stored []int64
	for p := 0; p < len(im.bytes); p += size {
		b := im.bytes[p:min(p+size, len(im.bytes))]
		x.Chunks = append(x.Chunks, caibx.Chunk{End: uint64(p + len(b)), ID: chunk.SHA512_256.Sum(b)})
		stored = append(stored, int64(len(b)/2+1))
	}
	im.space, err = NewSpace(x, nil, stored)
	if err != nil {
		t.Fatal(err)
	}
	return im
}

func digest(s string) Digest { return sha256.Sum256([]byte(s)) }

// check holds a covered plan against its image: every missing content lies,
// whole and right, in the chunks of the plan, in order.
func check(t *testing.T, im image, p *Plan) {
	t.Helper()
	have := make(map[uint64]bool)
	first := make(map[chunk.ID]bool)
	end := uint64(0)
	for _, c := range p.Chunks {
		if c.Offset < end {
			t.Errorf("chunk at %d after one that ends at %d", c.Offset, end)
		}
		end = c.Offset + c.Size
		for k := range c.Size {
			have[c.Offset+k] = true
		}
		if (c.Origin == Repeated) != first[c.ID] {
			t.Errorf("chunk at %d has origin %d, its id came before: %t", c.Offset, c.Origin, first[c.ID])
		}
		first[c.ID] = true
	}
	last := uint64(0)
	for _, m := range p.Missing {
		c := p.Contents[m]
		if c.At < last {
			t.Errorf("content at %d after one at %d", c.At, last)
		}
		last = c.At
		for k := range uint64(c.Size) {
			if !have[c.At+k] {
				t.Fatalf("byte %d of the content at %d is in no chunk", k, c.At)
			}
		}
		if sha256.Sum256(im.bytes[c.At:c.At+uint64(c.Size)]) != *c.Digest {
			t.Errorf("at %d lies another content", c.At)
		}
	}
}

func none(chunk.ID) bool { return false }

// A content that lies at two places is cut from the one whose chunks are
// needed anyway, or are cached.
func TestCoverTakesTheCheaperPlace(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	noise := func(n int) string {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		return string(b)
	}
	twin, needed := noise(300), noise(300)
	contents := []string{twin, noise(20000), needed, twin, noise(20000)}
	im := newImage(t, contents, 4096)
	p, err := Match(t.Context(), im.nodes, []Seed{claimer{contents[1]: "x", contents[4]: "y"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Cover(im.nodes, im.layout, im.space, none); err != nil {
		t.Fatal(err)
	}
	check(t, im, p)
	for _, m := range p.Missing {
		if c := p.Contents[m]; *c.Digest == digest(twin) && c.At != uint64(im.layout.Offset[4]) {
			t.Errorf("the twin is cut from %d, not from %d beside a needed content", c.At, im.layout.Offset[4])
		}
	}
	from, _ := im.space.span(uint64(im.layout.Offset[1]), 300)
	p2, err := Match(t.Context(), im.nodes, []Seed{claimer{contents[1]: "x", contents[2]: "z", contents[4]: "y"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	id := im.space.spans[from].ID
	if err := p2.Cover(im.nodes, im.layout, im.space, func(i chunk.ID) bool { return i == id }); err != nil {
		t.Fatal(err)
	}
	check(t, im, p2)
	if u := p2.PerOrigin(Fetched); u.Chunks != 0 {
		t.Errorf("%d chunks are fetched although a cached one has the content", u.Chunks)
	}
	if u := p2.PerOrigin(Cached); u.Chunks != 1 || u.Bytes != 4096 || u.Wire != 2049 {
		t.Errorf("from the cache: %+v", u)
	}
}

// Whatever the contents and the chunks, the plan covers what is missing, and
// no chunk that nothing needs is in it.
func TestCoverIsCompleteAndTight(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		alphabet := []string{"", "a", "bb", "ccc", string(bytes.Repeat([]byte{0}, 700)), string(bytes.Repeat([]byte("x"), 333)), "dddddddd"}
		contents := rapid.SliceOfN(rapid.SampledFrom(alphabet), 1, 30).Draw(rt, "contents")
		size := rapid.IntRange(16, 600).Draw(rt, "chunk size")
		im := newImage(t, contents, size)
		local := claimer{}
		for _, c := range rapid.SliceOfN(rapid.SampledFrom(alphabet[1:]), 0, 3).Draw(rt, "in the seed") {
			local[c] = "somewhere"
		}
		p, err := Match(t.Context(), im.nodes, []Seed{local}, nil)
		if err != nil {
			rt.Fatal(err)
		}
		if err := p.Cover(im.nodes, im.layout, im.space, none); err != nil {
			rt.Fatal(err)
		}
		check(t, im, p)
		for _, c := range p.Chunks {
			if !slices.ContainsFunc(p.Missing, func(m int32) bool {
				n := p.Contents[m]
				return n.At < c.Offset+c.Size && c.Offset < n.At+uint64(n.Size)
			}) {
				rt.Errorf("no content needs the chunk at %d", c.Offset)
			}
		}
	})
}

func TestCoverRefusesForeignChunks(t *testing.T) {
	a, b := newImage(t, []string{"one"}, 64), newImage(t, []string{"three"}, 64)
	p, err := Match(t.Context(), a.nodes, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Cover(a.nodes, a.layout, b.space, none); !errors.Is(err, ErrSpace) {
		t.Errorf("error %v, want %v", err, ErrSpace)
	}
}

func TestNewSpaceCountsSizes(t *testing.T) {
	x := &caibx.Index{Params: chunk.DefaultParams(), Chunks: []caibx.Chunk{{End: 5}}}
	if _, err := NewSpace(x, nil, []int64{1, 2}); !errors.Is(err, ErrSpace) {
		t.Errorf("error %v, want %v", err, ErrSpace)
	}
	s, err := NewSpace(x, x, []int64{1, 2})
	if err != nil || s.Size() != 10 {
		t.Errorf("two indexes of 5 bytes make %d, %v", s.Size(), err)
	}
}

// A tree that was made from its TOC offers, unread, the files that still look
// as they were made.
func TestTreeOffersUnchangedFiles(t *testing.T) {
	dir := t.TempDir()
	when := time.Unix(1700000000, 123456789)
	write(t, dir, "d/same", "aaaa")
	write(t, dir, "d/touched", "bbbb")
	write(t, dir, "e", "ccccc")
	for _, name := range []string{"d/same", "e"} {
		if err := os.Chtimes(filepath.Join(dir, name), when, when); err != nil {
			t.Fatal(err)
		}
	}
	file := func(depth int, name, content string) toc.Node {
		return toc.Node{
			Name: name, Depth: depth, Mode: toc.TypeRegular | 0o644, Link: -1,
			Size: int64(len(content)), Digest: digest(content), Sec: 1700000000, Nsec: 123456789,
		}
	}
	nodes := []toc.Node{
		{Mode: toc.TypeDir, Link: -1},
		{Name: "d", Depth: 1, Mode: toc.TypeDir, Link: -1},
		file(2, "gone", "gggg"), file(2, "same", "aaaa"), file(2, "touched", "bbbb"),
		file(1, "e", "ccccc"),
	}
	s := NewTree("image app:v1", dir, func() ([]byte, error) { return toc.Marshal(&toc.TOC{Nodes: nodes}) })
	got := find(t, s, "aaaa", "bbbb", "ccccc", "gggg")
	if len(got) != 2 || got["aaaa"] != "d/same" || got["ccccc"] != "e" {
		t.Errorf("found %q", got)
	}
}

// Each seed is asked only for what the ones before it lack.
func TestMatchAsksInOrder(t *testing.T) {
	im := newImage(t, []string{"one", "two", "three", "one"}, 64)
	a, b := claimer{"one": "a1", "two": "a2"}, claimer{"one": "b1", "three": "b3"}
	p, err := Match(t.Context(), im.nodes, []Seed{a, b}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if u := p.PerSeed(); u[0] != (Use{Contents: 2, Bytes: 6}) || u[1] != (Use{Contents: 1, Bytes: 5}) {
		t.Errorf("per seed: %+v", u)
	}
	if len(p.Missing) != 0 {
		t.Errorf("missing: %v", p.Missing)
	}
	if n := p.Contents[0].Nodes; !slices.Equal(n, []int32{1, 4}) {
		t.Errorf("the content of two files is in nodes %v", n)
	}
}
