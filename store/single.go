package store

import (
	"bytes"
	"context"
	"sync"

	"github.com/ociv2-sync/ociv2-sync/chunk"
)

// Single returns a store that asks s once for a chunk, however many callers want it
// at the same moment; each gets bytes of its own. It has none of the capabilities of
// s.
func Single(s Store) Store { return &single{Store: s, flights: make(map[flightKey]*flight)} }

type single struct {
	Store   Store
	mu      sync.Mutex
	flights map[flightKey]*flight
}

// flightKey is what makes two calls equal.
type flightKey struct {
	id    chunk.ID
	limit int64
}

// flight is a call under way; its results are set when done is closed.
type flight struct {
	done   chan struct{}
	shared bool // by others than the caller that makes it
	packed Packed
	err    error
	ended  bool // by the end of its caller's ctx, which means nothing to others
}

// Get implements [Store].
func (s *single) Get(ctx context.Context, id chunk.ID, limit int64) (Packed, error) {
	key := flightKey{id, limit}
	for {
		s.mu.Lock()
		f, flying := s.flights[key]
		if !flying {
			f = &flight{done: make(chan struct{})}
			s.flights[key] = f
			s.mu.Unlock()
			f.packed, f.err = s.Store.Get(ctx, id, limit)
			f.ended = ctx.Err() != nil
			s.mu.Lock()
			delete(s.flights, key)
			p := f.packed
			if f.shared {
				p.Data = bytes.Clone(p.Data)
			}
			s.mu.Unlock()
			close(f.done)
			return p, f.err
		}
		f.shared = true
		s.mu.Unlock()
		select {
		case <-f.done:
		case <-ctx.Done():
			return Packed{}, ctx.Err()
		}
		if f.ended {
			continue
		}
		return Packed{Form: f.packed.Form, Data: bytes.Clone(f.packed.Data)}, f.err
	}
}

// String names the store below.
func (s *single) String() string { return s.Store.String() }
