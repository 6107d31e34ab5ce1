package caibx_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"testing/iotest"

	"github.com/ociv2-sync/ociv2-sync/caibx"
	"github.com/ociv2-sync/ociv2-sync/chunk"
)

func small(tb testing.TB) []byte {
	tb.Helper()
	b, err := os.ReadFile(filepath.Join(golden, "small.caibx"))
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

func TestLookUp(t *testing.T) {
	x := &caibx.Index{Chunks: []caibx.Chunk{{End: 10}, {End: 11}, {End: 30}}}
	for i, want := range [][2]uint64{{0, 10}, {10, 1}, {11, 19}} {
		if off, size := x.Span(i); off != want[0] || size != want[1] {
			t.Errorf("Span(%d) = %d, %d", i, off, size)
		}
	}
	for off, want := range map[uint64]int{0: 0, 9: 0, 10: 1, 11: 2, 29: 2, 30: 3, 1 << 63: 3} {
		if got := x.Find(off); got != want {
			t.Errorf("Find(%d) = %d, want %d", off, got, want)
		}
	}
	var empty caibx.Index
	if empty.Size() != 0 || empty.Find(0) != 0 {
		t.Errorf("empty index: size %d, Find(0) = %d", empty.Size(), empty.Find(0))
	}
}

// Every field that is wrong is found, at its offset.
func TestReadMalformed(t *testing.T) {
	good := small(t)
	end := len(good)
	u64 := func(off int, v uint64) func([]byte) []byte {
		return func(b []byte) []byte { binary.LittleEndian.PutUint64(b[off:], v); return b }
	}
	for name, tt := range map[string]struct {
		change func([]byte) []byte
		offset int64
	}{
		"header size":         {u64(0, 47), 0},
		"type":                {u64(8, 1), 8},
		"unknown flag":        {u64(16, 1<<61|1<<40), 16},
		"two granularities":   {u64(16, 1<<61|0x28), 16},
		"two id widths":       {u64(16, 1<<61|0x3), 16},
		"acl and permissions": {u64(16, 1<<61|0x2000_0102), 16},
		"acl without ids":     {u64(16, 1<<61|0x2000_0000), 16},
		"read-only and perm.": {u64(16, 1<<61|0x180), 16},
		"subvolume-ro alone":  {u64(16, 1<<61|0x800_0000), 16},
		"nodump and excluded": {u64(16, 1<<63|0x10_0000), 16},
		"min 0":               {u64(24, 0), 24},
		"min above avg":       {u64(24, 1<<20), 24},
		"max above the limit": {u64(40, 1<<28), 24},
		"table size":          {u64(48, 16), 48},
		"table type":          {u64(56, 1), 56},
		"end below start":     {u64(104, 1), 104},
		"end beyond a file":   {u64(104, 1<<63), 104},
		"chunk above max":     {u64(64, 16385), 64},
		"tail: second word":   {u64(end-32, 1), int64(end - 32)},
		"tail: header size":   {u64(end-24, 0), int64(end - 24)},
		"tail: table size":    {u64(end-16, 1), int64(end - 16)},
		"tail: marker":        {u64(end-8, 1), int64(end - 8)},
		"trailing byte":       {func(b []byte) []byte { return append(b, 0) }, int64(end)},
		"a chunk dropped":     {func(b []byte) []byte { return append(b[:end-80], b[end-40:]...) }, int64(end - 56)},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := caibx.Read(bytes.NewReader(tt.change(bytes.Clone(good))))
			e, ok := errors.AsType[*caibx.Error](err)
			if !ok || !errors.Is(err, caibx.ErrMalformed) || e.Offset != tt.offset {
				t.Errorf("error %v, want ErrMalformed at %d", err, tt.offset)
			}
		})
	}
}

func TestReadTruncated(t *testing.T) {
	good := small(t)
	for n := range good {
		_, err := caibx.Read(bytes.NewReader(good[:n]))
		e, ok := errors.AsType[*caibx.Error](err)
		if !ok || !errors.Is(err, io.ErrUnexpectedEOF) || !errors.Is(err, caibx.ErrMalformed) || e.Offset != int64(n) {
			t.Fatalf("%d bytes: %v", n, err)
		}
	}
	boom := errors.New("boom")
	_, err := caibx.Read(io.MultiReader(bytes.NewReader(good[:100]), iotest.ErrReader(boom)))
	if !errors.Is(err, boom) || errors.Is(err, caibx.ErrMalformed) {
		t.Errorf("reader's error became %v", err)
	}
	if _, err := caibx.Read(io.MultiReader(bytes.NewReader(good), iotest.ErrReader(boom))); !errors.Is(err, boom) {
		t.Errorf("reader's error at the end became %v", err)
	}
}

func TestWriteRefuses(t *testing.T) {
	p := chunk.DefaultParams()
	for _, x := range []*caibx.Index{
		{},
		{Params: p, FeatureFlags: 1 << 50},
		{Params: p, Chunks: []caibx.Chunk{{End: 0}}},
		{Params: p, Chunks: []caibx.Chunk{{End: 5}, {End: 5}}},
		{Params: p, Chunks: []caibx.Chunk{{End: p.Max + 1}}},
	} {
		var w bytes.Buffer
		if n, err := x.WriteTo(&w); n != 0 || w.Len() != 0 || !errors.Is(err, caibx.ErrMalformed) {
			t.Errorf("WriteTo(%v) = %d, %v", x, n, err)
		}
	}
}

// A write that fails is reported with what was written, at every length.
func TestWriteFails(t *testing.T) {
	x, err := caibx.Read(bytes.NewReader(small(t)))
	if err != nil {
		t.Fatal(err)
	}
	for len(x.Chunks) < 5000 {
		x.Chunks = append(x.Chunks, caibx.Chunk{End: x.Size() + 1})
	}
	size := 104 + 40*len(x.Chunks)
	for _, room := range []int{0, 1, 70_000, size - 1} {
		w := &limited{room: room}
		if n, err := x.WriteTo(w); !errors.Is(err, errFull) || n != int64(room) {
			t.Errorf("room for %d: WriteTo = %d, %v", room, n, err)
		}
	}
	if n, err := x.WriteTo(&limited{room: size}); err != nil || n != int64(size) {
		t.Errorf("WriteTo = %d, %v; want %d", n, err, size)
	}
}

var errFull = errors.New("full")

type limited struct{ room int }

func (l *limited) Write(b []byte) (int, error) {
	n := min(len(b), l.room)
	l.room -= n
	if n < len(b) {
		return n, errFull
	}
	return n, nil
}

// What parses is written back byte for byte.
func FuzzRead(f *testing.F) {
	for _, name := range []string{"small.caibx", "small-sha256.caibx"} {
		b, err := os.ReadFile(filepath.Join(golden, name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(append(b[:64:64], b[len(b)-40:]...))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		x, err := caibx.Read(bytes.NewReader(b))
		if err != nil {
			if _, ok := errors.AsType[*caibx.Error](err); !ok {
				t.Errorf("error %v has no offset", err)
			}
			return
		}
		if !bytes.Equal(encode(t, x), b) {
			t.Error("written back differently")
		}
		for i := range x.Chunks {
			if off, size := x.Span(i); size == 0 || x.Find(off) != i || x.Find(off+size-1) != i {
				t.Errorf("chunk %d at %d+%d is not found", i, off, size)
			}
		}
	})
}
