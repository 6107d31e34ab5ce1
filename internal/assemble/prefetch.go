package assemble

import (
	"context"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/seed"
	"github.com/ociv2-sync/ociv2-sync/store"
)

// Prefetch fetches those of the given chunks that the plan fetches into the
// cache, up to jobs at a time (0 means 16), until stop is closed. What is then
// on its way still arrives. It returns the chunks that the cache has now, also
// beside an error.
func Prefetch(ctx context.Context, stop <-chan struct{}, chunks []seed.Chunk, alg chunk.Algorithm, from store.Store, cache Cache, jobs int) (map[chunk.ID]bool, error) {
	if jobs <= 0 {
		jobs = 16
	}
	got := make(map[chunk.ID]bool)
	var mu sync.Mutex
	var next atomic.Int64
	mem := semaphore.NewWeighted(inFlight)
	g, ctx := errgroup.WithContext(ctx)
	limit := func(c *seed.Chunk) int64 { return c.Stored }
	keep := func(c *seed.Chunk, p store.Packed) error { return cache.Put(ctx, c.ID, p) }
	for range jobs {
		g.Go(func() error {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(chunks) {
					return nil
				}
				c := &chunks[i]
				if c.Origin != seed.Fetched {
					continue
				}
				cost := min(int64(c.Size)+c.Stored, inFlight)
				if err := mem.Acquire(ctx, cost); err != nil {
					return err
				}
				select {
				case <-stop:
					mem.Release(cost)
					return nil
				default:
				}
				err := get(ctx, from, alg, []*seed.Chunk{c}, make([][]byte, 1), limit, keep)
				mem.Release(cost)
				if err != nil {
					return err
				}
				mu.Lock()
				got[c.ID] = true
				mu.Unlock()
			}
		})
	}
	err := g.Wait()
	return got, err
}
