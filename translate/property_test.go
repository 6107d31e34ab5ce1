package translate

import (
	"archive/tar"
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"pgregory.net/rapid"

	"github.com/ociv2-sync/ociv2-sync/internal/inflate"
	"github.com/ociv2-sync/ociv2-sync/toc"
)

// drawTree draws a tree as one layer would write it: parents first, a hard link
// after its target.
func drawTree(t *rapid.T) []item {
	dirs, files := []string{""}, []string(nil)
	var items []item
	names := rapid.SampledFrom([]string{"a", "b", "a.b", "a-b", "B", "\xff\xfe", "ü", strings.Repeat("n", 120), "x y"})
	used := map[string]bool{}
	root := item{tar.Header{Typeflag: tar.TypeDir, Name: "./"}, ""}
	items = append(items, dress(t, root))
	for range rapid.IntRange(0, 25).Draw(t, "nodes") {
		p := path.Join(rapid.SampledFrom(dirs).Draw(t, "dir"), names.Draw(t, "name"))
		if used[p] {
			continue
		}
		used[p] = true
		var it item
		it.h.Name = p
		switch kind := rapid.IntRange(0, 9).Draw(t, "kind"); {
		case kind < 3:
			it.h.Typeflag, it.h.Name = tar.TypeDir, p+"/"
			dirs = append(dirs, p)
		case kind == 3:
			it.h.Typeflag, it.h.Linkname = tar.TypeSymlink, rapid.SampledFrom([]string{"a", "/a/b", "../..", "none"}).Draw(t, "target")
		case kind == 4:
			it.h.Typeflag, it.h.Devmajor, it.h.Devminor = tar.TypeChar, 5, 1
		case kind == 5 && len(files) > 0:
			it.h.Typeflag, it.h.Linkname = tar.TypeLink, rapid.SampledFrom(files).Draw(t, "linked")
			items = append(items, it)
			continue
		default:
			it.h.Typeflag = tar.TypeReg
			it.body = rapid.SampledFrom([]string{"", "x", "other", strings.Repeat("long", 700)}).Draw(t, "body")
			files = append(files, p)
		}
		items = append(items, dress(t, it))
	}
	return items
}

// dress draws the metadata of an entry.
func dress(t *rapid.T, it item) item {
	it.h.Mode = int64(rapid.SampledFrom([]int{0o644, 0o755, 0o4755, 0o1777, 0}).Draw(t, "mode"))
	it.h.Uid = rapid.SampledFrom([]int{0, 1000, 1<<21 + 1, 1<<32 - 2}).Draw(t, "uid")
	it.h.Gid = rapid.SampledFrom([]int{0, 50, 65535}).Draw(t, "gid")
	sec := rapid.SampledFrom([]int64{0, 1_600_000_000, -1, 1 << 35}).Draw(t, "sec")
	it.h.ModTime = time.Unix(sec, rapid.SampledFrom([]int64{0, 0, 1, 999_999_999}).Draw(t, "nsec"))
	if rapid.IntRange(0, 3).Draw(t, "xattr") == 0 {
		it.h.PAXRecords = map[string]string{"SCHILY.xattr.user.b": "2", "SCHILY.xattr.trusted.a": "\x00\xff"}
	}
	return it
}

// swapLeaders makes another name of each hard-link group the one with the data.
func swapLeaders(t *rapid.T, items []item) []item {
	items = slices.Clone(items)
	for i := range items {
		if items[i].h.Typeflag != tar.TypeLink || !rapid.Bool().Draw(t, "swap") {
			continue
		}
		leader := slices.IndexFunc(items, func(o item) bool { return o.h.Name == items[i].h.Linkname })
		was, is := items[leader].h.Name, items[i].h.Name
		items[i], items[leader] = items[leader], items[i]
		items[i].h.Name, items[leader].h.Name = is, was
		for j := range items {
			if items[j].h.Typeflag == tar.TypeLink && items[j].h.Linkname == was {
				items[j].h.Linkname = is
			}
		}
	}
	return items
}

