// Package ingest turns a byte stream into chunks in a store and the index that
// names them.
//
// The stream is read once, into batches of some megabytes, and stays where it was
// read: one goroutine reads and cuts, as many as there are jobs hash the chunks of
// a batch together, ask the store what it lacks, compress that alone and put it,
// and one more takes the digest of the whole stream if that is wanted. From four
// jobs on, as many as there are jobs look for cuts ahead of the one that decides,
// so that cutting is no bottleneck; the cuts are the same. Batches
// are few and reused, so that memory does not grow with the stream, save for the
// index itself (some hundred bytes a chunk).
package ingest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/ociv2-sync/ociv2-sync/caibx"
	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/store"
)

const (
	// batchMemory is what all batches together hold, unless single chunks are
	// larger than a batch.
	batchMemory = 16 << 20
	// maxBatch is what a batch holds at most, unless a chunk is larger: enough
	// chunks for a question to the store and to be hashed together, few enough to
	// keep all workers busy.
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
	// Compression is that of the chunks that the store lacks.
	Compression store.Compression
	// Jobs is the number of workers. 0 means one for each processor.
	Jobs int
	// Digest asks for the digest of the whole stream, in the same pass.
	Digest bool
	// Progress, if set, is told now and then how many bytes of the stream have
	// been dealt with. Calls do not overlap.
	Progress func(done int64)
}

// Result is what became of a stream.
type Result struct {
	Index *caibx.Index
	// Digest is that of the whole stream, under the algorithm of the index, if
	// it was asked for.
	Digest chunk.ID
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

// Sparse is what a reader may be as well: it then knows of zeros without reading
// them, and runs of them cost nothing but their entries in the index.
type Sparse interface {
	// Zeros returns how many of the next bytes are zeros; it may be fewer than
	// there are.
	Zeros() (int64, error)
	// Skip passes over bytes that Zeros told of.
	Skip(n int64)
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
	s.makeBatches(jobs)
	work := make(chan *batch)
	whole := make(chan *batch, cap(s.free)) // never full

	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(work)
		defer close(whole)
		return s.cut(gctx, func(b *batch) error {
			b.users.Store(1)
			if o.Digest {
				b.users.Store(2)
				whole <- b
			}
			select {
			case work <- b:
				return nil
			case <-gctx.Done():
				return gctx.Err()
			}
		})
	})
	if o.Digest {
		g.Go(func() error {
			s.digest(gctx, whole)
			return nil
		})
	}
	for range jobs {
		g.Go(func() error {
			w := worker{ingester: s}
			if s.writer != nil {
				w.packer = store.NewPacker(o.Compression, o.Params.Max)
			}
			for b := range work {
				if err := w.do(gctx, b); err != nil {
					return err
				}
				s.release(b)
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

// batch is a piece of the stream.
type batch struct {
	data   []byte
	bytes  []byte   // whole chunks, a part of data; what comes behind belongs to the next batch
	chunks [][]byte // these, one after the other
	times  int      // how often the stream has them in a row; more than once a chunk of zeros alone
	first  int      // the number of the first one in the stream
	ids    []chunk.ID
	users  atomic.Int32 // who are not yet done with it

	// What is read ahead has room for the end of the batch before it.
	marks  []uint64
	marked chan struct{} // has one when marks is there
	last   bool          // of the stream
}

// ingester is the state of one Stream.
type ingester struct {
	r        io.Reader
	sparse   Sparse // r, if it is one
	cutter   *chunk.Cutter
	maxChunk int
	alg      chunk.Algorithm
	zeroID   func() chunk.ID // of a chunk in a run of zeros
	progress func(int64)

	batchSize int
	ahead     int         // how many look for cuts ahead of the one that decides; 0 for none
	free      chan *batch // there is room for all

	writer  store.Writer // nil without a store
	checker store.Checker
	statter store.Statter

	mu     sync.Mutex
	index  *caibx.Index       // a batch's chunks come when it is cut, their IDs when it is done
	sizes  map[chunk.ID]int64 // packed; of each ID that a worker has taken on
	result Result
	done   int64
}

func newIngester(r io.Reader, o Options) (*ingester, error) {
	c, err := chunk.NewCutter(o.Params)
	if err != nil {
		return nil, err
	}
	s := &ingester{
		r:        r,
		cutter:   c,
		maxChunk: int(o.Params.Max),
		progress: o.Progress,
		index:    &caibx.Index{FeatureFlags: o.FeatureFlags, Params: o.Params},
		sizes:    make(map[chunk.ID]int64),
	}
	if err := s.index.Validate(); err != nil {
		return nil, err
	}
	s.alg = s.index.Algorithm()
	s.sparse, _ = r.(Sparse)
	s.zeroID = sync.OnceValue(func() chunk.ID { return s.alg.Sum(make([]byte, c.ZeroSize())) })
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

// makeBatches makes the batches that as many workers as jobs are kept busy with.
func (s *ingester) makeBatches(jobs int) {
	// One for each worker, and one to be read into while another is handed on.
	batches := jobs + 2
	if jobs >= aheadFrom {
		batches += jobs + 1 // and as many that are marked
	}
	s.batchSize = min(maxBatch, batchMemory/batches)
	if jobs >= aheadFrom && s.maxChunk <= s.batchSize/2 {
		s.ahead = jobs
	}
	s.free = make(chan *batch, batches)
	for range batches {
		s.free <- &batch{marked: make(chan struct{}, 1)}
	}
}

// digest takes the digest of the whole stream. It goes on to the end of whole also when
// ctx ends: the batches are waited for.
func (s *ingester) digest(ctx context.Context, whole <-chan *batch) {
	h := s.alg.New()
	for b := range whole {
		for range b.times {
			if ctx.Err() != nil {
				break // a run of zeros may be long
			}
			h.Write(b.bytes)
		}
		s.release(b)
	}
	s.result.Digest = chunk.ID(h.Sum(nil))
}

// release says that one user is done with b.
func (s *ingester) release(b *batch) {
	if b.users.Add(-1) == 0 {
		s.free <- b
	}
}

// finish completes the result once all workers are done.
func (s *ingester) finish() *Result {
	if s.statter != nil {
		s.result.Stored = make([]int64, len(s.index.Chunks))
		for i, c := range s.index.Chunks {
			s.result.Stored[i] = s.sizes[c.ID]
		}
	}
	s.result.Index = s.index
	return &s.result
}
