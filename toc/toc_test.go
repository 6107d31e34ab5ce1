package toc

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// golden holds trees whose canonical bytes must never change under version 1.
// example is the one that docs/format/toc.md works through.
var golden = map[string]tree{
	"example": {
		".":      dir(0o755),
		"bin":    dir(0o755).with(func(n *Node) { n.Sec = 1_700_000_000 }),
		"bin/sh": file(0o755, "hello\n").with(func(n *Node) { n.Nsec = 5 }),
		"bin/su": {LinkTo: "bin/sh"},
		"etc":    file(0o644, "hello\n").with(func(n *Node) { n.GID = 42 }).xattr("user.k", "v"),
		"lib":    symlink("bin").with(func(n *Node) { n.Sec = -1 }),
	},
	"empty":  {".": dir(0o700)},
	"sample": sample(),
}

func TestGolden(t *testing.T) {
	for name, tr := range golden {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join("testdata", name+".toc")
			got := marshal(t, tr.toc())
			if *update {
				if err := os.WriteFile(file, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("canonical bytes have changed: got\n%s", hex.Dump(got))
			}
		})
	}
}

func TestRoundTrip(t *testing.T) {
	want := sample().toc()
	b := marshal(t, want)
	got, err := Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	for i := range want.Nodes {
		if !sameNode(&got.Nodes[i], &want.Nodes[i]) {
			t.Errorf("node %d: got %+v, want %+v", i, got.Nodes[i], want.Nodes[i])
		}
	}
}

// sameNode compares two nodes, whether nil or empty the attributes.
func sameNode(a, b *Node) bool {
	x, y := *a, *b
	if !equalXAttrs(x.XAttrs, y.XAttrs) {
		return false
	}
	x.XAttrs, y.XAttrs = nil, nil
	return reflect.DeepEqual(x, y)
}

func TestValidate(t *testing.T) {
	at := func(p string, change func(n *Node)) func(*testing.T, *TOC) {
		return func(t *testing.T, x *TOC) { change(&x.Nodes[find(t, x.Nodes, p)]) }
	}
	tests := []struct {
		name, want string
		change     func(*testing.T, *TOC)
	}{
		{"no nodes", "no root", func(_ *testing.T, x *TOC) { x.Nodes = nil }},
		{"root with name", "root has a name", at(".", func(n *Node) { n.Name = "x" })},
		{"root no directory", "root is no directory", at(".", func(n *Node) { n.Mode = TypeFIFO })},
		{"second root", "depth 0", at("empty", func(n *Node) { n.Depth = 0 })},
		{"below a file", "depth 2 after depth 1", at("fifo", func(n *Node) { n.Depth = 2 })},
		{"empty name", `name ""`, at("empty", func(n *Node) { n.Name = "" })},
		{"dot dot", `name ".."`, at("empty", func(n *Node) { n.Name = ".." })},
		{"slash", "slash", at("empty", func(n *Node) { n.Name = "a/b" })},
		{"zero byte", "zero byte", at("empty", func(n *Node) { n.Name = "a\x00b" })},
		{"long name", "name of 256 bytes", at("z-hard3", func(n *Node) { n.Name = strings.Repeat("z", 256) })},
		{"order", "not in order", at("empty", func(n *Node) { n.Name = "zz" })},
		{"duplicate", "not in order", at("fifo-user", func(n *Node) { n.Name = "fifo" })},
		{"type", "type 0150000", at("empty", func(n *Node) { n.Mode = 0o150644 })},
		{"mode bits", "mode", at("empty", func(n *Node) { n.Mode |= 1 << 20 })},
		{"nanoseconds", "nanoseconds", at("empty", func(n *Node) { n.Nsec = 1_000_000_000 })},
		{"negative nanoseconds", "nanoseconds", at("empty", func(n *Node) { n.Nsec = -1 })},
		{"symlink mode", "permissions 0755", at("symlink-xattr", func(n *Node) { n.Mode = TypeSymlink | 0o755 })},
		{"no target", "target empty", at("symlink-xattr", func(n *Node) { n.Target = "" })},
		{"long target", "target empty, too long", at("symlink-xattr", func(n *Node) { n.Target = strings.Repeat("t", 4096) })},
		{"target on file", "target on a node", at("empty", func(n *Node) { n.Target = "t" })},
		{"device on file", "device number on", at("empty", func(n *Node) { n.Minor = 1 })},
		{"major", "device 4096:0", at("whiteout", func(n *Node) { n.Major = 4096 })},
		{"size of fifo", "size 1", at("fifo", func(n *Node) { n.Size = 1 })},
		{"negative size", "size -1", at("empty", func(n *Node) { n.Size = -1 })},
		{"digest of fifo", "without content", at("fifo", func(n *Node) { n.Digest[0] = 1 })},
		{"no digest", "no digest", at("q", func(n *Node) { n.Digest = [32]byte{} })},
		{"empty digest", "disagree", at("q", func(n *Node) { n.Digest = emptyDigest })},
		{"digest of empty", "disagree", at("empty", func(n *Node) { n.Digest[0]++ })},
		{"two sizes", "two sizes", at("dir/ab", func(n *Node) { n.Size++ })},
		{"attribute order", "not in order", at("xattrs", func(n *Node) { slices.Reverse(n.XAttrs) })},
		{"attribute name", "attribute name", at("xattrs", func(n *Node) { n.XAttrs[0].Name = "" })},
		{"attribute size", "of 65537 bytes", at("xattrs", func(n *Node) { n.XAttrs[0].Value = make([]byte, 65537) })},
		{"link forward", "hard link to node", at("dir/hard1", func(n *Node) { n.Link = 200 })},
		{"link to root", "hard link to node 0", at("z-hard3", func(n *Node) { n.Link = 0 })},
		{"link to follower", "to a follower", at("z-hard3", func(n *Node) { n.Link++ })},
		{"link differs", "differs from its leader", at("z-hard3", func(n *Node) { n.UID++ })},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			x := sample().toc()
			tt.change(t, x)
			err := validate(x.Nodes, true)
			if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("validate: %v, want %q", err, tt.want)
			}
			if _, err := Marshal(x); err == nil {
				t.Error("Marshal took it")
			}
		})
	}
}

