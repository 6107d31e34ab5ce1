package casyncproto_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"testing/iotest"

	"go.uber.org/goleak"

	"github.com/ociv2-sync/ociv2-sync/caibx"
	"github.com/ociv2-sync/ociv2-sync/chunk"
	. "github.com/ociv2-sync/ociv2-sync/internal/casyncproto"
	"github.com/ociv2-sync/ociv2-sync/internal/ingest"
	"github.com/ociv2-sync/ociv2-sync/store"
	"github.com/ociv2-sync/ociv2-sync/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pair returns the two sides of a conversation over pipes of the system, and the
// pipe to the far side.
func pair(t *testing.T) (near, far *Conn, toFar io.Writer) {
	t.Helper()
	r1, w1, err1 := os.Pipe()
	r2, w2, err2 := os.Pipe()
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	near = NewConn(r1, w2, func() error { return errors.Join(r1.Close(), w2.Close()) })
	far = NewConn(r2, w1, func() error { return errors.Join(r2.Close(), w1.Close()) })
	t.Cleanup(func() { _, _ = near.Close(), far.Close() })
	return near, far, w2
}

// frame returns the bytes of a frame.
func frame(t Type, parts ...[]byte) []byte {
	body := bytes.Join(parts, nil)
	b := binary.LittleEndian.AppendUint64(nil, uint64(16+len(body)))
	return append(binary.LittleEndian.AppendUint64(b, uint64(t)), body...)
}

func u64(n uint64) []byte { return binary.LittleEndian.AppendUint64(nil, n) }

// reading returns a conversation in which b has come, and what we say is lost.
func reading(b []byte) *Conn {
	return NewConn(bytes.NewReader(b), io.Discard, func() error { return nil })
}

