package assemble

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"

	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/seed"
	"github.com/ociv2-sync/ociv2-sync/store"
)

// fetch obtains the chunks of the plan, several at a time, and cuts the
// missing contents out of them in order.
func (b *builder) fetch(ctx context.Context) error {
	cut := &cutter{b: b, at: b.cursor()}
	defer cut.close()
	err := inOrder(ctx, b.job.Plan.Chunks, b.opts.Jobs, b.obtain, cut.use)
	if err != nil {
		return err
	}
	if cut.next < len(b.job.Plan.Missing) {
		return b.at(cut.content().Nodes[0], fmt.Errorf("%w: the plan has no chunks for it", seed.ErrSpace))
	}
	return nil
}

// obtain gets one chunk from where the plan says and verifies it.
func (b *builder) obtain(ctx context.Context, c *seed.Chunk) ([]byte, error) {
	if c.Origin == seed.Seeded {
		data, err := b.cutOut(ctx, c)
		if err == nil || ctx.Err() != nil {
			return data, err
		}
		b.opts.Logger.Warn("seed has changed, fetching a chunk instead",
			"seed", b.job.Plan.Seeds[c.Seed], "file", c.Path, "reason", err)
		b.lost.Add(1)
	}
	if c.Origin == seed.Cached || c.Origin == seed.Repeated {
		data, err := get(ctx, b.job.Cache, b.job.Algorithm, c, store.MaxPacked(c.Size), nil)
		if err == nil || ctx.Err() != nil {
			return data, err
		}
		// The cache is not synced to the disk while it fills, so a crash can
		// leave wrong bytes in it. They are fetched again.
		b.opts.Logger.Warn("cached chunk is of no use, fetching it", "chunk", c.ID, "reason", err)
		if err := b.job.Cache.Delete(ctx, c.ID); err != nil && !errors.Is(err, store.ErrNotFound) {
			return nil, err
		}
	}
	return get(ctx, b.job.Store, b.job.Algorithm, c, c.Stored, func(p store.Packed) error {
		b.received(int64(len(p.Data)))
		return b.job.Cache.Put(ctx, c.ID, p)
	})
}

// cutOut reads a chunk out of a seed's file and verifies it.
func (b *builder) cutOut(ctx context.Context, c *seed.Chunk) (_ []byte, err error) {
	f, err := b.job.Plan.Seeds[c.Seed].Open(ctx, c.Path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	at, ok := f.(io.ReaderAt)
	if !ok {
		return nil, errors.New("it is not a file")
	}
	data := make([]byte, c.Size)
	if _, err := at.ReadAt(data, c.At); err != nil {
		return nil, err
	}
	if b.job.Algorithm.Sum(data) != c.ID {
		return nil, errors.New("its bytes changed")
	}
	return data, nil
}

// get reads a chunk of at most limit packed bytes from s and verifies it; keep
// is then given its packed form.
func get(ctx context.Context, s store.Store, alg chunk.Algorithm, c *seed.Chunk, limit int64, keep func(store.Packed) error) ([]byte, error) {
	p, err := s.Get(ctx, c.ID, limit)
	if err != nil {
		return nil, err
	}
	data, err := store.Unpack(nil, p, alg, c.ID, c.Size)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s, err)
	}
	if keep != nil {
		err = keep(p)
	}
	return data, err
}

// cutter writes the missing contents of a plan out of its chunks, which come
// in the order of the byte space.
type cutter struct {
	b    *builder
	at   *cursor
	next int // in Plan.Missing: the content to be written next or being written
	file *os.File
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
		if err := t.b.complete(ctx, t.at, t.content(), f); err != nil {
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
		t.file, t.hash = f, sha256.New()
	}
	last := c.At + uint64(c.Size)
	from, to := max(c.At, offset), min(last, offset+uint64(len(data)))
	p := data[from-offset : to-offset]
	t.hash.Write(p)
	if _, err := t.file.Write(p); err != nil {
		return false, t.b.at(c.Nodes[0], err)
	}
	if to < last {
		return false, nil
	}
	if seed.Digest(t.hash.Sum(nil)) != c.Digest {
		return false, t.b.at(c.Nodes[0], fmt.Errorf("%w: its chunks make bytes of another SHA-256 than %x", ErrContent, c.Digest))
	}
	return true, nil
}
