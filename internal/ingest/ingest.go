// Package ingest turns a byte stream into chunks in a store and the index that
// names them.
//
// The stream is read once and every byte hashed once. Chunks travel in batches:
// one goroutine cuts, as many as there are jobs hash, ask the store what it
// lacks, compress that alone and put it. Batches are few and reused, so that
// memory does not grow with the stream, save for the index itself (some hundred
// bytes a chunk).
package ingest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/ociv2-sync/ociv2-sync/caibx"
	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/store"
)

const (
	// batchMemory is what all batches together hold, unless single chunks are
	// larger than a batch.
	batchMemory = 16 << 20
	// maxBatch is what a batch holds at most: enough chunks for a question to
	// the store, few enough to keep all workers busy.
	maxBatch = 2 << 20
)

// Options say how a stream is ingested. Params must be set; the zero value of
// the rest works.
type Options struct {
	Params chunk.Params
	// FeatureFlags go into the index; they also choose the digest algorithm.
	FeatureFlags uint64
	// Store takes the chunks. It must be a [store.Writer]; being a
	// [store.Checker] saves it what it has, and being a [store.Statter] gives
	// Result.Stored. nil makes the index alone.
	Store store.Store
	// Level is the compression level of [store.NewPacker].
	Level int
	// Jobs is the number of workers. 0 means one for each processor.
	Jobs int
	// Progress, if set, is told now and then how many bytes of the stream have
	// been dealt with. Calls do not overlap.
	Progress func(done int64)
}

// Result is what became of a stream.
type Result struct {
	Index *caibx.Index
	// Stored has the packed size in bytes of each chunk of the index as it is in
	// the store; nil if the store cannot tell.
	Stored []int64
	// New counts the chunks that were put, Reused all others: those that the
	// store had, and repetitions within the stream.
	New, Reused Count
	// Packed is the size in bytes of the new chunks as they were put.
	Packed int64
}

// Count is a number of chunks and of their uncompressed bytes.
type Count struct {
	Chunks int
	Bytes  int64
}

// Stream reads r to its end, puts its chunks into the store and returns the
// index. On error nothing is returned; chunks that were put stay, and make the
// next attempt shorter. When ctx ends Stream returns once the Read that is under
// way does: a caller whose reader may block unblocks it then.
func Stream(ctx context.Context, r io.Reader, o Options) (*Result, error) {
	s, err := newIngester(r, o)
	if err != nil {
		return nil, fmt.Errorf("ingest: %w", err)
	}
	jobs := o.Jobs
	if jobs <= 0 {
		jobs = runtime.GOMAXPROCS(0)
	}
	s.batchSize = min(maxBatch, batchMemory/(jobs+1))
	work := make(chan *batch)
	free := make(chan *batch, jobs+1)
	for range jobs + 1 {
		free <- new(batch)
	}

	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(work)
		return s.cut(gctx, free, work)
	})
	for range jobs {
		g.Go(func() error {
			w := worker{ingester: s}
			if s.writer != nil {
				w.packer = store.NewPacker(o.Level, o.Params.Max)
			}
			for b := range work {
				if err := w.do(gctx, b); err != nil {
					return err
				}
				free <- b // there is room for all
			}
			return nil
		})
	}
	err = g.Wait()
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return nil, fmt.Errorf("ingest: %w", err)
	}
	return s.finish(), nil
}

// batch is a run of chunks on the way to a worker.
type batch struct {
	serial int    // its place in the stream
	data   []byte // the chunks, one after the other
	ends   []int  // where in data each one ends
}

// ingester is the state of one Stream.
type ingester struct {
	chunker  *chunk.Chunker
	alg      chunk.Algorithm
	progress func(int64)

	batchSize int

	writer  store.Writer // nil without a store
	checker store.Checker
	statter store.Statter

	index *caibx.Index // by cut alone until all is done; IDs come at the end

	mu     sync.Mutex
	ids    [][]chunk.ID       // by batch
	sizes  map[chunk.ID]int64 // packed; of each ID that a worker has taken on
	result Result
	done   int64
}

func newIngester(r io.Reader, o Options) (*ingester, error) {
	c, err := chunk.NewChunker(r, o.Params)
	if err != nil {
		return nil, err
	}
	s := &ingester{
		chunker:  c,
		progress: o.Progress,
		index:    &caibx.Index{FeatureFlags: o.FeatureFlags, Params: o.Params},
		sizes:    make(map[chunk.ID]int64),
	}
	if err := s.index.Validate(); err != nil {
		return nil, err
	}
	s.alg = s.index.Algorithm()
	if o.Store != nil {
		var ok bool
		if s.writer, ok = store.As[store.Writer](o.Store); !ok {
			return nil, fmt.Errorf("store %s: it takes no chunks: %w", o.Store, errors.ErrUnsupported)
		}
		s.checker, _ = store.As[store.Checker](o.Store)
		s.statter, _ = store.As[store.Statter](o.Store)
	}
	return s, nil
}

// cut fills free batches with chunks and hands them to work.
func (s *ingester) cut(ctx context.Context, free <-chan *batch, work chan<- *batch) error {
	var b *batch
	send := func() error {
		if b == nil {
			return nil
		}
		select {
		case work <- b:
			b = nil
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	end := uint64(0)
	for serial := 0; ; {
		if err := ctx.Err(); err != nil {
			return err
		}
		piece, err := s.chunker.Next()
		if err == io.EOF { //nolint:errorlint // the bare value alone is the end
			return send()
		}
		if err != nil {
			return err
		}
		if b != nil && len(b.data)+len(piece) > s.batchSize {
			if err := send(); err != nil {
				return err
			}
		}
		if b == nil {
			select {
			case b = <-free:
			case <-ctx.Done():
				return ctx.Err()
			}
			b.serial, b.data, b.ends = serial, b.data[:0], b.ends[:0]
			serial++
		}
		b.data = append(b.data, piece...)
		b.ends = append(b.ends, len(b.data))
		end += uint64(len(piece))
		s.index.Chunks = append(s.index.Chunks, caibx.Chunk{End: end})
	}
}

// finish completes index and result once all workers are done.
func (s *ingester) finish() *Result {
	i := 0
	for _, ids := range s.ids {
		for _, id := range ids {
			s.index.Chunks[i].ID = id
			i++
		}
	}
	if s.statter != nil {
		s.result.Stored = make([]int64, len(s.index.Chunks))
		for i, c := range s.index.Chunks {
			s.result.Stored[i] = s.sizes[c.ID]
		}
	}
	s.result.Index = s.index
	return &s.result
}
