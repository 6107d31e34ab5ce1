package assemble

import (
	"context"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/seed"
)

// inFlight bounds the memory of chunks that were asked for and not yet used,
// packed and unpacked, in bytes. One chunk is always let through, however
// large. What the nodes of a large image take is taken from it, down to a least: their
// files are made no faster than chunks arrive.
const (
	inFlight      = 24 << 20
	inFlightLeast = 6 << 20
	perNode       = 90
)

// inFlightNear is that bound for a store that answers at once.
const inFlightNear = 8 << 20

// arrival is a chunk on its way; data is set when done is closed.
type arrival struct {
	chunk *seed.Chunk
	done  chan struct{}
	first *arrival // for a repeated chunk: the one of the same id before it
	data  []byte   // verified; nil if it is to be obtained again
	cost  int64    // what it holds of the memory bound
}

// together is how many chunks one job obtains and verifies together from a store
// that answers at once: a few for each of the eight that are hashed side by side,
// because they differ in length.
const together = 24

// shares is how many groups at least have room in memory, so that some are obtained
// while others are used.
const shares = 4

// pacing says how many chunks are worked on at a time.
type pacing struct {
	jobs   int   // at a time
	group  int   // chunks of one job, obtained together
	memory int64 // bound in bytes
	kept   bool  // what was obtained once is had again at once, as a cached chunk
}

// patience is how long the chunk that is to be used next may be late before those that
// come after it give up their memory, if that keeps others from being requested: a
// large chunk takes long where many smaller ones share the link with it.
const patience = 200 * time.Millisecond

// pace returns the pacing for a store, while a number of nodes is kept in memory: a store
// that is far gets as many requests as there are jobs; one that is near hardly keeps a
// job waiting, so that more of them than processors only use memory.
func pace(jobs int, near bool, nodes int) pacing {
	if near {
		return pacing{jobs: min(jobs, runtime.GOMAXPROCS(0)+1), group: together, memory: inFlightNear}
	}
	return pacing{jobs: jobs, group: 1, memory: max(inFlight-perNode*int64(nodes), inFlightLeast)}
}

// inOrder obtains chunks, several at a time, and hands the bytes of each to
// use in the order of the list, whatever order they arrive in. A repeated
// chunk is obtained alone, and only after the first of its kind has been.
// obtain sets data[i] to the bytes of chunks[i] and may use the storage of what
// it finds there; use must not keep what it is given. With p.kept a chunk that came
// long before its turn may be obtained again when it is used, in one chunk more than
// the memory allows.
func inOrder(ctx context.Context, chunks []seed.Chunk, p pacing,
	obtain func(_ context.Context, chunks []*seed.Chunk, data [][]byte) error,
	use func(context.Context, *seed.Chunk, []byte) error,
) error {
	g, ctx := errgroup.WithContext(ctx)
	q := &ordered{
		pacing: p,
		mem:    semaphore.NewWeighted(p.memory),
		queue:  make(chan *arrival, 8*p.jobs*p.group),
		todo:   make(chan []*arrival),
		spare:  spares{limit: int(p.memory / 4)},
	}
	g.Go(func() error {
		defer close(q.todo)
		defer close(q.queue)
		return q.begin(ctx, chunks)
	})
	for range p.jobs {
		g.Go(func() error {
			for group := range q.todo {
				if err := q.obtain(ctx, group, obtain); err != nil {
					return err
				}
			}
			return nil
		})
	}
	g.Go(func() error {
		for a := range q.queue {
			if err := q.await(ctx, a); err != nil {
				return err
			}
			if a.data == nil {
				if err := q.again(ctx, a, obtain); err != nil {
					return err
				}
			}
			if err := use(ctx, a.chunk, a.data); err != nil {
				return err
			}
			q.spare.put(a.data)
			a.data = nil // a repeated chunk may still point to a
			q.mem.Release(a.cost)
		}
		return ctx.Err()
	})
	return g.Wait()
}

