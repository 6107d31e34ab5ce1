package ingest

import (
	"context"
	"fmt"
	"maps"

	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/store"
)

// worker deals with one batch after the other.
type worker struct {
	*ingester
	packer *store.Packer
	packed []byte // reused
}

// piece is a chunk of a batch that this worker has to care for.
type piece struct {
	id   chunk.ID
	data []byte
}

// do hashes the chunks of b and puts those that the store lacks.
func (w *worker) do(ctx context.Context, b *batch) error {
	ids := make([]chunk.ID, len(b.ends))
	pieces := make([]piece, len(b.ends))
	start := 0
	for i, end := range b.ends {
		data := b.data[start:end]
		ids[i] = w.alg.Sum(data)
		pieces[i] = piece{id: ids[i], data: data}
		start = end
	}
	total := Count{Chunks: len(ids), Bytes: int64(len(b.data))}
	var put Count
	var packed int64
	sizes := make(map[chunk.ID]int64)
	if w.writer != nil {
		mine := w.claim(pieces)
		missing, err := w.missing(ctx, mine)
		if err != nil {
			return err
		}
		for _, p := range missing {
			n, err := w.put(ctx, p)
			if err != nil {
				return err
			}
			put.Chunks++
			put.Bytes += int64(len(p.data))
			packed += n
		}
		if w.statter != nil {
			// Asked of all: another writer may have been faster, with another size.
			for _, p := range mine {
				if sizes[p.id], err = w.statter.StoredSize(ctx, p.id); err != nil {
					return err
				}
			}
		}
	}

	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.ids) <= b.serial {
		w.ids = append(w.ids, nil)
	}
	w.ids[b.serial] = ids
	maps.Copy(w.sizes, sizes)
	r := &w.result
	r.New.Chunks += put.Chunks
	r.New.Bytes += put.Bytes
	r.Reused.Chunks += total.Chunks - put.Chunks
	r.Reused.Bytes += total.Bytes - put.Bytes
	r.Packed += packed
	w.done += total.Bytes
	if w.progress != nil {
		w.progress(w.done)
	}
	return nil
}

// claim returns those of pieces that no worker has taken on yet; they are this
// worker's from now on.
func (w *worker) claim(pieces []piece) []piece {
	w.mu.Lock()
	defer w.mu.Unlock()
	mine := make([]piece, 0, len(pieces))
	for _, p := range pieces {
		if _, taken := w.sizes[p.id]; !taken {
			w.sizes[p.id] = 0
			mine = append(mine, p)
		}
	}
	return mine
}

// missing returns those of pieces that the store does not have, asking once.
func (w *worker) missing(ctx context.Context, pieces []piece) ([]piece, error) {
	if w.checker == nil || len(pieces) == 0 {
		return pieces, nil
	}
	ask := make([]chunk.ID, len(pieces))
	for i, p := range pieces {
		ask[i] = p.id
	}
	ids, err := w.checker.Missing(ctx, ask)
	if err != nil {
		return nil, err
	}
	var missing []piece
	for _, p := range pieces { // ids are in the order of pieces
		if len(ids) > 0 && p.id == ids[0] {
			missing, ids = append(missing, p), ids[1:]
		}
	}
	if len(ids) > 0 {
		return nil, fmt.Errorf("the store misses chunk %s, which it was not asked for", ids[0])
	}
	return missing, nil
}

// put compresses and stores p and returns its packed size.
func (w *worker) put(ctx context.Context, p piece) (int64, error) {
	c := w.packer.Pack(w.packed, p.data)
	w.packed = c.Data
	return int64(len(c.Data)), w.writer.Put(ctx, p.id, c)
}
