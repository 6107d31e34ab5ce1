package storetest_test

import (
	"errors"
	"testing"

	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/store"
	"github.com/ociv2-sync/ociv2-sync/store/storetest"
)

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

func TestMemory(t *testing.T) {
	storetest.Run(t, func(t *testing.T, chunks map[chunk.ID]store.Packed) store.Store {
		return fill(t, chunks)
	})
}

// The decorators change nothing until they are told to.
func TestDecorators(t *testing.T) {
	storetest.Run(t, func(t *testing.T, chunks map[chunk.ID]store.Packed) store.Store {
		return &storetest.Counting{Store: &storetest.Faulty{Store: fill(t, chunks)}}
	})
}

func TestCountingAndFaulty(t *testing.T) {
	boom := errors.New("boom")
	chunks := storetest.Chunks(3)
	f := &storetest.Faulty{
		Store:    fill(t, chunks),
		GetFault: func(n int64) error { return []error{nil, boom, nil, nil}[n] },
		Mangle: func(_ chunk.ID, p store.Packed) store.Packed {
			return store.Packed{Form: p.Form, Data: p.Data[:1]}
		},
	}
	c := &storetest.Counting{Store: f}
	failed := 0
	for id := range chunks {
		if _, err := c.Get(t.Context(), id, 1<<20); errors.Is(err, boom) {
			failed++
		}
	}
	if n, bytes := c.Gets(); failed != 1 || n != 3 || bytes != 3 {
		t.Errorf("%d failed, %d gets of %d bytes; want 1, 3, 3", failed, n, bytes)
	}
}