// TestGoldenProjection holds the catars to what they were when the projection
// was specified: stored images are found again by it.
func TestGoldenProjection(t *testing.T) {
	for name, want := range map[string]string{
		"example": "d4add17b99ebd6f1743a4459d117aae5e0a551c4d763dda62a040a21cda7eb76",
		"empty":   "b2758b5344b8916303423913320e2b63d7fb96f6d6c8bc881c7d6836c638929e",
		"sample":  "a4ce5c18091afb4f10c6fbbf4a0af04dd610c357cd69f3c93bf306e14823d765",
	} {
		if got := sha256.Sum256(catarOf(t, golden[name].source())); hex.EncodeToString(got[:]) != want {
			t.Errorf("the catar of %q has changed to %x", name, got)
		}
	}
}

// TestParseRefusesEveryCut and ...EveryFlip hold the parser to its word: no
// other bytes than the canonical ones stand for a tree.
func TestParseRefusesEveryCut(t *testing.T) {
	b := marshal(t, golden["example"].toc())
	for n := range b {
		if _, err := Parse(b[:n]); !errors.Is(err, ErrInvalid) {
			t.Fatalf("%d of %d bytes: %v", n, len(b), err)
		}
	}
	if _, err := Parse(append(b, 0)); !errors.Is(err, ErrInvalid) {
		t.Fatalf("a byte more: %v", err)
	}
}

func TestParseFlips(t *testing.T) {
	b := marshal(t, golden["example"].toc())
	for i := range b {
		for bit := range 8 {
			c := bytes.Clone(b)
			c[i] ^= 1 << bit
			checkParse(t, c)
		}
	}
}

// checkParse checks that what parses is canonical and what does not says so.
func checkParse(t *testing.T, b []byte) {
	t.Helper()
	x, err := Parse(b)
	if err != nil {
		if !errors.Is(err, ErrInvalid) {
			t.Fatalf("%v is not ErrInvalid", err)
		}
		if _, ok := errors.AsType[*Error](err); !ok {
			t.Fatalf("%v is no *Error", err)
		}
		return
	}
	if !bytes.Equal(marshal(t, x), b) {
		t.Fatal("accepted bytes that are not canonical")
	}
	checkEach(t, b, x.Nodes)
}

// checkEach compares Each with the nodes that Parse made of the same bytes.
func checkEach(t *testing.T, b []byte, nodes []Node) {
	t.Helper()
	i := 0
	err := Each(b, func(n *Node) error {
		want := nodes[i]
		if want.Link >= 0 {
			want = Node{Name: want.Name, Depth: want.Depth, Link: want.Link}
		}
		if !reflect.DeepEqual(*n, want) {
			t.Fatalf("node %d is %+v, want %+v", i, *n, want)
		}
		i++
		return nil
	})
	if err != nil || i != len(nodes) {
		t.Fatalf("%d nodes of %d, %v", i, len(nodes), err)
	}
	if err := Each(b, func(*Node) error { return io.EOF }); !errors.Is(err, io.EOF) {
		t.Fatalf("the error of visit came back as %v", err)
	}
}

func FuzzParse(f *testing.F) {
	files, err := filepath.Glob("testdata/*.toc")
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		_ = Each(b, func(*Node) error { return nil }) // must not panic
		checkParse(t, b)
		if x, err := Parse(b); err == nil {
			if l, err := NewLayout(x.Nodes); err == nil && len(l.Offset) != len(x.Nodes) {
				t.Fatal("layout of another length")
			}
		}
	})
}

