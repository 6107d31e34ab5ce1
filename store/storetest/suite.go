package storetest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/store"
)

// Chunks returns n chunks of different contents and sizes, compressed, and one
// more that is raw.
func Chunks(n int) map[chunk.ID]store.Packed {
	chunks := make(map[chunk.ID]store.Packed, n+1)
	packer := store.NewPacker(0, 64<<10)
	for i := range n + 1 {
		b := bytes.Repeat(binary.BigEndian.AppendUint32(nil, uint32(i)), 1+i*i%997)
		id := chunk.SHA512_256.Sum(b)
		if i == n {
			chunks[id] = store.Packed{Form: store.Raw, Data: b}
			continue
		}
		chunks[id] = packer.Pack(nil, b)
	}
	return chunks
}

// plenty is above the size of every chunk of the suite.
const plenty = 1 << 20

// Run checks that a store keeps the contract of [store.Store], and those of the
// capabilities that it has. newStore returns a store with exactly the given
// chunks.
func Run(t *testing.T, newStore func(t *testing.T, chunks map[chunk.ID]store.Packed) store.Store) {
	chunks := Chunks(20)
	t.Run("Get", func(t *testing.T) { get(t, newStore(t, chunks), chunks) })
	t.Run("GetRefused", func(t *testing.T) { getRefused(t, newStore(t, chunks), chunks) })

	s := newStore(t, chunks)
	if c, ok := store.As[store.Checker](s); ok {
		t.Run("Missing", func(t *testing.T) { missing(t, c, chunks) })
	}
	if c, ok := store.As[store.Statter](s); ok {
		t.Run("StoredSize", func(t *testing.T) { storedSize(t, c, chunks) })
	}
	if d, ok := store.As[store.Deleter](s); ok {
		t.Run("Delete", func(t *testing.T) { remove(t, s, d, chunks) })
	}
	if _, ok := store.As[store.Writer](s); ok {
		t.Run("Put", func(t *testing.T) { put(t, newStore(t, nil), chunks) })
	}
}

// absent is a chunk that no store of the suite has.
func absent() chunk.ID { return chunk.SHA512_256.Sum([]byte("absent")) }

// get checks that a store has chunks, also where many ask at once.
func get(t *testing.T, s store.Store, chunks map[chunk.ID]store.Packed) {
	if s.String() == "" {
		t.Error("the store has no name")
	}
	var wg sync.WaitGroup
	for id, want := range chunks {
		for range 2 {
			wg.Go(func() {
				got, err := s.Get(t.Context(), id, int64(len(want.Data)))
				if err != nil || got.Form != want.Form || !bytes.Equal(got.Data, want.Data) {
					t.Errorf("Get %s: form %d, %d bytes, error %v; want form %d, %d bytes",
						id, got.Form, len(got.Data), err, want.Form, len(want.Data))
				}
				clear(got.Data) // it is ours: the other Get must not notice
			})
		}
	}
	wg.Wait()
}

// getRefused checks the errors of Get.
func getRefused(t *testing.T, s store.Store, chunks map[chunk.ID]store.Packed) {
	_, err := s.Get(t.Context(), absent(), plenty)
	if !errors.Is(err, store.ErrNotFound) || !strings.Contains(err.Error(), absent().String()) {
		t.Errorf("not there: error %v, want ErrNotFound that names the chunk", err)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	id := slices.Collect(maps.Keys(chunks))[0]
	if _, err := s.Get(t.Context(), id, int64(len(chunks[id].Data))-1); !errors.Is(err, store.ErrTooLarge) {
		t.Errorf("too large: error %v, want ErrTooLarge", err)
	}
	if _, err := s.Get(cancelled, id, plenty); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: error %v, want context.Canceled", err)
	}
}

// missing checks the contract of [store.Checker].
func missing(t *testing.T, c store.Checker, chunks map[chunk.ID]store.Packed) {
	other := chunk.SHA512_256.Sum([]byte("other"))
	ids := slices.Collect(maps.Keys(chunks))
	got, err := c.Missing(t.Context(), []chunk.ID{other, ids[0], absent(), ids[1]})
	if err != nil || !slices.Equal(got, []chunk.ID{other, absent()}) {
		t.Errorf("Missing = %v, %v", got, err)
	}
}

// storedSize checks the contract of [store.Statter].
func storedSize(t *testing.T, c store.Statter, chunks map[chunk.ID]store.Packed) {
	for id, p := range chunks {
		if n, err := c.StoredSize(t.Context(), id); err != nil || n != int64(len(p.Data)) {
			t.Errorf("StoredSize %s = %d, %v; want %d", id, n, err, len(p.Data))
		}
	}
	if _, err := c.StoredSize(t.Context(), absent()); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("error %v, want ErrNotFound", err)
	}
}

// remove checks the contract of [store.Deleter].
func remove(t *testing.T, s store.Store, d store.Deleter, chunks map[chunk.ID]store.Packed) {
	ids := slices.Collect(maps.Keys(chunks))
	if err := d.Delete(t.Context(), ids[0]); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(t.Context(), ids[0], plenty); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Get after Delete: error %v, want ErrNotFound", err)
	}
	if err := d.Delete(t.Context(), ids[0]); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("second Delete: error %v, want ErrNotFound", err)
	}
	if _, err := s.Get(t.Context(), ids[1], plenty); err != nil {
		t.Errorf("another chunk: %v", err)
	}
}

// put checks the contract of [store.Writer] on s, an empty store.
func put(t *testing.T, s store.Store, chunks map[chunk.ID]store.Packed) {
	w, _ := store.As[store.Writer](s)
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for id, p := range chunks {
		if err := w.Put(cancelled, id, p); !errors.Is(err, context.Canceled) {
			t.Errorf("Put under a cancelled context: %v", err)
		}
		if _, err := s.Get(t.Context(), id, plenty); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("Get before Put: %v", err)
		}
	}
	var wg sync.WaitGroup
	for id, p := range chunks {
		for range 3 {
			wg.Go(func() {
				if err := w.Put(t.Context(), id, p); err != nil {
					t.Errorf("Put: %v", err)
				}
			})
		}
	}
	wg.Wait()
	for id, want := range chunks {
		// What is there stays, even where another form would do as well.
		other := store.Packed{Form: want.Form, Data: append(slices.Clone(want.Data), 0)}
		if err := w.Put(t.Context(), id, other); err != nil {
			t.Errorf("Put over a chunk: %v", err)
		}
		got, err := s.Get(t.Context(), id, plenty)
		if err != nil || got.Form != want.Form || !bytes.Equal(got.Data, want.Data) {
			t.Errorf("Get %s after Put: form %d, %d bytes, error %v", id, got.Form, len(got.Data), err)
		}
	}
}
