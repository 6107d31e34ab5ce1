package delta

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"

	"github.com/andybalholm/brotli"

	"github.com/ociv2-sync/ociv2-sync/internal/deflate"
)

// pack is a brotli stream with a window of 2^window bytes.
func pack(t testing.TB, window int, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := brotli.NewWriterOptions(&out, brotli.WriterOptions{Quality: 5, LGWin: window})
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// packedHead is a head with the given fields after the two digests.
func packedHead(t testing.TB, window int, fields []byte) []byte {
	b := pack(t, window, append(make([]byte, 64), fields...))
	return append(binary.LittleEndian.AppendUint32([]byte(magic), uint32(len(b))), b...)
}

// What a head claims costs no more memory than a table of contents of the size
// that is known would.
func TestHostileHeads(t *testing.T) {
	const limit = 100_000 // bytes of the table of contents
	fields := func(v ...uint64) (b []byte) {
		for _, x := range v {
			b = binary.AppendUvarint(b, x)
		}
		return b
	}
	many := bytes.Repeat([]byte{0}, 150<<20)
	for what, head := range map[string][]byte{
		"large table":        packedHead(t, 22, fields(limit+1, 0, 0, 0, 0, 0, 0, 0)),
		"larger than int64":  packedHead(t, 22, fields(1<<63, 0, 0, 0, 0, 0, 0, 0)),
		"many records":       packedHead(t, 22, append(fields(limit, 0, 0, 0, 0, 0, 0, 200_000), many[:900_000]...)),
		"many bases":         packedHead(t, 22, append(fields(limit, 0, 0, 0, 0, 0, 900_000), many[:900_000]...)),
		"bomb":               packedHead(t, 22, many),
		"large window":       packedHead(t, 24, fields(limit, 0, 0, 0, 0, 0, 0, 0)),
		"length beyond file": append([]byte(magic), 0xff, 0xff, 0xff, 0xff),
		"patch beyond head":  packedHead(t, 22, fields(limit, 1<<40)),
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		h, err := ReadHead(bytes.NewReader(head), limit)
		runtime.ReadMemStats(&after)
		if !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %+v, %v", what, h, err)
		}
		if n := after.TotalAlloc - before.TotalAlloc; n > 16<<20 {
			t.Errorf("%s: %d bytes were allocated", what, n)
		}
	}
}

// A table of contents that would be longer than the head says ends there.
func TestHostilePatch(t *testing.T) {
	h := &Head{TOCSize: 1000}
	for range 100 {
		h.patch[streamAdds] = binary.AppendUvarint(h.patch[streamAdds], 0)
		h.patch[streamInserts] = binary.AppendUvarint(h.patch[streamInserts], 1<<30)
	}
	if _, err := h.PatchTOC(nil); !errors.Is(err, ErrMalformed) {
		t.Error(err)
	}
}

// A gzip record that would make more than its content is cut short, and a base
// that expands without end is not expanded.
func TestGzipBombs(t *testing.T) {
	zeros := strings.Repeat("\x00", 33<<20)
	bomb := gzipped(0x19, zeros)
	from := newTree(t, file{"a.gz", bomb})
	var squares strings.Builder
	for i := range 4000 {
		fmt.Fprintln(&squares, i*i)
	}
	to := newTree(t, file{"a.gz", gzipped(0x19, squares.String())})
	b, _ := makeDelta(t, from, to, MakeOptions{Quality: 2})
	h, err := ReadHead(bytes.NewReader(b), 1<<20)
	if err != nil || h.Bases[0].filter != filterNone {
		t.Fatalf("%v: a base of %d bytes is expanded", err, len(zeros))
	}
	h.Bases[0].filter = filterGunzip // by force
	apply := func(h *Head) (lost error) {
		err := Apply(t.Context(), bytes.NewReader(b[h.Size:]), Job{
			Head: h, Contents: contents(to.TOC.Nodes),
			Base: func(context.Context, int) (BaseReader, error) {
				return memory{bytes.NewReader([]byte(bomb))}, nil
			},
			Output: func(context.Context, int) (Output, error) { return finishFunc(func(err error) { lost = err }), nil },
		})
		if err != nil && !errors.Is(err, ErrMalformed) {
			t.Error(err)
		}
		return lost
	}
	if err := apply(h); !errors.Is(err, ErrBase) {
		t.Errorf("a base that expands too far: %v", err)
	}
	h.Bases[0].filter = filterNone
	if err := apply(h); err != nil {
		t.Error(err)
	}
	h.Records[0].params[0] = 0x14 // another level: a larger file, or another one
	if err := apply(h); !errors.Is(err, ErrContent) {
		t.Errorf("another encoder: %v", err)
	}
	h.Records[0].size = deflate.MaxData + 1
	if err := h.Records[0].known(); !errors.Is(err, ErrMalformed) {
		t.Errorf("too much data: %v", err)
	}
}

