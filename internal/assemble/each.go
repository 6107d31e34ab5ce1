package assemble

import (
	"context"

	"github.com/ociv2-sync/ociv2-sync/caibx"
	"github.com/ociv2-sync/ociv2-sync/seed"
	"github.com/ociv2-sync/ociv2-sync/store"
)

// Each hands the verified bytes of chunks of an index to use, in the order of
// the list, which names them by their number in the index. Up to jobs are
// requested at a time; 0 means 16. near says what Job.Near does. use does not
// keep the bytes.
func Each(ctx context.Context, x *caibx.Index, list []int, s store.Store, jobs int, near bool, use func(i int, data []byte) error) error {
	if jobs <= 0 {
		jobs = 16
	}
	chunks := make([]seed.Chunk, len(list))
	for at, i := range list {
		off, size := x.Span(i)
		chunks[at] = seed.Chunk{Span: seed.Span{ID: x.Chunks[i].ID, Size: size, Stored: store.MaxPacked(size)}, Offset: off}
	}
	next := 0
	return inOrder(ctx, chunks, pace(jobs, near, 0), func(ctx context.Context, chunks []*seed.Chunk, data [][]byte) error {
		return get(ctx, s, x.Algorithm(), chunks, data, maxPacked, nil)
	}, func(_ context.Context, _ *seed.Chunk, data []byte) error {
		next++
		return use(list[next-1], data)
	})
}
