package casyncproto_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ociv2-sync/ociv2-sync/caibx"
	"github.com/ociv2-sync/ociv2-sync/chunk"
	. "github.com/ociv2-sync/ociv2-sync/internal/casyncproto"
	"github.com/ociv2-sync/ociv2-sync/store"
	"github.com/ociv2-sync/ociv2-sync/store/storetest"
)

// push runs both sides of a push of an index.
func push(t *testing.T, index io.WriterTo, from store.Store, to Target) (sent []chunk.ID, near, far error) {
	t.Helper()
	c, server, _ := pair(t)
	wait := background(func() error { return ServePush(t.Context(), server, to) })
	if got := hello(t, c, PushChunks|PushIndex|PushIndexChunks); got != WritableStore|WritableIndex {
		t.Errorf("the server offers %x", got)
	}
	near = c.PushIndex(t.Context(), index, from, func(id chunk.ID, _ int) { sent = append(sent, id) })
	if near != nil {
		_ = c.Close()
	}
	return sent, near, wait()
}

// What the far side lacks is sent, once; then nothing.
func TestPushIndex(t *testing.T) {
	index, chunks := pushed(t)
	to := new(storetest.Memory)
	for i, want := range []int{chunks.Len(), 0} {
		var got *caibx.Index
		sent, near, far := push(t, bytes.NewReader(index), chunks, Target{Store: to, Index: func(x *caibx.Index) error { got = x; return nil }})
		if err := errors.Join(near, far); err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		if _, err := got.WriteTo(&b); err != nil || !bytes.Equal(b.Bytes(), index) {
			t.Errorf("push %d: another index, %v", i, err)
		}
		if len(sent) != want || to.Len() != chunks.Len() {
			t.Errorf("push %d: %d chunks sent, want %d; %d of %d are there", i, len(sent), want, to.Len(), chunks.Len())
		}
	}
}

// What fails on one side the other is told, and neither waits for ever.
func TestPushIndexFails(t *testing.T) {
	index, chunks := pushed(t)
	boom := errors.New("boom")
	bad := &storetest.Faulty{Store: chunks, GetFault: func(int64) error { return boom }}
	_, near, far := push(t, bytes.NewReader(index), bad, Target{Store: new(storetest.Memory), Index: func(*caibx.Index) error { return nil }})
	if abort, ok := errors.AsType[*AbortError](far); !errors.Is(near, boom) || !ok || !strings.Contains(abort.Text, "boom") {
		t.Errorf("here %v, there %v", near, far)
	}
	_, near, far = push(t, bytes.NewReader(index), chunks, Target{Store: new(storetest.Memory), Index: func(*caibx.Index) error { return boom }})
	if abort, ok := errors.AsType[*AbortError](near); !errors.Is(far, boom) || !ok || !strings.Contains(abort.Text, "boom") {
		t.Errorf("here %v, there %v", near, far)
	}
	_, near, _ = push(t, bytes.NewReader(index[:len(index)-9]), chunks, Target{Store: new(storetest.Memory), Index: func(*caibx.Index) error { return nil }})
	if _, ok := errors.AsType[*AbortError](near); !ok {
		t.Errorf("a cut index: %v", near)
	}
}

// late has what it is asked for after a while.
type late struct{ *storetest.Memory }

func (l late) Get(ctx context.Context, id chunk.ID, limit int64) (store.Packed, error) {
	time.Sleep(200 * time.Millisecond)
	return l.Memory.Get(ctx, id, limit)
}

// lateIndex is written after a while.
type lateIndex struct{ *bytes.Reader }

func (l lateIndex) WriteTo(w io.Writer) (int64, error) {
	time.Sleep(200 * time.Millisecond)
	return l.Reader.WriteTo(w)
}

