package translate

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"pgregory.net/rapid"

	"github.com/ociv2-sync/ociv2-sync/internal/testutil"
	"github.com/ociv2-sync/ociv2-sync/toc"
)

// memTree is a tree whose file contents are their own names.
func memTree(nodes ...toc.Node) *toc.Source {
	root := toc.Node{Mode: toc.TypeDir | 0o751, UID: 1, Link: -1}
	src := &toc.Source{Nodes: append([]toc.Node{root}, nodes...), Close: func() error { return nil }}
	for i := range src.Nodes {
		n := &src.Nodes[i]
		if n.Depth == 0 && i > 0 {
			n.Depth = 1
		}
		if n.IsRegular() {
			content := []byte(src.Nodes[max(i, 0)].Name)
			if n.Link >= 0 {
				content = []byte(src.Nodes[n.Link].Name)
			}
			n.Size, n.Digest = int64(len(content)), sha256.Sum256(content)
		}
	}
	src.Open = func(_ context.Context, i int) (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader(src.Nodes[i].Name)), nil
	}
	return src
}

func writeLayer(t testing.TB, src *toc.Source) (layer []byte, omitted []int) {
	t.Helper()
	var b bytes.Buffer
	omitted, err := WriteLayer(t.Context(), src, &b)
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), omitted
}

// extremes are nodes with what is hard to put into a tar.
func extremes() *toc.Source {
	file := func(name string, set func(*toc.Node)) toc.Node {
		n := toc.Node{Name: name, Mode: toc.TypeRegular | 0o644, Link: -1}
		set(&n)
		return n
	}
	at := func(sec int64, nsec int32) func(*toc.Node) {
		return func(n *toc.Node) { n.Sec, n.Nsec = sec, nsec }
	}
	nodes := []toc.Node{
		file("\x01\n\xff", func(n *toc.Node) { n.Mode = toc.TypeRegular | 0o7777 }),
		file("id", func(n *toc.Node) { n.UID, n.GID = math.MaxUint32, maxTarID+1 }),
		file("id-fits", func(n *toc.Node) { n.UID, n.GID = maxTarID, maxTarID }),
		file("n"+strings.Repeat("n", 98), at(1, 0)),
		file("n"+strings.Repeat("n", 99), at(1, 0)),
		file("n"+strings.Repeat("n", 100), at(1, 0)),
		file("n"+strings.Repeat("n", 254), at(1, 0)),
		file("t0", at(maxTarLarge, 0)), file("t1", at(maxTarLarge+1, 0)), file("t2", at(1, 1)),
		file("t3", at(-1, 0)), file("t4", at(-2, 500_000_000)), file("t5", at(-62135596800, 0)),
		file("t6", at(-9_000_000_000_000_000_000, 1)), file("t7", at(9_000_000_000_000_000_000, 999_999_999)), file("t8", at(-1, 500_000_000)),
		file("x", func(n *toc.Node) {
			n.XAttrs = []toc.XAttr{
				{Name: "security.capability", Value: []byte("\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")},
				{Name: "trusted.overlay.opaque", Value: []byte("y")},
				{Name: "user.=a%= \xff", Value: []byte("\x00=\n")},
				{Name: "user.big", Value: bytes.Repeat([]byte{0}, toc.MaxXAttrValue)},
				{Name: "user.empty", Value: []byte{}},
			}
		}),
		{Name: "y", Mode: toc.TypeSymlink | 0o777, Target: strings.Repeat("/t", 2000), Link: -1, XAttrs: []toc.XAttr{{Name: "trusted.x", Value: []byte("v")}}},
		{Name: "z", Mode: toc.TypeBlock | 0o600, Major: toc.MaxMajor, Minor: toc.MaxMinor, Link: -1},
		{Name: "z1", Mode: toc.TypeFIFO | 0o600, Link: -1},
		{Name: "z2", Mode: toc.TypeFIFO | 0o600, Link: 20},
	}
	return memTree(nodes...)
}

func TestWriteLayerRoundTrip(t *testing.T) {
	src := extremes()
	layer, omitted := writeLayer(t, src)
	if len(omitted) > 0 {
		t.Errorf("left out: %v", omitted)
	}
	got := merge(t, newImage(t, plainLayer(layer)))
	if len(got) != len(src.Nodes) {
		t.Fatalf("%d nodes, want %d", len(got), len(src.Nodes))
	}
	for i, n := range src.Nodes {
		if fmt.Sprintf("%+v", n) != fmt.Sprintf("%+v", got[i]) {
			t.Errorf("want %+v\ngot  %+v", n, got[i])
		}
	}
	again, _ := writeLayer(t, extremes())
	if !bytes.Equal(layer, again) {
		t.Error("the same tree gives other bytes")
	}
}