// Frames of every wrong shape are refused.
func TestMalformed(t *testing.T) {
	id := bytes.Repeat([]byte{7}, 32)
	decode := map[Type]func(Frame) error{
		TypeHello:   func(f Frame) error { _, err := f.Hello(); return err },
		TypeRequest: func(f Frame) error { _, _, err := f.Request(); return err },
		TypeChunk:   func(f Frame) error { _, _, _, err := f.Chunk(); return err },
		TypeMissing: func(f Frame) error { _, err := f.Missing(); return err },
		TypeGoodbye: Frame.Empty,
	}
	for name, c := range map[string]struct {
		b    []byte
		want error
		as   Type
	}{
		"nothing":               {nil, io.EOF, 0},
		"part of a header":      {frame(TypeGoodbye)[:9], io.ErrUnexpectedEOF, 0},
		"a cut body":            {frame(TypeHello, u64(1))[:20], io.ErrUnexpectedEOF, 0},
		"a header alone":        {frame(TypeHello, u64(1))[:16], io.ErrUnexpectedEOF, 0},
		"too short":             {append(u64(15), u64(uint64(TypeGoodbye))...), ErrProtocol, 0},
		"length 0":              {append(u64(0), u64(uint64(TypeGoodbye))...), ErrProtocol, 0},
		"too long":              {append(u64(MaxFrame+1), u64(uint64(TypeChunk))...), ErrProtocol, 0},
		"endless":               {append(u64(1<<64-1), u64(uint64(TypeChunk))...), ErrProtocol, 0},
		"unknown type":          {frame(42), ErrProtocol, 0},
		"HELLO of 7 bytes":      {frame(TypeHello, id[:7]), ErrProtocol, TypeHello},
		"HELLO of 16 bytes":     {frame(TypeHello, u64(0), u64(0)), ErrProtocol, TypeHello},
		"HELLO, unknown flag":   {frame(TypeHello, u64(1<<13)), ErrProtocol, TypeHello},
		"REQUEST of nothing":    {frame(TypeRequest, u64(1)), ErrProtocol, TypeRequest},
		"REQUEST of half an id": {frame(TypeRequest, u64(1), id, id[:16]), ErrProtocol, TypeRequest},
		"REQUEST, unknown flag": {frame(TypeRequest, u64(2), id), ErrProtocol, TypeRequest},
		"REQUEST, no flags":     {frame(TypeRequest), ErrProtocol, TypeRequest},
		"CHUNK of nothing":      {frame(TypeChunk, u64(1), id), ErrProtocol, TypeChunk},
		"CHUNK, unknown flag":   {frame(TypeChunk, u64(2), id, id), ErrProtocol, TypeChunk},
		"CHUNK for HELLO":       {frame(TypeChunk, u64(1), id, id), ErrProtocol, TypeHello},
		"HELLO for CHUNK":       {frame(TypeHello, u64(1)), ErrProtocol, TypeChunk},
		"MISSING of two":        {frame(TypeMissing, id, id), ErrProtocol, TypeMissing},
		"GOODBYE with a body":   {frame(TypeGoodbye, id), ErrProtocol, TypeGoodbye},
		"ABORT without number":  {frame(TypeAbort, id[:7]), ErrProtocol, TypeHello},
	} {
		f, err := reading(c.b).Read()
		if c.as != 0 && err == nil {
			err = decode[c.as](f)
		}
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	f, err := reading(frame(TypeAbort, u64(2), []byte("no \x1b[31m such\x00"))).Read()
	if err == nil {
		_, err = f.Hello()
	}
	if abort, ok := errors.AsType[*AbortError](err); !ok || abort.Errno != 2 || strings.Contains(err.Error(), "\x1b") {
		t.Errorf("ABORT: %v", err)
	}
}

// A frame that claims 16 MiB and has nothing costs no memory.
func TestReadAllocates(t *testing.T) {
	b := append(u64(MaxFrame), u64(uint64(TypeChunk))...)
	grew := testing.Benchmark(func(b2 *testing.B) {
		for b2.Loop() {
			if _, err := reading(b).Read(); err == nil {
				b2.Fatal("read")
			}
		}
	})
	if n := grew.AllocedBytesPerOp(); n > 1<<20 {
		t.Errorf("%d bytes allocated", n)
	}
}

func FuzzRead(f *testing.F) {
	id := bytes.Repeat([]byte{7}, 32)
	for _, seed := range [][]byte{
		frame(TypeHello, u64(0xc0)), frame(TypeRequest, u64(1), id), frame(TypeRequest, u64(0), id, id),
		frame(TypeChunk, u64(1), id, []byte("data")), frame(TypeMissing, id), frame(TypeGoodbye),
		frame(TypeAbort, u64(2), []byte("text\x00")), frame(TypeIndex, []byte("index")), frame(TypeIndexEOF),
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		fr, err := reading(b).Read()
		again, err2 := NewConn(iotest.OneByteReader(bytes.NewReader(b)), io.Discard, func() error { return nil }).Read()
		if (err == nil) != (err2 == nil) || !bytes.Equal(fr.Body, again.Body) {
			t.Fatalf("%v at once, %v byte by byte", err, err2)
		}
		if err != nil {
			return
		}
		if want := frame(fr.Type, fr.Body); !bytes.HasPrefix(b, want) {
			t.Errorf("read %x of %x", want, b)
		}
		_, _ = fr.Hello()
		_, _, _ = fr.Request()
		_, _, _, _ = fr.Chunk()
		_, _ = fr.Missing()
	})
}

// Whatever a client says, the servers come to an end and store nothing wrong.
func FuzzServe(f *testing.F) {
	id := bytes.Repeat([]byte{7}, 32)
	f.Add(bytes.Join([][]byte{frame(TypeHello, u64(0xc0)), frame(TypeRequest, u64(1), id), frame(TypeGoodbye)}, nil), true)
	f.Add(bytes.Join([][]byte{frame(TypeHello, u64(0xe00)), frame(TypeIndex, make([]byte, 100)), frame(TypeIndexEOF)}, nil), false)
	f.Add(bytes.Join([][]byte{frame(TypeHello, u64(0x1000)), frame(TypeArchive, make([]byte, 100)), frame(TypeArchiveEOF)}, nil), false)
	f.Fuzz(func(t *testing.T, said []byte, pull bool) {
		m := new(storetest.Memory)
		c := reading(said)
		if pull {
			_ = ServePull(t.Context(), c, Source{Index: strings.NewReader("index"), Archive: strings.NewReader("archive"), Store: m})
		} else {
			_ = ServePush(t.Context(), c, Target{
				Store: m, Index: func(*caibx.Index) error { return nil },
				Archive: func(r io.Reader) error { _, err := io.Copy(io.Discard, r); return err },
			})
		}
	})
}

