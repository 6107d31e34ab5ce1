package assemble

import (
	"context"
	"io"
	"slices"

	"github.com/ociv2-sync/ociv2-sync/caibx"
	"github.com/ociv2-sync/ociv2-sync/seed"
	"github.com/ociv2-sync/ociv2-sync/store"
)

// Copy writes the bytes that an index describes to w, from first to last, with
// up to jobs chunks requested at a time (0 means 16), every one verified. near
// says what Job.Near does. w must not keep what it is given.
func Copy(ctx context.Context, w io.Writer, x *caibx.Index, s store.Store, jobs int, near bool) error {
	return CopyRange(ctx, w, x, s, jobs, near, 0, x.Size())
}

// CopyRange is Copy for the bytes from one offset to another, which are not
// beyond the end. Chunks outside the range are not requested.
func CopyRange(ctx context.Context, w io.Writer, x *caibx.Index, s store.Store, jobs int, near bool, from, to uint64) error {
	if jobs <= 0 {
		jobs = 16
	}
	// A run of the same chunk, zeros mostly, is obtained once.
	var chunks []seed.Chunk
	var runs []int
	if from >= to {
		return ctx.Err()
	}
	for i := x.Find(from); i < len(x.Chunks); i++ {
		off, size := x.Span(i)
		if off >= to {
			break
		}
		if n := len(chunks); n > 0 && chunks[n-1].ID == x.Chunks[i].ID {
			runs[n-1]++
			continue
		}
		// What it is stored as is not known; at most MaxPacked is asked for.
		span := seed.Span{ID: x.Chunks[i].ID, Size: size, Stored: store.MaxPacked(size)}
		chunks = append(chunks, seed.Chunk{Span: span, Offset: off})
		runs = append(runs, 1)
	}
	next := 0
	return inOrder(ctx, chunks, pace(jobs, near, 0), func(ctx context.Context, chunks []*seed.Chunk, data [][]byte) error {
		return get(ctx, s, x.Algorithm(), chunks, data, maxPacked, nil)
	}, func(_ context.Context, c *seed.Chunk, data []byte) error {
		off := c.Offset
		for range runs[next] {
			a, b := max(from, off)-off, min(to-off, c.Size)
			if _, err := w.Write(data[a:b]); err != nil {
				return err
			}
			off += c.Size
		}
		next++
		return nil
	})
}

// ReaderAt reads the bytes that an index describes wherever it is asked to,
// each chunk verified. It keeps the last few chunks and is not for several
// goroutines at once.
type ReaderAt struct {
	ctx   context.Context //nolint:containedctx // io.ReaderAt has no other way to be told
	index *caibx.Index
	store store.Store
	kept  []keptChunk // the latest first
}

type keptChunk struct {
	at   int // in the index
	data []byte
}

// maxKept is how many chunks a ReaderAt keeps: the two ends of a directory and
// of the one in it, where look-ups go back and forth.
const maxKept = 4

// NewReaderAt returns a ReaderAt of what x describes, for as long as ctx lasts.
func NewReaderAt(ctx context.Context, x *caibx.Index, s store.Store) *ReaderAt {
	return &ReaderAt{ctx: ctx, index: x, store: s}
}

// ReadAt implements [io.ReaderAt].
func (r *ReaderAt) ReadAt(p []byte, at int64) (int, error) {
	n := 0
	for n < len(p) {
		off := uint64(at) + uint64(n)
		if at < 0 || off >= r.index.Size() {
			return n, io.EOF
		}
		i := r.index.Find(off)
		data, err := r.get(i)
		if err != nil {
			return n, err
		}
		start, _ := r.index.Span(i)
		n += copy(p[n:], data[off-start:])
	}
	return n, nil
}

// get returns chunk i of the index.
func (r *ReaderAt) get(i int) ([]byte, error) {
	at := slices.IndexFunc(r.kept, func(k keptChunk) bool { return k.at == i })
	if at >= 0 {
		k := r.kept[at]
		r.kept = slices.Insert(slices.Delete(r.kept, at, at+1), 0, k)
		return k.data, nil
	}
	_, size := r.index.Span(i)
	c := &seed.Chunk{Span: seed.Span{ID: r.index.Chunks[i].ID, Size: size}}
	data := [][]byte{nil}
	if err := get(r.ctx, r.store, r.index.Algorithm(), []*seed.Chunk{c}, data, maxPacked, nil); err != nil {
		return nil, err
	}
	r.kept = slices.Insert(r.kept[:min(len(r.kept), maxKept-1)], 0, keptChunk{i, data[0]})
	return data[0], nil
}
