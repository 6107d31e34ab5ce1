package assemble

import (
	"context"
	"encoding/binary"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/seed"
)

// A chunk that takes long keeps no others from being requested: of those that come before
// their turn, what memory has no room for is obtained again. Not so where that would mean
// a second request.
func TestLateChunk(t *testing.T) {
	const count, size = 200, 1000
	const room = 20 // of chunks, packed and unpacked
	for _, kept := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			chunks := make([]seed.Chunk, count)
			for i := range chunks {
				id := chunk.ID{}
				binary.BigEndian.PutUint64(id[:], uint64(i))
				chunks[i] = seed.Chunk{Span: seed.Span{ID: id, Size: size, Stored: size}, Offset: uint64(i * size)}
			}
			var mu sync.Mutex
			late, beside, again := false, 0, 0 // beside: requests while the first chunk is late
			obtain := func(_ context.Context, of []*seed.Chunk, data [][]byte) error {
				c, took := of[0], time.Second
				mu.Lock()
				switch {
				case c.Origin == seed.Cached:
					again++
				case c.Offset == 0:
					late, took = true, time.Minute
				case late:
					beside++
				}
				mu.Unlock()
				time.Sleep(took)
				if c.Offset == 0 {
					mu.Lock()
					late = false
					mu.Unlock()
				}
				data[0] = slices.Grow(data[0][:0], size)[:size]
				binary.BigEndian.PutUint64(data[0], c.Offset)
				return nil
			}
			var used []uint64
			err := inOrder(t.Context(), chunks, pacing{jobs: 16, group: 1, memory: room * 2 * size, kept: kept}, obtain, func(_ context.Context, c *seed.Chunk, data []byte) error {
				if got := binary.BigEndian.Uint64(data); got != c.Offset || len(data) != size {
					t.Errorf("chunk at %d has the bytes of the one at %d", c.Offset, got)
				}
				used = append(used, c.Offset)
				return nil
			})
			if err != nil || len(used) != count || !slices.IsSorted(used) {
				t.Errorf("%d chunks, %v", len(used), err)
			}
			if kept && (beside < 100 || again == 0) || !kept && (beside > 2*room || again != 0) {
				t.Errorf("kept %v: %d requests beside the late one, %d chunks obtained again", kept, beside, again)
			}
		})
	}
}