// relayer spreads a tree over layers, with things in the lower ones that the
// upper ones remove or replace, in any order, dialect and compression.
func relayer(t *rapid.T, tb testing.TB, items []item) *memImage {
	items = swapLeaders(t, items)
	n := rapid.IntRange(1, 4).Draw(t, "layers")
	layers := make([][]item, n+1) // the lowest has only what is gone later
	of := map[string]int{}
	inGroup := map[string]bool{}
	for _, it := range items {
		if it.h.Typeflag == tar.TypeLink {
			inGroup[it.h.Linkname], inGroup[it.h.Name] = true, true
		}
	}
	place := func(it item, lowest int) {
		i := rapid.IntRange(lowest, n).Draw(t, "layer")
		of[it.h.Name] = i
		layers[i] = append(layers[i], it)
		if i == 0 || inGroup[it.h.Name] || it.h.Name == "./" || rapid.IntRange(0, 2).Draw(t, "decoy") > 0 {
			return
		}
		// Something else under that name, lower down.
		decoy := file(strings.TrimSuffix(it.h.Name, "/"), "decoy")
		if it.h.Typeflag == tar.TypeDir {
			i = 1 // above the decoy would be what the directory holds
		} else if rapid.Bool().Draw(t, "decoy is a tree") {
			decoy.h.Name += "/decoy/below"
		}
		layers[i-1] = append(layers[i-1], decoy)
	}
	for _, it := range items {
		if it.h.Typeflag != tar.TypeLink {
			place(it, 1)
		}
	}
	for _, it := range items {
		if it.h.Typeflag == tar.TypeLink {
			place(it, of[it.h.Linkname])
		}
	}
	for i, it := range items {
		if it.h.Typeflag != tar.TypeDir || rapid.IntRange(0, 2).Draw(t, "junk") > 0 {
			continue
		}
		junk := path.Join(it.h.Name, fmt.Sprintf("junk%d", i))
		layers[0] = append(layers[0], file(junk+"/x", "junk"))
		whiteout := path.Join(it.h.Name, ".wh..wh..opq")
		if rapid.Bool().Draw(t, "whiteout") {
			whiteout = path.Join(path.Dir(junk), ".wh."+path.Base(junk))
		}
		layers[1] = append(layers[1], file(whiteout, ""))
	}
	var out []stored
	for _, l := range layers {
		l = rapid.Permutation(l).Draw(t, "order")
		for i := range l {
			if rapid.Bool().Draw(t, "dialect") {
				l[i] = rewrite(t, l[i])
			}
		}
		switch raw := tarOf(tb, l...); rapid.IntRange(0, 2).Draw(t, "compression") {
		case 0:
			out = append(out, plainLayer(raw))
		case 1:
			out = append(out, gzipLayer(tb, raw))
		default:
			out = append(out, zstdLayer(tb, raw))
		}
	}
	return newImage(tb, out...)
}

// rewrite says the same entry in other words: another format where it can hold
// all, another way to write the name.
func rewrite(t *rapid.T, it item) item {
	it.h.Name = rapid.SampledFrom([]string{"", "./", "/", ".//"}).Draw(t, "prefix") + it.h.Name
	if it.h.Typeflag == tar.TypeLink {
		it.h.Linkname = rapid.SampledFrom([]string{"", "./", "/"}).Draw(t, "link prefix") + it.h.Linkname
	}
	if len(it.h.PAXRecords) == 0 && it.h.ModTime.Nanosecond() == 0 {
		it.h.Format = tar.FormatGNU
	}
	return it
}

func TestMergeIsCanonical(t *testing.T) {
	tmp := t.TempDir()
	digestOf := func(rt *rapid.T, img *memImage) ([]byte, []toc.Node) {
		s, err := Merge(t.Context(), img, MergeOptions{TempDir: tmp})
		if err != nil {
			rt.Fatal(err)
		}
		defer s.Close()
		b, err := toc.Marshal(&toc.TOC{Nodes: s.Nodes})
		if err != nil {
			rt.Fatal(err)
		}
		return b, s.Nodes
	}
	rapid.Check(t, func(rt *rapid.T) {
		items := drawTree(rt)
		a, want := digestOf(rt, newImage(t, plainLayer(tarOf(t, items...))))
		b, got := digestOf(rt, relayer(rt, t, items))
		if !bytes.Equal(a, b) {
			rt.Fatalf("one layer gives\n%sanother way\n%s", sketch(want), sketch(got))
		}
	})
}

// diffID is the digest of what a blob unpacks to, as far as it does.
func diffID(mediaType string, blob []byte) digest.Digest {
	var r io.Reader = inflate.NewReader(bufio.NewReader(bytes.NewReader(blob)))
	if mediaType == dockerLayerZstd {
		d, err := zstd.NewReader(bytes.NewReader(blob), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(8<<20))
		if err != nil {
			return digest.FromBytes(nil)
		}
		defer d.Close()
		r = d
	}
	h := digest.Canonical.Digester()
	if _, err := io.CopyN(h.Hash(), r, 8<<20); err != nil {
		return h.Digest() // how it ended is for Merge to say
	}
	return h.Digest()
}

// FuzzLayer reads hostile layers: no panic, no error but one that blames the
// layer, and what is accepted is a valid tree.
func FuzzLayer(f *testing.F) {
	for _, tc := range mergeRules {
		for _, items := range tc.layers {
			f.Add(tarOf(f, items...), uint8(0))
		}
	}
	raw := tarOf(f, nodeItems()...)
	f.Add(raw, uint8(0))
	f.Add(gzipLayer(f, raw).blob, uint8(1))
	f.Add(zstdLayer(f, raw).blob, uint8(2))
	types := []string{dockerLayer, dockerLayerGzip, dockerLayerZstd}
	tmp := f.TempDir()
	base := plainLayer(tarOf(f, file("a", "1"), dir("d"), file("d/x", "2"), symlink("s", "d"), link("h", "a")))
	f.Fuzz(func(t *testing.T, blob []byte, compression uint8) {
		img := newImage(t, base, stored{types[int(compression)%3], blob, blob})
		if mt := img.info.Layers[1].MediaType; mt != dockerLayer {
			img.info.Layers[1].DiffID = diffID(mt, blob)
		}
		s, err := Merge(t.Context(), img, MergeOptions{TempDir: tmp, Limits: Limits{Bytes: 8 << 20, Entries: 5000}})
		if err != nil {
			if le, ok := errors.AsType[*LayerError](err); !ok || le.Index != 1 {
				t.Fatalf("%v blames the wrong", err)
			}
			return
		}
		defer s.Close()
		if err := (&toc.TOC{Nodes: s.Nodes}).Validate(); err != nil {
			t.Fatal(err)
		}
	})
}