// hello exchanges HELLOs and returns what the server offers.
func hello(t *testing.T, c *Conn, wants Flags) Flags {
	t.Helper()
	if err := c.Hello(wants); err != nil {
		t.Fatal(err)
	}
	f, err := c.Read()
	if err != nil {
		t.Fatal(err)
	}
	flags, err := f.Hello()
	if err != nil {
		t.Fatal(err)
	}
	return flags
}

// background runs a server and returns what waits for its end.
func background(serve func() error) func() error {
	done := make(chan error, 1)
	go func() { done <- serve() }()
	return func() error { return <-done }
}

func fill(t *testing.T, chunks map[chunk.ID]store.Packed) *storetest.Memory {
	t.Helper()
	m := new(storetest.Memory)
	for id, p := range chunks {
		if err := m.Put(t.Context(), id, p); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

// A client that asks for one chunk at a time, as desync does, gets an answer to
// each question; one that keeps what it gets, as casync does, nothing twice.
func TestServePull(t *testing.T) {
	chunks := storetest.Chunks(3)
	ids := make([]chunk.ID, 0, len(chunks))
	for id := range chunks {
		ids = append(ids, id)
	}
	absent := chunk.ID{1}
	near, far, _ := pair(t)
	wait := background(func() error { return ServePull(t.Context(), far, Source{Store: fill(t, chunks)}) })
	if got := hello(t, near, PullChunks); got != ReadableStore {
		t.Errorf("the server offers %x", got)
	}
	for _, id := range append(ids, ids[0], absent, absent) {
		if err := errors.Join(near.Request(id), near.Flush()); err != nil {
			t.Fatal(err)
		}
		f, err := near.Read()
		if err != nil {
			t.Fatal(err)
		}
		if id == absent {
			if got, err := f.Missing(); err != nil || got != absent {
				t.Errorf("absent: %s, %v", got, err)
			}
			continue
		}
		got, compressed, data, err := f.Chunk()
		if err != nil || got != id || !compressed {
			t.Fatalf("%s: %s, compressed %t, %v", id, got, compressed, err)
		}
		if want := chunks[id]; want.Form == store.Compressed && !bytes.Equal(data, want.Data) {
			t.Errorf("%s: %d bytes, want %d", id, len(data), len(want.Data))
		}
	}
	if err := errors.Join(near.Goodbye(), wait()); err != nil {
		t.Error(err)
	}
}

func TestServePullOnce(t *testing.T) {
	chunks := storetest.Chunks(30)
	counted := &storetest.Counting{Store: fill(t, chunks)}
	var said bytes.Buffer
	said.Write(frame(TypeHello, u64(uint64(PullChunks))))
	all := u64(0)
	for id := range chunks {
		said.Write(frame(TypeRequest, u64(0), id[:]))
		all = append(all, id[:]...)
	}
	said.Write(frame(TypeRequest, all))
	for id := range chunks {
		said.Write(frame(TypeRequest, u64(1), id[:]))
	}
	if err := ServePull(t.Context(), reading(said.Bytes()), Source{Store: counted}); err != nil {
		t.Fatal(err)
	}
	if n, _ := counted.Gets(); n != int64(len(chunks)) {
		t.Errorf("%d chunks sent, of %d that were asked for three times", n, len(chunks))
	}
}

// A client that goes away, or wants what is not offered, ends the server.
func TestServeEnds(t *testing.T) {
	id := bytes.Repeat([]byte{7}, 32)
	for name, c := range map[string]struct {
		said []byte
		want error
	}{
		"no HELLO":       {frame(TypeRequest, u64(1), id), ErrProtocol},
		"wants an index": {frame(TypeHello, u64(uint64(PullIndex))), ErrProtocol},
		"wants to push":  {frame(TypeHello, u64(uint64(PushChunks))), ErrProtocol},
		"wants nothing":  {frame(TypeHello, u64(0)), ErrProtocol},
		"goes":           {frame(TypeHello, u64(uint64(PullChunks))), nil},
		"is cut off":     {append(frame(TypeHello, u64(uint64(PullChunks))), 1, 2, 3), io.ErrUnexpectedEOF},
		"gives up":       {append(frame(TypeHello, u64(uint64(PullChunks))), frame(TypeAbort, u64(5), []byte("x\x00"))...), &AbortError{}},
		"sends a chunk":  {append(frame(TypeHello, u64(uint64(PullChunks))), frame(TypeChunk, u64(1), id, id)...), ErrProtocol},
	} {
		err := ServePull(t.Context(), reading(c.said), Source{Store: new(storetest.Memory)})
		_, aborted := errors.AsType[*AbortError](err)
		if _, want := c.want.(*AbortError); want != aborted || !aborted && !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	near, far, _ := pair(t)
	wait := background(func() error { return ServePull(ctx, far, Source{Store: new(storetest.Memory)}) })
	hello(t, near, PullChunks)
	cancel()
	if err := wait(); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// A store that fails does not pass for one that lacks the chunk.
func TestServePullFault(t *testing.T) {
	near, far, _ := pair(t)
	boom := errors.New("boom")
	s := &storetest.Faulty{Store: new(storetest.Memory), GetFault: func(int64) error { return boom }}
	wait := background(func() error { return ServePull(t.Context(), far, Source{Store: s}) })
	hello(t, near, PullChunks)
	if err := errors.Join(near.Request(chunk.ID{}), near.Flush()); err != nil {
		t.Fatal(err)
	}
	f, err := near.Read()
	if err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := f.Chunk(); err == nil || !strings.Contains(err.Error(), "boom") {
		t.Errorf("%v", err)
	}
	if err := wait(); !errors.Is(err, boom) {
		t.Error(err)
	}
}

// pushed is a stream, its index and its chunks.
func pushed(t *testing.T) (index []byte, chunks *storetest.Memory) {
	t.Helper()
	chunks = new(storetest.Memory)
	data := make([]byte, 300_000)
	for i := range data {
		data[i] = byte(i * i >> 7)
	}
	res, err := ingest.Stream(t.Context(), bytes.NewReader(data), ingest.Options{Params: chunk.DefaultParams(), FeatureFlags: 1 << 61, Store: chunks})
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if _, err := res.Index.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), chunks
}

// What a client pushes is stored if it is what the index says.
func TestServePush(t *testing.T) {
	index, chunks := pushed(t)
	for name, mangle := range map[string]func(chunk.ID, []byte) []byte{
		"good":          func(id chunk.ID, data []byte) []byte { return frame(TypeChunk, u64(1), id[:], data) },
		"garbage":       func(id chunk.ID, _ []byte) []byte { return frame(TypeChunk, u64(1), id[:], []byte("garbage")) },
		"raw garbage":   func(id chunk.ID, _ []byte) []byte { return frame(TypeChunk, u64(0), id[:], []byte("garbage")) },
		"another":       func(_ chunk.ID, data []byte) []byte { return frame(TypeChunk, u64(1), make([]byte, 32), data) },
		"missing":       func(id chunk.ID, _ []byte) []byte { return frame(TypeMissing, id[:]) },
		"goodbye":       func(chunk.ID, []byte) []byte { return frame(TypeGoodbye) },
		"end":           func(chunk.ID, []byte) []byte { return nil },
		"part of chunk": func(id chunk.ID, data []byte) []byte { return frame(TypeChunk, u64(1), id[:], data[:len(data)-1]) },
	} {
		to := new(storetest.Memory)
		var got *caibx.Index
		near, far, out := pair(t)
		wait := background(func() error {
			return ServePush(t.Context(), far, Target{Store: to, Index: func(x *caibx.Index) error { got = x; return nil }})
		})
		hello(t, near, PushChunks|PushIndex|PushIndexChunks)
		_, err := out.Write(append(frame(TypeIndex, index), frame(TypeIndexEOF)...))
		for err == nil {
			var f Frame
			if f, err = near.Read(); err != nil || f.Type != TypeRequest {
				break
			}
			_, ids, rerr := f.Request()
			if rerr != nil {
				t.Fatal(rerr)
			}
			for _, id := range ids {
				p, gerr := chunks.Get(t.Context(), id, int64(MaxData))
				b := mangle(id, p.Data)
				if gerr != nil || b == nil {
					break
				}
				if _, err := out.Write(b); err != nil {
					break // the server has heard enough
				}
			}
			if mangle(ids[0], make([]byte, 1)) == nil {
				break
			}
		}
		_ = near.Close()
		err = wait()
		if good := name == "good"; good != (err == nil) || good != (got != nil) || good != (to.Len() == chunks.Len()) || !good && to.Len() > 0 {
			t.Errorf("%s: %v; index kept: %t, %d chunks", name, err, got != nil, to.Len())
		}
	}
}