// Any tree that layers make comes back from one layer, and that is the same for
// all images of the tree.
func TestWriteLayerProperty(t *testing.T) {
	tmp := t.TempDir()
	export := func(rt *rapid.T, img *memImage) ([]byte, []toc.Node) {
		s, err := Merge(t.Context(), img, MergeOptions{TempDir: tmp})
		if err != nil {
			rt.Fatal(err)
		}
		defer s.Close()
		var b bytes.Buffer
		if omitted, err := WriteLayer(t.Context(), s, &b); err != nil || len(omitted) > 0 {
			rt.Fatal(omitted, err)
		}
		return b.Bytes(), s.Nodes
	}
	rapid.Check(t, func(rt *rapid.T) {
		items := drawTree(rt)
		a, want := export(rt, newImage(t, plainLayer(tarOf(t, items...))))
		b, _ := export(rt, relayer(rt, t, items))
		c, got := export(rt, newImage(t, plainLayer(a)))
		if !bytes.Equal(a, b) || !bytes.Equal(a, c) {
			rt.Fatalf("three exports differ; want\n%sgot\n%s", sketch(want), sketch(got))
		}
	})
}

func TestWriteLayerLeavesOut(t *testing.T) {
	src := memTree(
		toc.Node{Name: ".wh.a", Mode: toc.TypeRegular | 0o644, Link: -1},
		toc.Node{Name: ".wh.d", Mode: toc.TypeDir | 0o755, Link: -1},
		toc.Node{Name: "below", Depth: 2, Mode: toc.TypeRegular | 0o644, Link: -1},
		toc.Node{Name: "b", Mode: toc.TypeRegular | 0o644, Link: 1},
		toc.Node{Name: "c", Mode: toc.TypeRegular | 0o644, Link: 1},
		toc.Node{Name: "s", Mode: toc.TypeSocket | 0o644, Link: -1},
	)
	layer, omitted := writeLayer(t, src)
	if want := []int{1, 2, 6}; !slices.Equal(omitted, want) {
		t.Errorf("left out %v, want %v", omitted, want)
	}
	// The content of the first name is under the second.
	got := merge(t, newImage(t, plainLayer(layer)))
	if len(got) != 3 || got[1].Name != "b" || got[1].Size != 5 || got[2].Link != 1 {
		t.Errorf("got %s", sketch(got))
	}
}

func TestWriteLayerChecksContents(t *testing.T) {
	src := memTree(toc.Node{Name: "file", Mode: toc.TypeRegular | 0o644, Link: -1})
	src.Open = func(context.Context, int) (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("fake")), nil }
	if _, err := WriteLayer(t.Context(), src, io.Discard); !errors.Is(err, toc.ErrContent) {
		t.Errorf("error %v, want %v", err, toc.ErrContent)
	}
}

// TestWriteLayerGolden pins the bytes: a change makes other digests of every image that
// is exported, and must be meant.
func TestWriteLayerGolden(t *testing.T) {
	layer, _ := writeLayer(t, extremes())
	const want = "sha256:bb6838745194aa1832e85d6fb80ee4475d772ee29747bea512c46ce7a2776a07"
	if got := digest.FromBytes(layer); got != want {
		t.Errorf("layer %s, want %s", got, want)
	}
}

// GNU tar sees in a layer what we do.
func TestWriteLayerGNUTar(t *testing.T) {
	testutil.Need(t, "tar")
	layer, _ := writeLayer(t, extremes())
	cmd := exec.CommandContext(t.Context(), "tar", "--list", "--verbose", "--numeric-owner", "--full-time", "--quoting-style=c")
	cmd.Env = append(cmd.Environ(), "TZ=UTC", "LC_ALL=C")
	cmd.Stdin = bytes.NewReader(layer)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, stderr.Bytes())
	}
	for _, want := range []string{
		`drwxr-x--x 1/0 `, `-rwsrwsrwt 0/0 `, `"\001\n\377"`, `-rw-r--r-- 4294967295/2097152 `,
		`1969-12-31 23:59:59           "t3"`, `1970-01-01 00:00:01.000000001 "t2"`, "4095,1048575 ", ` "z2" link to "z1"`,
		strings.Repeat("n", 255), strings.Repeat("/t", 2000),
	} {
		if !strings.Contains(string(out), want) {
			t.Errorf("no %s in\n%s", want, out)
		}
	}
	if strings.Count(stderr.String(), "\n") != 1 || !strings.Contains(stderr.String(), "keyword 'LIBARCHIVE.xattr.") {
		t.Errorf("tar says %s", stderr.Bytes())
	}
}

func TestLayerConfig(t *testing.T) {
	config := `{"architecture":"arm64","config":{"Cmd":["x"],"odd":1e3},"history":[{}],"os":"linux","rootfs":{"type":"layers","diff_ids":["sha256:aa"]},"z":null}`
	want := `{"architecture":"arm64","config":{"Cmd":["x"],"odd":1e3},"os":"linux","rootfs":{"type":"layers","diff_ids":["sha256:bb"]},"z":null}`
	got, err := LayerConfig([]byte(config), "sha256:bb")
	if err != nil || string(got) != want {
		t.Errorf("%s, %v", got, err)
	}
	for _, bad := range []string{"", "null", "[]", `{"a":`} {
		if _, err := LayerConfig([]byte(bad), "sha256:bb"); !errors.Is(err, ErrMalformed) {
			t.Errorf("%q: error %v", bad, err)
		}
	}
}