// A far side that does not keep to the protocol is found out.
func TestPushIndexRefuses(t *testing.T) {
	t.Parallel()
	index, chunks := pushed(t)
	x, err := caibx.Read(bytes.NewReader(index))
	if err != nil {
		t.Fatal(err)
	}
	var ids [][]byte
	for _, k := range x.Chunks {
		ids = append(ids, slices.Clone(k.ID[:]))
	}
	for name, c := range map[string]struct {
		said  [][]byte
		early bool // it does not wait for the index
		want  error
	}{
		"ends":                     {nil, false, io.ErrUnexpectedEOF},
		"ends within a frame":      {[][]byte{{1, 2, 3}}, false, io.ErrUnexpectedEOF},
		"gives up":                 {[][]byte{frame(TypeAbort, u64(28), []byte("full\x00"))}, false, &AbortError{}},
		"wants an unknown chunk":   {[][]byte{frame(TypeRequest, u64(0), make([]byte, 32)), frame(TypeGoodbye)}, false, ErrProtocol},
		"sends a chunk":            {[][]byte{frame(TypeChunk, u64(1), ids[0], ids[0])}, false, ErrProtocol},
		"goes before the index":    {[][]byte{frame(TypeGoodbye)}, true, ErrProtocol},
		"goes before the chunks":   {[][]byte{frame(TypeRequest, u64(0), slices.Concat(ids...)), frame(TypeGoodbye)}, false, ErrProtocol},
		"goes in too many words":   {[][]byte{frame(TypeGoodbye, ids[0])}, false, ErrProtocol},
		"wants part of a chunk ID": {[][]byte{frame(TypeRequest, u64(0), ids[0][:31])}, false, ErrProtocol},
	} {
		var x io.WriterTo = bytes.NewReader(index)
		if c.early {
			x = lateIndex{bytes.NewReader(index)}
		}
		err := reading(bytes.Join(c.said, nil)).PushIndex(t.Context(), x, late{chunks}, func(chunk.ID, int) {})
		_, aborted := errors.AsType[*AbortError](err)
		if _, want := c.want.(*AbortError); want != aborted || !aborted && !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

func TestPushArchive(t *testing.T) {
	const size = 1 << 20
	boom := errors.New("boom")
	for name, c := range map[string]struct{ here, there error }{"good": {}, "fails here": {boom, nil}, "fails there": {nil, boom}} {
		near, far, _ := pair(t)
		var got int64
		wait := background(func() error {
			return ServePush(t.Context(), far, Target{Archive: func(r io.Reader) (err error) {
				if c.there != nil {
					return c.there
				}
				got, err = io.Copy(io.Discard, r)
				return err
			}})
		})
		if got := hello(t, near, PushArchive); got != WritableArchive {
			t.Errorf("the server offers %x", got)
		}
		err := near.PushArchive(func(w io.Writer) error {
			_, err := w.Write(make([]byte, size))
			return errors.Join(err, c.here)
		})
		if name != "good" {
			_ = near.Close()
		}
		served := wait()
		_, abort := errors.AsType[*AbortError](err)
		_, told := errors.AsType[*AbortError](served)
		switch {
		case name == "good" && (err != nil || served != nil || got != size):
			t.Errorf("%v, %v, %d bytes", err, served, got)
		case name == "fails here" && (!errors.Is(err, boom) || !told || !near.GaveUp()):
			t.Errorf("%s: %v, %v", name, err, served)
		case name == "fails there" && (!abort || !errors.Is(served, boom) || near.GaveUp()):
			t.Errorf("%s: %v, %v", name, err, served)
		}
	}
}

// Whatever a far side says, a push to it comes to an end.
func FuzzPush(f *testing.F) {
	id := bytes.Repeat([]byte{7}, 32)
	f.Add(frame(TypeGoodbye))
	f.Add(slices.Concat(frame(TypeRequest, u64(0), id, id), frame(TypeGoodbye)))
	f.Add(slices.Concat(frame(TypeRequest, u64(1), id), frame(TypeAbort, u64(28), []byte("full\x00"))))
	chunks := new(storetest.Memory)
	f.Fuzz(func(t *testing.T, said []byte) {
		if err := chunks.Put(t.Context(), chunk.ID(id), store.Packed{Form: store.Raw, Data: id}); err != nil {
			t.Fatal(err)
		}
		_ = reading(said).PushIndex(t.Context(), strings.NewReader("index"), chunks, func(got chunk.ID, _ int) {
			if !bytes.Equal(got[:], id) {
				t.Errorf("sent %s", got)
			}
		})
		_ = reading(said).PushArchive(func(w io.Writer) error { _, err := io.WriteString(w, "archive"); return err })
	})
}