// ordered is the state of inOrder.
type ordered struct {
	pacing
	mem   *semaphore.Weighted
	queue chan *arrival   // to be used, in order
	todo  chan []*arrival // to be obtained, in groups
	spare spares

	late  atomic.Pointer[arrival] // is waited for, and has been for long
	short atomic.Bool             // no chunk is requested, for want of memory
}

// await waits for the chunk that is to be used next.
func (q *ordered) await(ctx context.Context, a *arrival) error {
	select {
	case <-a.done:
		return nil
	default:
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-a.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
	}
	q.late.Store(a)
	defer q.late.Store(nil)
	return wait(ctx, a.done)
}

// again obtains a chunk for the second time.
func (q *ordered) again(ctx context.Context, a *arrival, obtain func(context.Context, []*seed.Chunk, [][]byte) error) error {
	c := *a.chunk
	if c.Origin == seed.Fetched {
		c.Origin = seed.Cached
	}
	data := [][]byte{q.spare.take(c.Size)}
	err := obtain(ctx, []*seed.Chunk{&c}, data)
	a.data = data[0]
	return err
}

// inTheWay reports whether a chunk that has come holds memory that is needed to request
// others, while it cannot be used itself.
func (q *ordered) inTheWay(a *arrival) bool {
	late := q.late.Load()
	return q.kept && q.short.Load() && late != nil && late != a
}

// obtain gets the chunks of a group.
func (q *ordered) obtain(ctx context.Context, group []*arrival, obtain func(context.Context, []*seed.Chunk, [][]byte) error) error {
	if first := group[0].first; first != nil {
		if err := wait(ctx, first.done); err != nil {
			return err
		}
	}
	chunks, data := make([]*seed.Chunk, len(group)), make([][]byte, len(group))
	for i, a := range group {
		chunks[i] = a.chunk
		data[i] = q.spare.take(a.chunk.Size)
	}
	if err := obtain(ctx, chunks, data); err != nil {
		return err
	}
	for i, a := range group {
		free := min(a.chunk.Stored, a.cost) // what is packed is garbage now
		if q.inTheWay(a) {
			q.spare.put(data[i])
			free = a.cost
		} else {
			a.data = data[i]
		}
		a.cost -= free
		q.mem.Release(free)
		close(a.done)
	}
	return nil
}

// begin puts the chunks, in groups, into the queue of those to be used and then
// into that of those to be obtained, as memory allows: for a whole group at once, so
// that groups stay large where memory is short. Whoever waits for memory, or for a
// chunk, waits for groups that have a worker or get the next one that is free.
func (q *ordered) begin(ctx context.Context, chunks []seed.Chunk) error {
	first := make(map[chunk.ID]*arrival)
	var group []*arrival
	var cost int64
	flush := func() error {
		if len(group) == 0 {
			return nil
		}
		if err := q.acquire(ctx, cost); err != nil {
			return err
		}
		for _, a := range group {
			select {
			case q.queue <- a:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		select {
		case q.todo <- group:
			group, cost = nil, 0
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	for i := range chunks {
		c := &chunks[i]
		a := &arrival{chunk: c, done: make(chan struct{}), cost: min(int64(c.Size)+c.Stored, q.memory)}
		if c.Origin == seed.Repeated {
			a.first = first[c.ID]
		} else {
			first[c.ID] = a
		}
		alone := a.first != nil || len(group) > 0 && group[0].first != nil
		if alone || len(group) == q.group || cost+a.cost > q.memory/shares {
			if err := flush(); err != nil {
				return err
			}
		}
		group, cost = append(group, a), cost+a.cost
	}
	return flush()
}

// acquire waits for memory, and says so.
func (q *ordered) acquire(ctx context.Context, cost int64) error {
	if q.mem.TryAcquire(cost) {
		return nil
	}
	q.short.Store(true)
	defer q.short.Store(false)
	return q.mem.Acquire(ctx, cost)
}

func wait(ctx context.Context, done <-chan struct{}) error {
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
