// Package storetest helps to test chunk stores and what uses them: a suite that
// every store must pass, and stores that keep chunks in memory, count calls or
// fail.
package storetest

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/store"
)

// Memory is a store in memory, with every capability. The zero value is an
// empty store.
type Memory struct {
	mu     sync.Mutex
	chunks map[chunk.ID]store.Packed
}

// Get implements [store.Store].
func (m *Memory) Get(ctx context.Context, id chunk.ID, limit int64) (store.Packed, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p, ok := m.chunks[id]
	switch {
	case ctx.Err() != nil:
		return store.Packed{}, ctx.Err()
	case !ok:
		return store.Packed{}, store.NotFound(m.String(), id)
	case int64(len(p.Data)) > limit:
		return store.Packed{}, store.ErrTooLarge
	}
	p.Data = slices.Clone(p.Data)
	return p, nil
}

// Put implements [store.Writer].
func (m *Memory) Put(ctx context.Context, id chunk.ID, p store.Packed) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	if m.chunks == nil {
		m.chunks = make(map[chunk.ID]store.Packed)
	}
	if _, ok := m.chunks[id]; !ok {
		m.chunks[id] = store.Packed{Form: p.Form, Data: slices.Clone(p.Data)}
	}
	return nil
}

// Missing implements [store.Checker].
func (m *Memory) Missing(ctx context.Context, ids []chunk.ID) ([]chunk.ID, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var missing []chunk.ID
	for _, id := range ids {
		if _, ok := m.chunks[id]; !ok {
			missing = append(missing, id)
		}
	}
	return missing, ctx.Err()
}

// StoredSize implements [store.Statter].
func (m *Memory) StoredSize(ctx context.Context, id chunk.ID) (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p, ok := m.chunks[id]
	if !ok {
		return 0, store.NotFound(m.String(), id)
	}
	return int64(len(p.Data)), ctx.Err()
}

// Delete implements [store.Deleter].
func (m *Memory) Delete(ctx context.Context, id chunk.ID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.chunks[id]; !ok {
		return store.NotFound(m.String(), id)
	}
	delete(m.chunks, id)
	return ctx.Err()
}

// Len returns the number of chunks.
func (m *Memory) Len() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.chunks)
}

// String names the store.
func (m *Memory) String() string { return "memory" }

// Counting counts the calls of Get and Put that reach Store and succeed, and
// the packed bytes that they move. Put and Missing panic if Store cannot do it.
type Counting struct {
	Store     store.Store
	gets      atomic.Int64
	getBytes  atomic.Int64
	puts      atomic.Int64
	putBytes  atomic.Int64
	questions atomic.Int64
}

// Get implements [store.Store].
func (c *Counting) Get(ctx context.Context, id chunk.ID, limit int64) (store.Packed, error) {
	p, err := c.Store.Get(ctx, id, limit)
	if err == nil {
		c.gets.Add(1)
		c.getBytes.Add(int64(len(p.Data)))
	}
	return p, err
}

// Put implements [store.Writer].
func (c *Counting) Put(ctx context.Context, id chunk.ID, p store.Packed) error {
	err := must[store.Writer](c.Store).Put(ctx, id, p)
	if err == nil {
		c.puts.Add(1)
		c.putBytes.Add(int64(len(p.Data)))
	}
	return err
}

// Missing implements [store.Checker].
func (c *Counting) Missing(ctx context.Context, ids []chunk.ID) ([]chunk.ID, error) {
	c.questions.Add(1)
	return must[store.Checker](c.Store).Missing(ctx, ids)
}

// String names the store below.
func (c *Counting) String() string { return c.Store.String() }

// Unwrap returns the store below.
func (c *Counting) Unwrap() store.Store { return c.Store }

// Gets returns how many chunks were got, and their packed bytes.
func (c *Counting) Gets() (n, bytes int64) { return c.gets.Load(), c.getBytes.Load() }

// Puts returns how many chunks were put, and their packed bytes.
func (c *Counting) Puts() (n, bytes int64) { return c.puts.Load(), c.putBytes.Load() }

// Questions returns how often Missing was called.
func (c *Counting) Questions() int64 { return c.questions.Load() }

// Faulty is a store that misbehaves on purpose. Its fields are set before use;
// the functions may be called from several goroutines at once.
type Faulty struct {
	Store store.Store
	// GetFault and PutFault, if set, are called with the number of the call,
	// from 0; an error is returned in place of calling Store.
	GetFault, PutFault func(n int64) error
	// Mangle, if set, changes what Get returns.
	Mangle func(id chunk.ID, p store.Packed) store.Packed

	gets, puts atomic.Int64
}

// Get implements [store.Store].
func (f *Faulty) Get(ctx context.Context, id chunk.ID, limit int64) (store.Packed, error) {
	n := f.gets.Add(1) - 1
	if f.GetFault != nil {
		if err := f.GetFault(n); err != nil {
			return store.Packed{}, err
		}
	}
	p, err := f.Store.Get(ctx, id, limit)
	if err == nil && f.Mangle != nil {
		p = f.Mangle(id, p)
	}
	return p, err
}

// Put implements [store.Writer]; it panics if Store does not.
func (f *Faulty) Put(ctx context.Context, id chunk.ID, p store.Packed) error {
	n := f.puts.Add(1) - 1
	if f.PutFault != nil {
		if err := f.PutFault(n); err != nil {
			return err
		}
	}
	return must[store.Writer](f.Store).Put(ctx, id, p)
}

// String names the store below.
func (f *Faulty) String() string { return f.Store.String() }

// Unwrap returns the store below.
func (f *Faulty) Unwrap() store.Store { return f.Store }

// must returns the capability T of s.
func must[T any](s store.Store) T {
	t, ok := store.As[T](s)
	if !ok {
		panic(fmt.Sprintf("storetest: %s is no %v", s, reflect.TypeFor[T]()))
	}
	return t
}
