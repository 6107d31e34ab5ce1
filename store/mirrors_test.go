package store_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/store"
	"github.com/ociv2-sync/ociv2-sync/store/storetest"
)

// site is a mirror that takes some time for each answer, and may be down.
type site struct {
	storetest.Memory
	name string
	took time.Duration
	down atomic.Bool
	lies atomic.Bool
	gets atomic.Int64
}

func (s *site) Get(ctx context.Context, id chunk.ID, limit int64) (store.Packed, error) {
	s.gets.Add(1)
	time.Sleep(s.took)
	if s.down.Load() {
		return store.Packed{}, fmt.Errorf("%s: %w", s.name, store.ErrNetwork)
	}
	p, err := s.Memory.Get(ctx, id, limit)
	if s.lies.Load() && err == nil {
		p.Data[len(p.Data)/2] ^= 1
	}
	return p, err
}

func (s *site) String() string { return s.name }

func newSite(t *testing.T, name string, took time.Duration, chunks map[chunk.ID]store.Packed) *site {
	t.Helper()
	s := &site{name: name, took: took}
	for id, p := range chunks {
		if err := s.Put(t.Context(), id, p); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// plainChunks returns n chunks that are not compressed: what runs under synctest
// takes no decoder from a pool that tests share, since a channel belongs to the
// test that made it.
func plainChunks(n int) map[chunk.ID]store.Packed {
	chunks := make(map[chunk.ID]store.Packed, n)
	for i := range n {
		b := fmt.Appendf(nil, "chunk %d", i)
		chunks[chunk.SHA512_256.Sum(b)] = store.Packed{Form: store.Raw, Data: b}
	}
	return chunks
}

func TestMirrorsSuite(t *testing.T) {
	storetest.Run(t, func(t *testing.T, chunks map[chunk.ID]store.Packed) store.Store {
		half := make(map[chunk.ID]store.Packed)
		for i, id := range slices.Collect(maps.Keys(chunks)) {
			if i%2 == 0 {
				half[id] = chunks[id]
			}
		}
		return store.Mirrors([]store.Store{newSite(t, "half", 0, half), newSite(t, "whole", 0, chunks)}, store.MirrorOptions{})
	})
}

func TestSingleSuite(t *testing.T) {
	storetest.Run(t, func(t *testing.T, chunks map[chunk.ID]store.Packed) store.Store {
		return store.Single(newSite(t, "one", time.Millisecond, chunks))
	})
}

// Who sends wrong bytes is named once, to somebody who can mend that.
func TestMirrorsTell(t *testing.T) {
	chunks := plainChunks(20)
	liar, other := newSite(t, "liar", 0, chunks), newSite(t, "other", 0, chunks)
	liar.lies.Store(true)
	var said strings.Builder
	s := store.Mirrors([]store.Store{liar, other}, store.MirrorOptions{
		RetryWait: time.Nanosecond, Logger: slog.New(slog.NewTextHandler(&said, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	for id := range chunks {
		if _, err := s.Get(t.Context(), id, 1<<20); err != nil {
			t.Error(err)
		}
	}
	if strings.Count(said.String(), "mirror=liar") != 1 || strings.Contains(said.String(), "mirror=other") {
		t.Errorf("it says: %s", said.String())
	}
	other.down.Store(true) // which may pass
	liar.lies.Store(false)
	said.Reset()
	for id := range chunks {
		if _, err := s.Get(t.Context(), id, 1<<20); err != nil {
			t.Error(err)
		}
	}
	if said.Len() > 0 {
		t.Errorf("it says: %s", said.String())
	}
}

// All chunks come, whichever mirror breaks and comes back, and most of them from
// the fastest that works.
func TestMirrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chunks := plainChunks(99)
		ids := slices.Collect(maps.Keys(chunks))
		slow := newSite(t, "slow", 300*time.Millisecond, chunks)
		fast := newSite(t, "fast", 50*time.Millisecond, chunks)
		cache := newSite(t, "cache", time.Millisecond, map[chunk.ID]store.Packed{ids[0]: chunks[ids[0]]})
		s := store.Mirrors([]store.Store{cache, slow, fast}, store.MirrorOptions{})
		round := func(what string) (fromSlow, fromFast int64) {
			t.Helper()
			slow.gets.Store(0)
			fast.gets.Store(0)
			todo := make(chan chunk.ID)
			var wg sync.WaitGroup
			for range 8 {
				wg.Go(func() {
					for id := range todo {
						p, err := s.Get(t.Context(), id, 1<<20)
						if err == nil {
							_, err = store.Check(nil, p, id)
						}
						if err != nil {
							t.Errorf("%s: %v", what, err)
						}
					}
				})
			}
			for range 4 {
				for _, id := range ids {
					todo <- id
				}
			}
			close(todo)
			wg.Wait()
			t.Logf("%s: %d from the slow one, %d from the fast one", what, slow.gets.Load(), fast.gets.Load())
			return slow.gets.Load(), fast.gets.Load()
		}
		const total = 4 * 100
		if a, b := round("both work"); a > total/5 || b < total*4/5 {
			t.Error("the slow one is asked too often")
		}
		fast.down.Store(true)
		if a, b := round("the fast one is down"); a < total*4/5 || b > total/4 {
			t.Error("the one that is down is asked too often")
		}
		fast.down.Store(false)
		time.Sleep(2 * time.Minute)
		if a, b := round("it is back"); a > total/5 || b < total*4/5 {
			t.Error("the slow one is asked too often")
		}
		fast.lies.Store(true)
		if a, b := round("it lies"); a < total*4/5 || b > total/4 {
			t.Error("the one that lies is asked too often")
		}
	})
}

func TestMirrorsFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chunks := plainChunks(2)
		id := slices.Collect(maps.Keys(chunks))[0]
		a, b := newSite(t, "a", 0, chunks), newSite(t, "b", 0, nil)
		s := store.Mirrors([]store.Store{a, b}, store.MirrorOptions{Retries: 3})
		a.down.Store(true)
		// That one has nothing does not mean that there is nothing.
		if _, err := s.Get(t.Context(), id, 1<<20); !errors.Is(err, store.ErrNetwork) || errors.Is(err, store.ErrNotFound) {
			t.Errorf("one is down, one has it not: %v", err)
		}
		if n := a.gets.Load(); n != 4 {
			t.Errorf("asked %d times", n)
		}
		time.AfterFunc(time.Second, func() { a.down.Store(false) })
		if _, err := s.Get(t.Context(), id, 1<<20); err != nil {
			t.Errorf("it came back: %v", err)
		}
		a.lies.Store(true)
		if _, err := s.Get(t.Context(), id, 1<<20); !errors.Is(err, store.ErrCorrupt) {
			t.Errorf("all lie: %v", err)
		}
	})
}

// One request for all who want a chunk; that the one who made it gives up is
// nothing to the others.
func TestSingle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chunks := plainChunks(1)
		id := slices.Collect(maps.Keys(chunks))[0]
		site := newSite(t, "site", time.Second, chunks)
		s := store.Single(site)
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				if _, err := s.Get(t.Context(), id, 1<<20); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if n := site.gets.Load(); n != 1 {
			t.Errorf("%d requests", n)
		}
		ctx, cancel := context.WithCancel(t.Context())
		wg.Go(func() {
			if _, err := s.Get(ctx, id, 1<<20); !errors.Is(err, context.Canceled) {
				t.Errorf("cancelled: %v", err)
			}
		})
		synctest.Wait()
		wg.Go(func() {
			if _, err := s.Get(t.Context(), id, 1<<20); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		cancel()
		wg.Wait()
	})
}
