package assemble

import (
	"context"
	"io"

	"github.com/ociv2-sync/ociv2-sync/caibx"
	"github.com/ociv2-sync/ociv2-sync/seed"
	"github.com/ociv2-sync/ociv2-sync/store"
)

// Copy writes the bytes that an index describes to w, from first to last, with
// up to jobs chunks requested at a time (0 means 16), every one verified.
func Copy(ctx context.Context, w io.Writer, x *caibx.Index, s store.Store, jobs int) error {
	if jobs <= 0 {
		jobs = 16
	}
	// A run of the same chunk, zeros mostly, is obtained once.
	var chunks []seed.Chunk
	var runs []int
	for i, c := range x.Chunks {
		off, size := x.Span(i)
		if n := len(chunks); n > 0 && chunks[n-1].ID == c.ID {
			runs[n-1]++
			continue
		}
		// What it is stored as is not known; at most MaxPacked is asked for.
		span := seed.Span{ID: c.ID, Size: size, Stored: store.MaxPacked(size)}
		chunks = append(chunks, seed.Chunk{Span: span, Offset: off})
		runs = append(runs, 1)
	}
	next := 0
	return inOrder(ctx, chunks, jobs, func(ctx context.Context, c *seed.Chunk) ([]byte, error) {
		return get(ctx, s, x.Algorithm(), c, c.Stored, nil)
	}, func(_ context.Context, _ *seed.Chunk, data []byte) error {
		for range runs[next] {
			if _, err := w.Write(data); err != nil {
				return err
			}
		}
		next++
		return nil
	})
}
