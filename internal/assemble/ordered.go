package assemble

import (
	"context"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/seed"
)

// inFlight bounds the memory of chunks that were asked for and not yet used,
// packed and unpacked, in bytes. One chunk is always let through, however
// large.
const inFlight = 24 << 20

// arrival is a chunk on its way; data is set when done is closed.
type arrival struct {
	chunk *seed.Chunk
	done  chan struct{}
	first *arrival // for a repeated chunk: the one of the same id before it
	data  []byte   // verified
	cost  int64    // what it holds of the memory bound
}

// inOrder obtains chunks, up to jobs at a time, and hands the bytes of each to
// use in the order of the list, whatever order they arrive in. A repeated
// chunk is obtained only after the first of its kind has been.
func inOrder(ctx context.Context, chunks []seed.Chunk, jobs int,
	obtain func(context.Context, *seed.Chunk) ([]byte, error),
	use func(context.Context, *seed.Chunk, []byte) error,
) error {
	g, ctx := errgroup.WithContext(ctx)
	mem := semaphore.NewWeighted(inFlight)
	todo := make(chan *arrival)
	queue := make(chan *arrival, 8*jobs)
	g.Go(func() error {
		defer close(todo)
		defer close(queue)
		return begin(ctx, chunks, mem, queue, todo)
	})
	for range jobs {
		g.Go(func() error {
			for a := range todo {
				if a.first != nil {
					if err := wait(ctx, a.first.done); err != nil {
						return err
					}
				}
				var err error
				if a.data, err = obtain(ctx, a.chunk); err != nil {
					return err
				}
				close(a.done)
			}
			return nil
		})
	}
	g.Go(func() error {
		for a := range queue {
			if err := wait(ctx, a.done); err != nil {
				return err
			}
			if err := use(ctx, a.chunk, a.data); err != nil {
				return err
			}
			a.data = nil // a repeated chunk may still point here
			mem.Release(a.cost)
		}
		return ctx.Err()
	})
	return g.Wait()
}

// begin puts every chunk into the queue of those to be used and then into that
// of those to be obtained, as memory allows. In this order, whoever waits for
// a chunk waits for one that has a worker or gets the next one that is free.
func begin(ctx context.Context, chunks []seed.Chunk, mem *semaphore.Weighted, queue, todo chan<- *arrival) error {
	first := make(map[chunk.ID]*arrival)
	for i := range chunks {
		c := &chunks[i]
		a := &arrival{chunk: c, done: make(chan struct{}), cost: min(int64(c.Size)+c.Stored, inFlight)}
		if c.Origin == seed.Repeated {
			a.first = first[c.ID]
		} else {
			first[c.ID] = a
		}
		if err := mem.Acquire(ctx, a.cost); err != nil {
			return err
		}
		for _, ch := range []chan<- *arrival{queue, todo} {
			select {
			case ch <- a:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	return nil
}

func wait(ctx context.Context, done <-chan struct{}) error {
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