func FuzzDecompress(f *testing.F) {
	b, err := Compress(marshal(f, sample().toc()))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(b[:len(b)/2])
	f.Fuzz(func(t *testing.T, b []byte) {
		const limit = 1 << 20
		out, err := Decompress(b, limit)
		if err == nil && len(out) > limit {
			t.Fatalf("%d bytes", len(out))
		}
		if err != nil && !errors.Is(err, ErrInvalid) {
			t.Fatal(err)
		}
	})
}

func TestCompress(t *testing.T) {
	b := marshal(t, sample().toc())
	c, err := Compress(b)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Decompress(c, int64(len(b)))
	if err != nil || !bytes.Equal(got, b) {
		t.Fatalf("Decompress: %v, %d of %d bytes", err, len(got), len(b))
	}
	for _, bad := range []struct {
		name  string
		b     []byte
		limit int64
	}{
		{"over the limit", c, int64(len(b)) - 1},
		{"cut", c[:len(c)-1], math.MaxInt32},
		{"trailing bytes", append(bytes.Clone(c), "more"...), math.MaxInt32},
		{"a flipped bit", append([]byte{c[0] ^ 1}, c[1:]...), math.MaxInt32},
	} {
		if out, err := Decompress(bad.b, bad.limit); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v, %d bytes", bad.name, err, len(out))
		}
	}
}

// TestManyNames checks names that take several blocks of the decoder's.
func TestManyNames(t *testing.T) {
	tr := tree{}
	for i := range 1000 {
		tr[fmt.Sprintf("%04d%s", i, strings.Repeat("n", i%252))] = dir(0o755)
	}
	want := tr.toc()
	got, err := Parse(marshal(t, want))
	if err != nil {
		t.Fatal(err)
	}
	for i := range want.Nodes {
		if got.Nodes[i].Name != want.Nodes[i].Name {
			t.Fatalf("node %d is %q, want %q", i, got.Nodes[i].Name, want.Nodes[i].Name)
		}
	}
}

// TestRandomTrees checks that random trees survive, and that two of them have
// the same bytes only when they are the same.
func TestRandomTrees(t *testing.T) {
	seen := make(map[[32]byte]*TOC)
	rapid.Check(t, func(t *rapid.T) {
		tr := tree{}
		for range rapid.IntRange(0, 12).Draw(t, "nodes") {
			p := strings.Join(rapid.SliceOfN(rapid.SampledFrom([]string{"a", "ab", "abc", "b", "\xff", "a.b"}), 1, 4).Draw(t, "path"), "/")
			tr[p] = drawNode(t)
		}
		for p := range tr {
			// What has children must be a directory.
			for q := p; strings.Contains(q, "/"); {
				q = q[:strings.LastIndexByte(q, '/')]
				tr[q] = dir(0o755)
			}
		}
		want := tr.toc()
		b, err := Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Parse(b)
		if err != nil {
			t.Fatal(err)
		}
		same := func(a, b *TOC) bool {
			return slices.EqualFunc(a.Nodes, b.Nodes, func(x, y Node) bool { return sameNode(&x, &y) })
		}
		if !same(got, want) {
			t.Fatalf("got %+v, want %+v", got, want)
		}
		id := sha256.Sum256(b)
		if other, ok := seen[id]; ok && !same(other, want) {
			t.Fatal("two trees with the same bytes")
		}
		seen[id] = want
	})
}

func drawNode(t *rapid.T) entryOf {
	var e entryOf
	switch rapid.IntRange(0, 4).Draw(t, "type") {
	case 0:
		e = dir(0o755)
	case 1:
		e = symlink(rapid.SampledFrom([]string{"a", "b/c"}).Draw(t, "target"))
	case 2:
		e = entryOf{Node: Node{Mode: TypeBlock, Major: rapid.Uint32Range(0, MaxMajor).Draw(t, "major"), Minor: rapid.Uint32Range(0, MaxMinor).Draw(t, "minor")}}
	default:
		e = file(rapid.Uint32Range(0, 0o7777).Draw(t, "mode"), rapid.SampledFrom([]string{"", "x", "y"}).Draw(t, "content"))
	}
	e.UID, e.GID = rapid.Uint32().Draw(t, "uid"), rapid.Uint32().Draw(t, "gid")
	e.Sec, e.Nsec = rapid.Int64().Draw(t, "sec"), rapid.Int32Range(0, 999_999_999).Draw(t, "nsec")
	if rapid.Bool().Draw(t, "xattr") {
		e = e.xattr("user.a", rapid.String().Draw(t, "value")).xattr("user.b", "")
	}
	return e
}
