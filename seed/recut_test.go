package seed

import (
	"bytes"
	"errors"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/ociv2-sync/ociv2-sync/caibx"
	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/toc"
)

func random(n int, source uint64) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(source)}).Read(b)
	return b
}

// cutImage is an image of one file between others, cut as casync cuts it.
func cutImage(t *testing.T, name string, content []byte) image {
	t.Helper()
	nodes := []toc.Node{
		{Mode: toc.TypeDir | 0o755, Link: -1},
		{Name: name, Depth: 1, Mode: toc.TypeRegular | 0o644, Link: -1, Size: int64(len(content)), Digest: digest(string(content))},
	}
	layout, err := toc.NewLayout(nodes)
	if err != nil {
		t.Fatal(err)
	}
	im := image{nodes: nodes, layout: layout, bytes: make([]byte, layout.CatarSize)}
	copy(im.bytes[layout.Offset[1]:], content)
	x := &caibx.Index{FeatureFlags: uint64(toc.ProjectionFlags), Params: chunk.DefaultParams()}
	c, err := chunk.NewChunker(bytes.NewReader(im.bytes), x.Params)
	if err != nil {
		t.Fatal(err)
	}
	var stored []int64
	for {
		b, err := c.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		x.Chunks = append(x.Chunks, caibx.Chunk{End: x.Size() + uint64(len(b)), ID: chunk.SHA512_256.Sum(b)})
		stored = append(stored, int64(len(b)))
	}
	im.space, err = NewSpace(x, nil, stored)
	if err != nil {
		t.Fatal(err)
	}
	return im
}

// A library of 4 MB of which 100 bytes changed costs the chunks that hold
// them, and the first and the last, which hold metadata too.
func TestRecutFindsTheChunksOfOldVersions(t *testing.T) {
	content := random(4<<20, 1)
	im := cutImage(t, "libfoo.so.1.2.4", content)
	changed := slices.Clone(content)
	for i := range 100 {
		changed[2<<20+i] ^= 0xff
	}
	for name, c := range map[string]struct {
		path    string
		old     []byte
		fetched int // chunks at most; 0: all
	}{
		"same place":         {"libfoo.so.1.2.4", changed, 5},
		"older version":      {"usr/lib/libfoo.so.1.2.3", changed, 5},
		"inserted in front":  {"libfoo.so.1.2.4", append(random(1000, 2), changed...), 6},
		"cut off in front":   {"libfoo.so.1.2.4", changed[100_000:], 7},
		"cut off at the end": {"libfoo.so.1.2.4", changed[:3<<20], 30},
		"unlike name":        {"something", changed, 0},
		"nothing in common":  {"libfoo.so.1.2.4", random(4<<20, 3), 0},
		"too short":          {"libfoo.so.1.2.4", changed[:10], 0},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, c.path, string(c.old))
			write(t, dir, "decoy/libfoo-2.so", string(random(1<<20, 4)))
			p, err := Match(t.Context(), im.nodes, []Seed{openDir(t, dir, DirOptions{})}, nil)
			if err == nil {
				err = p.Cover(im.nodes, im.layout, im.space, func(chunk.ID) bool { return false })
			}
			if err == nil {
				err = p.Recut(t.Context(), im.nodes, im.space, nil)
			}
			if err != nil {
				t.Fatal(err)
			}
			all, fetched := len(p.Chunks), p.PerOrigin(Fetched).Chunks
			if c.fetched == 0 && fetched != all || c.fetched > 0 && fetched > c.fetched {
				t.Errorf("%d of %d chunks are fetched, want at most %d", fetched, all, c.fetched)
			}
			if got := p.PerSeed()[0].Chunks; got != all-fetched {
				t.Errorf("the seed counts for %d chunks, want %d", got, all-fetched)
			}
			for _, k := range p.Chunks {
				if k.Origin != Seeded {
					continue
				}
				if b := c.old[k.At:][:k.Size]; k.Path != c.path || chunk.SHA512_256.Sum(b) != k.ID {
					t.Errorf("chunk at %d is not at %s+%d", k.Offset, k.Path, k.At)
				}
			}
		})
	}
}

// What was fetched before is not looked for, and a repeated chunk goes with
// its like.
func TestRecutLeavesCachedChunks(t *testing.T) {
	content := bytes.Repeat(random(300<<10, 1), 4)
	im := cutImage(t, "file", content)
	dir := t.TempDir()
	write(t, dir, "file", string(content[:len(content)-1]))
	for _, cached := range []bool{false, true} {
		p, err := Match(t.Context(), im.nodes, []Seed{openDir(t, dir, DirOptions{})}, nil)
		if err == nil {
			err = p.Cover(im.nodes, im.layout, im.space, func(chunk.ID) bool { return cached })
		}
		if err == nil {
			err = p.Recut(t.Context(), im.nodes, im.space, nil)
		}
		if err != nil {
			t.Fatal(err)
		}
		if n := p.PerOrigin(Seeded).Chunks; (n == 0) != cached {
			t.Errorf("cached %v: %d chunks from the seed", cached, n)
		}
		from := make(map[chunk.ID]Origin)
		for _, k := range p.Chunks {
			if o, ok := from[k.ID]; ok && (o == Seeded) != (k.Origin == Seeded) {
				t.Error("two chunks of one id have two sources")
			}
			from[k.ID] = k.Origin
		}
	}
}

func TestKinship(t *testing.T) {
	for _, group := range [][]string{
		{"usr/lib/libcrypto.so.3", "opt/libcrypto.so.1.1", "libcrypto-1.1.so"},
		{"vmlinuz-6.1.0-13-amd64", "vmlinuz-6.1.0-21-amd64"},
		{"app", "bin/app"},
		{"a/123"},
	} {
		for _, p := range group {
			if a, b := kinship(p), kinship(group[0]); a != b {
				t.Errorf("%s is %q, %s is %q", p, a, group[0], b)
			}
		}
	}
	if kinship("liba.so") == kinship("libb.so") || kinship("1") == kinship("2") {
		t.Error("strangers are kin")
	}
}

// What is found does not depend on what was fetched before: a plan says what the
// pull after it does, and a pull goes on where another was cut.
func TestRecutFindsTheSameBesideCachedChunks(t *testing.T) {
	content := random(3<<20, 1)
	im := cutImage(t, "file", content)
	dir := t.TempDir()
	// The older version lacks a piece, so that no cut of the image is one of it.
	write(t, dir, "file", string(content[:100])+string(content[7000:2<<20])+string(content[2<<20+5000:]))
	seeded := func(cached map[chunk.ID]bool) map[uint64]bool {
		t.Helper()
		p, err := Match(t.Context(), im.nodes, []Seed{openDir(t, dir, DirOptions{})}, nil)
		if err == nil {
			err = p.Cover(im.nodes, im.layout, im.space, func(id chunk.ID) bool { return cached[id] })
		}
		if err == nil {
			err = p.Recut(t.Context(), im.nodes, im.space, nil)
		}
		if err != nil {
			t.Fatal(err)
		}
		at := make(map[uint64]bool)
		for _, c := range p.Chunks {
			if c.Origin == Seeded {
				at[c.Offset] = true
			}
		}
		return at
	}
	want := seeded(nil)
	cached := make(map[chunk.ID]bool)
	for _, c := range im.space.Chunks(0, im.space.Size()) {
		cached[c.ID] = true
		delete(want, c.Offset)
		if got := seeded(cached); !maps.Equal(got, want) {
			t.Errorf("with all up to %d cached: %d chunks found, want %d", c.Offset, len(got), len(want))
		}
	}
}
