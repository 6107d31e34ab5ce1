package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/store"
)

// golden is where casync's chunk files are; gen.sh there made them.
const golden = "../testdata/chunks"

func read(tb testing.TB, name string) []byte {
	tb.Helper()
	b, err := os.ReadFile(filepath.Join(golden, name))
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// noise returns n bytes that do not compress.
func noise(n int) []byte {
	r := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// Casync's chunk files, and one without compression.
func TestUnpackCasync(t *testing.T) {
	want := read(t, "chunk")
	id, size := chunk.SHA512_256.Sum(want), uint64(len(want))
	for _, name := range []string{"chunk-zstd.cacnk", "chunk-xz.cacnk", "chunk-gzip.cacnk"} {
		got, err := store.Unpack(nil, store.Packed{Data: read(t, name)}, chunk.SHA512_256, id, size)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	got, err := store.Unpack(nil, store.Packed{Form: store.Raw, Data: want}, chunk.SHA512_256, id, size)
	if err != nil || !bytes.Equal(got, want) || &got[0] == &want[0] {
		t.Errorf("raw: %q, %v", got, err)
	}
}

func TestPackUnpack(t *testing.T) {
	for _, form := range []store.Compression{store.Zstd, store.XZ, store.Gzip} {
		for _, maxSize := range []uint64{1, 1000, 256 << 10} {
			if form != store.Zstd && maxSize != 256<<10 {
				continue // the others do not look at it
			}
			packer := store.NewPacker(form, maxSize)
			for _, n := range []int{1, 2, 255, 1023, 1024, 1025, 100_000, 128 << 10, 256 << 10, 700_000} {
				for _, b := range [][]byte{noise(n), make([]byte, n), bytes.Repeat([]byte("text "), n/5+1)[:n]} {
					id := chunk.SHA256.Sum(b)
					p := packer.Pack(nil, b)
					if int64(len(p.Data)) > store.MaxPacked(uint64(n)) {
						t.Errorf("%d bytes packed to %d, above MaxPacked", n, len(p.Data))
					}
					got, err := store.Unpack(nil, p, chunk.SHA256, id, uint64(n))
					if err != nil || !bytes.Equal(got, b) {
						t.Errorf("%v, max %d: %d bytes: %v", form, maxSize, n, err)
					}
				}
			}
		}
	}
}

// Everything that is not exactly the chunk is refused, and the error names it.
// Several at a time; one that is wrong is found, whichever it is.
func TestUnpackAll(t *testing.T) {
	data := noise(200_000)
	var want, dst [][]byte
	var packed []store.Packed
	var ids []chunk.ID
	var sizes []uint64
	packer := store.NewPacker(0, 1<<16)
	for n := 1; len(data) > n; n += 3000 {
		want, data = append(want, data[:n]), data[n:]
	}
	for _, b := range want {
		packed, ids, sizes = append(packed, packer.Pack(nil, b)), append(ids, chunk.SHA512_256.Sum(b)), append(sizes, uint64(len(b)))
		dst = append(dst, make([]byte, 5, 10_000))
	}
	if err := store.UnpackAll(dst, packed, chunk.SHA512_256, ids, sizes); err != nil {
		t.Fatal(err)
	}
	for i := range want {
		if !bytes.Equal(dst[i], want[i]) {
			t.Errorf("chunk %d differs", i)
		}
		ids[i][7] ^= 1
		err := store.UnpackAll(dst, packed, chunk.SHA512_256, ids, sizes)
		if !errors.Is(err, store.ErrCorrupt) || !strings.Contains(err.Error(), ids[i].String()) {
			t.Errorf("chunk %d under another id: %v", i, err)
		}
		ids[i][7] ^= 1
	}
}

func TestUnpackRefuses(t *testing.T) {
	b := bytes.Repeat([]byte("chunk "), 1000)
	id, size := chunk.SHA512_256.Sum(b), uint64(len(b))
	good := store.NewPacker(store.Zstd, size).Pack(nil, b).Data
	crc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	withCRC := crc.EncodeAll(b, nil)
	badCRC := slices.Clone(withCRC)
	badCRC[len(badCRC)-1] ^= 1
	skippable := []byte{0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 'x'}
	empty := []byte{0x28, 0xb5, 0x2f, 0xfd, 0x20, 0, 1, 0, 0}
	// Blocks that repeat one byte 128 KiB times, with no content size.
	bomb := append([]byte{0x28, 0xb5, 0x2f, 0xfd, 0, 0x88}, bytes.Repeat([]byte{0x02, 0x00, 0x10, 'x'}, 10_000)...)
	bomb = append(bomb, 0x03, 0x00, 0x10, 'x')

	unpack := func(p store.Packed, size uint64) error {
		_, err := store.Unpack(nil, p, chunk.SHA512_256, id, size)
		return err
	}
	if err := unpack(store.Packed{Data: withCRC}, size); err != nil {
		t.Errorf("with a checksum: %v", err)
	}
	for name, data := range map[string][]byte{
		"nothing": nil, "raw bytes": b, "magic alone": good[:4], "cut short": good[:len(good)-1], "trailing byte": append(slices.Clone(good), 0),
		"two frames": slices.Concat(good, good), "skippable after": slices.Concat(good, skippable), "skippable before": slices.Concat(skippable, good),
		"empty frame": empty, "empty frame before": slices.Concat(empty, good), "wrong checksum": badCRC, "bomb": bomb,
		"another chunk": store.NewPacker(store.Zstd, size).Pack(nil, bytes.Repeat([]byte("CHUNK "), 1000)).Data,
		"a longer one":  store.NewPacker(store.Zstd, size).Pack(nil, append(b[:len(b):len(b)], 'x')).Data,
		"a shorter one": store.NewPacker(store.Zstd, size).Pack(nil, b[:len(b)-1]).Data,
	} {
		if err := unpack(store.Packed{Data: data}, size); !errors.Is(err, store.ErrCorrupt) || !strings.Contains(err.Error(), id.String()) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, wrong := range []uint64{0, 1, size - 1, size + 1, chunk.MaxSize, chunk.MaxSize + 1, 1 << 63, 1<<64 - 1} {
		for _, p := range []store.Packed{{Data: good}, {Form: store.Raw, Data: b}} {
			if err := unpack(p, wrong); !errors.Is(err, store.ErrCorrupt) {
				t.Errorf("as %d bytes: %v", wrong, err)
			}
		}
	}
	wrongRaw := store.Packed{Form: store.Raw, Data: bytes.Repeat([]byte("CHUNK "), 1000)}
	if err := unpack(wrongRaw, size); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("wrong raw bytes: %v", err)
	}
}

// The same for the other compressions: one stream, of the right length.
func TestUnpackRefusesOthers(t *testing.T) {
	b := bytes.Repeat([]byte("chunk "), 1000)
	id, size := chunk.SHA512_256.Sum(b), uint64(len(b))
	for _, form := range []store.Compression{store.XZ, store.Gzip} {
		packer := store.NewPacker(form, size)
		good := packer.Pack(nil, b).Data
		changed := slices.Clone(good)
		changed[len(changed)/2] ^= 1
		for name, data := range map[string][]byte{
			"cut short": good[:len(good)-1], "trailing byte": append(slices.Clone(good), 0), "zeros after": append(slices.Clone(good), 0, 0, 0, 0),
			"twice": slices.Concat(good, good), "changed": changed, "half": good[:len(good)/2], "magic alone": good[:6],
			"another chunk": packer.Pack(nil, bytes.Repeat([]byte("CHUNK "), 1000)).Data,
			"a longer one":  packer.Pack(nil, append(b[:len(b):len(b)], 'x')).Data,
			"a shorter one": packer.Pack(nil, b[:len(b)-1]).Data,
			"a bomb":        packer.Pack(nil, make([]byte, 10<<20)).Data,
		} {
			_, err := store.Unpack(nil, store.Packed{Data: data}, chunk.SHA512_256, id, size)
			if !errors.Is(err, store.ErrCorrupt) || !strings.Contains(err.Error(), id.String()) {
				t.Errorf("%v, %s: %v", form, name, err)
			}
		}
		for _, wrong := range []uint64{0, 1, size - 1, size + 1, chunk.MaxSize} {
			if _, err := store.Unpack(nil, store.Packed{Data: good}, chunk.SHA512_256, id, wrong); !errors.Is(err, store.ErrCorrupt) {
				t.Errorf("%v as %d bytes: %v", form, wrong, err)
			}
		}
	}
}

// Check finds out the size itself.
func TestCheck(t *testing.T) {
	for _, b := range [][]byte{noise(1), noise(100_000), make([]byte, 1<<20)} {
		for _, alg := range []chunk.Algorithm{chunk.SHA512_256, chunk.SHA256} {
			id := alg.Sum(b)
			packed := []store.Packed{{Form: store.Raw, Data: b}}
			for _, form := range []store.Compression{store.Zstd, store.XZ, store.Gzip} {
				packed = append(packed, store.NewPacker(form, uint64(len(b))).Pack(nil, b))
			}
			for _, p := range packed {
				if got, err := store.Check(nil, p, id); err != nil || !bytes.Equal(got, b) {
					t.Errorf("%d bytes: %v", len(b), err)
				}
				if _, err := store.Check(nil, p, chunk.ID{}); !errors.Is(err, store.ErrCorrupt) {
					t.Errorf("another ID: %v", err)
				}
				for n := 0; n < len(p.Data); n += len(p.Data)/20 + 1 {
					if _, err := store.Check(nil, store.Packed{Form: p.Form, Data: p.Data[:n]}, id); !errors.Is(err, store.ErrCorrupt) {
						t.Errorf("cut to %d bytes: %v", n, err)
					}
				}
			}
		}
	}
}

func TestParseCompression(t *testing.T) {
	for _, name := range []string{"zstd", "xz", "gzip", "zstd:1", "zstd:22", "gzip:9"} {
		if c, err := store.ParseCompression(name); err != nil || c.String() != name {
			t.Errorf("%s: %v, %v", name, c, err)
		}
	}
	for _, name := range []string{"lz4", "", "zstd:", "zstd:0", "zstd:23", "zstd:-1", "zstd:3x", "gzip:10", "xz:6"} {
		if c, err := store.ParseCompression(name); err == nil {
			t.Errorf("%q is %v", name, c)
		}
	}
}

// Levels make a difference, and what each of them makes is read.
func TestLevels(t *testing.T) {
	var text bytes.Buffer
	for r := rand.New(rand.NewPCG(1, 2)); text.Len() < 256<<10; {
		fmt.Fprintf(&text, "%x ", r.IntN(1+r.IntN(5000))) // words, some more frequent than others
	}
	b := text.Bytes()
	id := chunk.SHA512_256.Sum(b)
	sizes := make(map[string]int)
	for _, name := range []string{"zstd:1", "zstd", "zstd:3", "zstd:19", "gzip:1", "gzip", "gzip:6", "gzip:9"} {
		c, err := store.ParseCompression(name)
		if err != nil {
			t.Fatal(err)
		}
		p := store.NewPacker(c, uint64(len(b))).Pack(nil, b)
		if got, err := store.Unpack(nil, p, chunk.SHA512_256, id, uint64(len(b))); err != nil || !bytes.Equal(got, b) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
		sizes[name] = len(p.Data)
	}
	if sizes["zstd:1"] <= sizes["zstd"] || sizes["zstd"] != sizes["zstd:3"] || sizes["zstd"] <= sizes["zstd:19"] ||
		sizes["gzip:1"] == sizes["gzip"] || sizes["gzip"] != sizes["gzip:6"] || sizes["gzip"] <= sizes["gzip:9"] {
		t.Errorf("%v", sizes)
	}
}

// Whatever bytes come, Unpack returns the chunk or an error.
func FuzzUnpack(f *testing.F) {
	for _, name := range []string{"chunk-zstd.cacnk", "chunk-xz.cacnk", "chunk-gzip.cacnk"} {
		f.Add(read(f, name), uint32(302))
	}
	f.Add(store.NewPacker(store.Zstd, 1000).Pack(nil, make([]byte, 500)).Data, uint32(500))
	f.Fuzz(func(t *testing.T, data []byte, size uint32) {
		p := store.Packed{Data: data}
		var id chunk.ID
		got, err := store.Unpack(nil, p, chunk.SHA512_256, id, uint64(size))
		if !errors.Is(err, store.ErrCorrupt) || got != nil {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		// Were its digest the right one, it would be a zstd frame to others too.
		d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(8<<20))
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		b, err := d.DecodeAll(data, nil)
		if err != nil || len(b) == 0 {
			return
		}
		got, err = store.Unpack(nil, p, chunk.SHA512_256, chunk.SHA512_256.Sum(b), uint64(len(b)))
		if err == nil && !bytes.Equal(got, b) {
			t.Error("decompressed differently")
		}
	})
}

func BenchmarkUnpack(b *testing.B) {
	raw := append(noise(16<<10), bytes.Repeat([]byte("some text that compresses "), 2000)...)
	id, size := chunk.SHA512_256.Sum(raw), uint64(len(raw))
	p := store.NewPacker(store.Zstd, size).Pack(nil, raw)
	b.SetBytes(int64(size))
	b.ReportAllocs()
	var dst []byte
	for b.Loop() {
		var err error
		if dst, err = store.Unpack(dst, p, chunk.SHA512_256, id, size); err != nil {
			b.Fatal(err)
		}
	}
}

// fake is a store of one chunk.
type fake struct {
	name string
	id   chunk.ID
	err  error
}

func (f *fake) Get(_ context.Context, id chunk.ID, _ int64) (store.Packed, error) {
	if f.err != nil {
		return store.Packed{}, f.err
	}
	if id != f.id {
		return store.Packed{}, store.NotFound(f.name, id)
	}
	return store.Packed{Data: []byte(f.name)}, nil
}

func (f *fake) String() string { return f.name }

func TestChain(t *testing.T) {
	boom := errors.New("boom")
	x, y, z := chunk.ID{1}, chunk.ID{2}, chunk.ID{3}
	c := store.Chain(&fake{name: "a", id: x}, &fake{name: "b", id: y}, &fake{name: "c", id: y})
	for id, want := range map[chunk.ID]string{x: "a", y: "b"} {
		if p, err := c.Get(t.Context(), id, 10); err != nil || string(p.Data) != want {
			t.Errorf("%s: %q, %v", id, p.Data, err)
		}
	}
	if _, err := c.Get(t.Context(), z, 10); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("absent: %v", err)
	}
	if _, err := store.Chain(&fake{err: boom}, &fake{id: x}).Get(t.Context(), x, 10); !errors.Is(err, boom) {
		t.Errorf("a failure was passed over: %v", err)
	}
	if _, err := store.Chain().Get(t.Context(), x, 10); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("no stores: %v", err)
	}
	if c.String() != "a, b, c" {
		t.Errorf("name %q", c)
	}
}

type wrapper struct{ store.Store }

func (w wrapper) Unwrap() store.Store { return w.Store }

type sizer struct{ fake }

func (*sizer) StoredSize(context.Context, chunk.ID) (int64, error) { return 7, nil }

func TestAs(t *testing.T) {
	s := wrapper{wrapper{new(sizer)}}
	if st, ok := store.As[store.Statter](s); !ok || st == nil {
		t.Error("the capability behind two decorators is not found")
	}
	if w, ok := store.As[store.Writer](s); ok || w != nil {
		t.Error("found a capability that is not there")
	}
	if _, ok := store.As[store.Writer](nil); ok {
		t.Error("found a capability of nothing")
	}
}

func TestCheckCorrupt(t *testing.T) {
	b := append(noise(300_000), make([]byte, 50_000)...)
	good := store.NewPacker(0, uint64(len(b))).Pack(nil, b)
	for _, id := range []chunk.ID{chunk.SHA512_256.Sum(b), chunk.SHA256.Sum(b)} {
		for _, p := range []store.Packed{good, {Form: store.Raw, Data: b}} {
			if _, err := store.Check(nil, p, id); err != nil {
				t.Error(err)
			}
		}
		for name, p := range map[string]store.Packed{
			"cut": {Data: good.Data[:len(good.Data)-1]}, "longer": {Data: append(slices.Clone(good.Data), 0)},
			"another": {Form: store.Raw, Data: b[1:]}, "magic": {Data: good.Data[:4]},
			"not compressed": {Data: b}, "nothing": {}, "another, xz": {Data: read(t, "chunk-xz.cacnk")},
		} {
			if _, err := store.Check(nil, p, id); !errors.Is(err, store.ErrCorrupt) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}