// A zip file that says that it has more than there is room for is not expanded,
// and an inflated form that is none costs that content alone.
func TestZipBombs(t *testing.T) {
	bomb := jar(t, strings.Repeat("\x00", 33<<20))
	if _, filter := view([]byte(bomb), maxExpanded); filter != filterNone {
		t.Error("the bomb is expanded")
	}
	from := newTree(t, file{"a", bomb})
	var squares strings.Builder
	for i := range 4000 {
		fmt.Fprintln(&squares, i*i)
	}
	to := newTree(t, file{"a", squares.String()})
	b, _ := makeDelta(t, from, to, MakeOptions{Quality: 2})
	h, err := ReadHead(bytes.NewReader(b), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	apply := func() (lost error) {
		err := Apply(t.Context(), bytes.NewReader(b[h.Size:]), Job{
			Head: h, Contents: contents(to.TOC.Nodes),
			Base: func(context.Context, int) (BaseReader, error) { return memory{bytes.NewReader([]byte(bomb))}, nil },
			Output: func(context.Context, int) (Output, error) {
				return finishFunc(func(err error) { lost = err }), nil
			},
		})
		if err != nil && !errors.Is(err, ErrMalformed) {
			t.Error(err)
		}
		return lost
	}
	h.Bases[0].filter = filterUnzip // by force
	if err := apply(); !errors.Is(err, ErrBase) {
		t.Errorf("a base that expands too far: %v", err)
	}
	h.Bases[0].filter = filterNone
	h.Records[0].method, h.Records[0].params, h.Records[0].size = methodZip, []byte{0x26}, int64(squares.Len())
	if err := apply(); err == nil {
		t.Error("text is taken for an inflated form")
	}
	h.Records[0].size = deflate.MaxData + 1
	if err := h.Records[0].known(); !errors.Is(err, ErrMalformed) {
		t.Errorf("too much data: %v", err)
	}
}

// finishFunc throws a content away.
type finishFunc func(error)

func (f finishFunc) Write(p []byte) (int, error) { return len(p), nil }
func (f finishFunc) Finish(err error) error      { f(err); return nil }

// A stream whose window is larger than the format allows is refused before it
// takes the memory.
func TestWindows(t *testing.T) {
	for window := 10; window <= 24; window++ {
		if got := windowOf(pack(t, window, []byte(noise(1, 1<<16)))[0]); got != window {
			t.Errorf("window %d is taken for %d", window, got)
		}
	}
	if windowOf(0x11) <= 24 {
		t.Error("the large window of later versions is taken for a small one")
	}
	adds := pack(t, 18, []byte{1})
	group := binary.AppendUvarint(nil, uint64(len(adds)))
	group = append(append(group, 0, 0, 0, 0), adds...)
	err := Apply(t.Context(), bytes.NewReader(group), Job{
		Head: &Head{Records: []Record{{}}}, Contents: []Content{{Size: 1}},
		Output: func(context.Context, int) (Output, error) { return nil, nil },
	})
	if !errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), "window") {
		t.Error(err)
	}
}

// Large contents are spread over groups so that what waits for another stream
// stays small, and groups hold every value in its order.
func TestGroupsAreEven(t *testing.T) {
	var out bytes.Buffer
	w := newGroupWriter(&out, 2)
	var want [streams][]byte
	for k, sizes := range [][streams]int{{10, 10, 10, 10, 10}, {10000, 10000, 10000, 7 << 20, 9 << 20}} {
		var s script
		for i := range s {
			s[i] = []byte(noise(uint64(i+k), sizes[i]))
			want[i] = append(want[i], s[i]...)
		}
		if err := w.add(&s); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.flush(true); err != nil {
		t.Fatal(err)
	}
	groups, in := newSources(bytes.NewReader(out.Bytes()))
	for range 10 { // all streams at one pace
		for i := range want {
			b := make([]byte, len(want[i])/10)
			if _, err := io.ReadFull(in[i], b); err != nil || !bytes.HasPrefix(want[i], b) {
				t.Fatalf("stream %d: %v", i, err)
			}
			want[i] = want[i][len(b):]
		}
		if groups.queued > 8<<20 {
			t.Errorf("%d bytes wait", groups.queued)
		}
	}
}
