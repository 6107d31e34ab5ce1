package assemble

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"slices"

	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/internal/tree"
	"github.com/ociv2-sync/ociv2-sync/seed"
	"github.com/ociv2-sync/ociv2-sync/store"
)

// fetch obtains the chunks of the plan, several at a time, and cuts the
// missing contents out of them in order.
func (b *builder) fetch(ctx context.Context) error {
	cut := &cutter{b: b, at: b.cursor()}
	defer cut.close()
	p := pace(b.opts.Jobs, b.job.Near, len(b.job.Nodes))
	p.kept = !b.job.Near
	err := inOrder(ctx, b.job.Plan.Chunks, p, b.obtain, cut.use)
	if err != nil {
		return err
	}
	if cut.next < len(b.job.Plan.Missing) {
		return b.at(cut.content().Nodes[0], fmt.Errorf("%w: the plan has no chunks for it", seed.ErrSpace))
	}
	return nil
}

// obtain gets chunks from where the plan says and verifies them.
func (b *builder) obtain(ctx context.Context, chunks []*seed.Chunk, data [][]byte) error {
	for len(chunks) > 0 {
		n := 0
		for n < len(chunks) && chunks[n].Origin == seed.Fetched {
			n++
		}
		var err error
		if n > 0 {
			err = b.download(ctx, chunks[:n], data[:n])
		} else {
			n, err = 1, b.local(ctx, chunks[:1], data[:1])
		}
		if err != nil {
			return err
		}
		chunks, data = chunks[n:], data[n:]
	}
	return nil
}

// download gets chunks from the repository and keeps them in the cache.
func (b *builder) download(ctx context.Context, chunks []*seed.Chunk, data [][]byte) error {
	limit := func(c *seed.Chunk) int64 { return c.Stored }
	return get(ctx, b.job.Store, b.job.Algorithm, chunks, data, limit, func(c *seed.Chunk, p store.Packed) error {
		b.received(int64(len(p.Data)))
		return b.job.Cache.Put(ctx, c.ID, p)
	})
}

// local gets one chunk from a seed or from the cache, and from the repository if
// it is not there any more.
func (b *builder) local(ctx context.Context, chunks []*seed.Chunk, data [][]byte) (err error) {
	c := chunks[0]
	if c.Origin == seed.Seeded {
		if data[0], err = b.cutOut(ctx, c, data[0]); err == nil || ctx.Err() != nil {
			return err
		}
		b.missed(ctx, "seed has changed, fetching a chunk instead", c.Seed, c.Path, err)
		return b.download(ctx, chunks, data)
	}
	err = get(ctx, b.job.Cache, b.job.Algorithm, chunks, data, maxPacked, nil)
	if err == nil || ctx.Err() != nil {
		return err
	}
	// The cache is not synced to the disk while it fills, so a crash can
	// leave wrong bytes in it. They are fetched again.
	b.opts.Logger.Warn("cached chunk is of no use, fetching it", "chunk", c.ID, "reason", err)
	if err := b.job.Cache.Delete(ctx, c.ID); err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	return b.download(ctx, chunks, data)
}

// cutOut reads a chunk out of a seed's file, into dst if there is room, and
// verifies it.
func (b *builder) cutOut(ctx context.Context, c *seed.Chunk, dst []byte) (_ []byte, err error) {
	f, err := b.job.Plan.Seeds[c.Seed].Open(ctx, c.Path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data := slices.Grow(dst[:0], int(c.Size))[:c.Size]
	if at, ok := f.(io.ReaderAt); ok {
		_, err = at.ReadAt(data, c.At)
	} else if _, err = io.CopyN(io.Discard, f, c.At); err == nil {
		_, err = io.ReadFull(f, data) // as of a layer of compressed files
	}
	if err != nil {
		return nil, err
	}
	if b.job.Algorithm.Sum(data) != c.ID {
		return nil, errBytes
	}
	return data, nil
}

// maxPacked is the limit for a chunk whose stored size is not known.
func maxPacked(c *seed.Chunk) int64 { return store.MaxPacked(c.Size) }

// get reads chunks, of at most limit packed bytes each, from s and verifies them;
// keep, if there is one, is then given their packed forms.
func get(ctx context.Context, s store.Store, alg chunk.Algorithm, chunks []*seed.Chunk, data [][]byte,
	limit func(*seed.Chunk) int64, keep func(*seed.Chunk, store.Packed) error,
) error {
	packed, ids, sizes := make([]store.Packed, len(chunks)), make([]chunk.ID, len(chunks)), make([]uint64, len(chunks))
	for i, c := range chunks {
		p, err := s.Get(ctx, c.ID, limit(c))
		if err != nil {
			return err
		}
		packed[i], ids[i], sizes[i] = p, c.ID, c.Size
	}
	if err := store.UnpackAll(data, packed, alg, ids, sizes); err != nil {
		return fmt.Errorf("%s: %w", s, err)
	}
	if keep != nil {
		for i, c := range chunks {
			if err := keep(c, packed[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// cutter writes the missing contents of a plan out of its chunks, which come
// in the order of the byte space.
type cutter struct {
	b    *builder
	at   *cursor
	next int // in Plan.Missing: the content to be written next or being written
	file *os.File
	to   *tree.SparseWriter // to file
	hash hash.Hash
}

func (t *cutter) close() {
	if t.file != nil {
		t.file.Close()
	}
	t.at.close()
}

func (t *cutter) content() *seed.Content {
	return &t.b.job.Plan.Contents[t.b.job.Plan.Missing[t.next]]
}

func (t *cutter) use(ctx context.Context, c *seed.Chunk, data []byte) error {
	end := c.Offset + c.Size
	for t.next < len(t.b.job.Plan.Missing) && t.content().At < end {
		done, err := t.part(t.content(), c.Offset, data)
		if err != nil {
			return err
		}
		if !done {
			return nil // the rest is in the next chunk
		}
		f := t.file
		t.file = nil
		if err := t.b.complete(ctx, t.at, t.content(), t.b.places(t.content()), f); err != nil {
			return err
		}
		t.next++
	}
	return nil
}

// part writes what data, found at offset of the byte space, has of a content,
// and reports whether the content is complete and verified.
func (t *cutter) part(c *seed.Content, offset uint64, data []byte) (bool, error) {
	if t.file == nil {
		f, err := t.at.create(c.Nodes[0])
		if err != nil {
			return false, err
		}
		t.file, t.to, t.hash = f, tree.NewSparseWriter(f), sha256.New()
	}
	last := c.At + uint64(c.Size)
	from, to := max(c.At, offset), min(last, offset+uint64(len(data)))
	p := data[from-offset : to-offset]
	t.hash.Write(p)
	_, err := t.to.Write(p)
	if err == nil && to == last {
		err = t.to.End()
	}
	if err != nil {
		return false, t.b.at(c.Nodes[0], err)
	}
	if to < last {
		return false, nil
	}
	if seed.Digest(t.hash.Sum(nil)) != *c.Digest {
		return false, t.b.at(c.Nodes[0], fmt.Errorf("%w: its chunks make bytes of another SHA-256 than %x", ErrContent, *c.Digest))
	}
	return true, nil
}
