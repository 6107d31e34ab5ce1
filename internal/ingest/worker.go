package ingest

import (
	"context"
	"fmt"
	"slices"

	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/store"
)

// worker deals with one batch after the other. What it needs for that it keeps,
// so that a batch like the one before leaves no garbage.
type worker struct {
	*ingester
	packer *store.Packer
	packed []byte

	rest    [][]byte   // the chunks of the batch that are not of zeros
	restIDs []chunk.ID // their IDs

	mine    []int      // the chunks of the batch that this worker has to care for
	ask     []chunk.ID // their IDs
	missing []int      // those that the store lacks
	sizes   []int64    // packed; of mine
}

// do hashes the chunks of b and puts those that the store lacks.
func (w *worker) do(ctx context.Context, b *batch) error {
	b.ids = slices.Grow(b.ids[:0], len(b.chunks))[:len(b.chunks)]
	w.sum(b)

	var put Count
	var packed int64
	w.mine, w.sizes = w.mine[:0], w.sizes[:0]
	if w.writer != nil {
		w.claim(b)
		if err := w.look(ctx, b); err != nil {
			return err
		}
		for _, i := range w.missing {
			p := w.packer.Pack(w.packed, b.chunks[i])
			w.packed = p.Data
			if err := w.writer.Put(ctx, b.ids[i], p); err != nil {
				return err
			}
			put.Chunks++
			put.Bytes += int64(len(b.chunks[i]))
			packed += int64(len(p.Data))
		}
		if w.statter != nil {
			// Asked of all: another writer may have been faster, with another size.
			for _, i := range w.mine {
				n, err := w.statter.StoredSize(ctx, b.ids[i])
				if err != nil {
					return err
				}
				w.sizes = append(w.sizes, n)
			}
		}
	}

	w.mu.Lock()
	defer w.mu.Unlock()
	for t := range b.times {
		for i, id := range b.ids {
			w.index.Chunks[b.first+t*len(b.ids)+i].ID = id
		}
	}
	for k, n := range w.sizes {
		w.ingester.sizes[b.ids[w.mine[k]]] = n
	}
	r := &w.result
	r.New.Chunks += put.Chunks
	r.New.Bytes += put.Bytes
	size := int64(b.times) * int64(len(b.bytes))
	r.Reused.Chunks += b.times*len(b.chunks) - put.Chunks
	r.Reused.Bytes += size - put.Bytes
	r.Packed += packed
	w.done += size
	if w.progress != nil {
		w.progress(w.done)
	}
	return nil
}

// sum sets the IDs of b. Those of zeros are known.
func (w *worker) sum(b *batch) {
	size := w.cutter.ZeroSize()
	w.rest, w.restIDs = w.rest[:0], w.restIDs[:0]
	for i, c := range b.chunks {
		if len(c) == size && chunk.IsZero(c) {
			b.ids[i] = w.zeroID()
			continue
		}
		w.rest = append(w.rest, c)
	}
	if len(w.rest) == len(b.chunks) {
		w.alg.SumAll(b.ids, b.chunks)
		return
	}
	w.restIDs = slices.Grow(w.restIDs, len(w.rest))[:len(w.rest)]
	w.alg.SumAll(w.restIDs, w.rest)
	k := 0
	for i, c := range b.chunks {
		if k < len(w.rest) && &c[0] == &w.rest[k][0] {
			b.ids[i] = w.restIDs[k]
			k++
		}
	}
}

// claim sets mine to those chunks of b that no worker has taken on yet; they are
// this worker's from now on.
func (w *worker) claim(b *batch) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, id := range b.ids {
		if _, taken := w.ingester.sizes[id]; !taken {
			w.ingester.sizes[id] = 0
			w.mine = append(w.mine, i)
		}
	}
}

// look sets missing to those of mine that the store does not have, asking once.
func (w *worker) look(ctx context.Context, b *batch) error {
	w.missing = w.missing[:0]
	if w.checker == nil || len(w.mine) == 0 {
		w.missing = append(w.missing, w.mine...)
		return nil
	}
	w.ask = w.ask[:0]
	for _, i := range w.mine {
		w.ask = append(w.ask, b.ids[i])
	}
	ids, err := w.checker.Missing(ctx, w.ask)
	if err != nil {
		return err
	}
	for _, i := range w.mine { // ids are in the order of mine
		if len(ids) > 0 && b.ids[i] == ids[0] {
			w.missing, ids = append(w.missing, i), ids[1:]
		}
	}
	if len(ids) > 0 {
		return fmt.Errorf("the store misses chunk %s, which it was not asked for", ids[0])
	}
	return nil
}
