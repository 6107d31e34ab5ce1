package casyncproto

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"

	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/store"
)

// Linux's numbers of the errors that we send, which do not depend on the
// machine that we run on as the constants of package syscall do.
const (
	errnoAbsent      = 2
	errnoIO          = 5
	errnoTooLarge    = 27
	errnoProtocol    = 71
	errnoUnsupported = 95
)

// maxQueue bounds the requests that a client may have waiting: more are left in
// the pipe.
const maxQueue = 1 << 20

// Source is what a client may pull. What is nil is not offered.
type Source struct {
	Archive, Index io.Reader
	Store          store.Store
}

// services returns what the source offers.
func (s Source) services() Flags {
	var f Flags
	if s.Archive != nil {
		f |= ReadableArchive
	}
	if s.Index != nil {
		f |= ReadableIndex
	}
	if s.Store != nil {
		f |= ReadableStore
	}
	return f
}

// agree exchanges HELLOs and checks that the other side wants nothing but what
// allowed names for our services.
func (c *Conn) agree(services Flags, allowed map[Flags]Flags) (Flags, error) {
	if err := c.Hello(services); err != nil {
		return 0, err
	}
	f, err := c.Read()
	if err != nil {
		return 0, err
	}
	wants, err := f.Hello()
	if err != nil {
		return 0, err
	}
	rest := wants
	for want, need := range allowed {
		if services&need == need {
			rest &^= want
		}
	}
	const operations = PullChunks | PullIndex | PullArchive | PushChunks | PushIndex | PushIndexChunks | PushArchive
	if rest &= operations; rest != 0 {
		return 0, fmt.Errorf("%w: it wants what is not offered: %x of %x", ErrProtocol, uint64(rest), uint64(wants))
	}
	if wants&operations == 0 {
		return 0, fmt.Errorf("%w: it wants nothing", ErrProtocol)
	}
	return wants, nil
}

// ServePull gives the client at the other end what it asks for, until it says
// goodbye or ends the conversation, and closes c. Chunks are sent as the store
// has them, unverified, as the client verifies them; those that are not
// compressed are, as some clients expect no others.
func ServePull(ctx context.Context, c *Conn, src Source) error {
	return c.serve(ctx, func() error {
		wants, err := c.agree(src.services(), map[Flags]Flags{PullArchive: ReadableArchive, PullIndex: ReadableIndex, PullChunks: ReadableStore})
		if err != nil {
			return err
		}
		if wants&PullArchive != 0 {
			if err := c.stream(TypeArchive, TypeArchiveEOF, copying(src.Archive)); err != nil {
				return err
			}
		}
		if wants&PullIndex != 0 {
			if err := c.stream(TypeIndex, TypeIndexEOF, copying(src.Index)); err != nil {
				return err
			}
		}
		return c.answer(ctx, src.Store)
	})
}

// serve runs a conversation, tells the other side why it fails if it does, and
// closes c.
func (c *Conn) serve(ctx context.Context, talk func() error) (err error) {
	stop := context.AfterFunc(ctx, func() { _ = c.Close() }) // ends what is blocked; the error is ctx's
	defer stop()
	err = talk()
	c.GiveUp(err)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return errors.Join(err, c.Close())
}

// GiveUp tells the other side about err, if that is what ends the conversation
// and neither side has said so. A nil err means nothing.
func (c *Conn) GiveUp(err error) {
	if _, theirs := errors.AsType[*AbortError](err); err == nil || theirs || c.aborted {
		return
	}
	_ = c.Abort(errno(err), err.Error()) // that nobody listens matters less than err
}

// GaveUp reports whether it was this side that ended the conversation, for a reason
// of its own.
func (c *Conn) GaveUp() bool { return c.aborted }

// errno returns the number that tells what kind of error err is.
func errno(err error) uint64 {
	switch {
	case errors.Is(err, ErrProtocol):
		return errnoProtocol
	case errors.Is(err, fs.ErrNotExist):
		return errnoAbsent
	case errors.Is(err, store.ErrTooLarge):
		return errnoTooLarge
	case errors.Is(err, errors.ErrUnsupported):
		return errnoUnsupported
	}
	return errnoIO
}

// answer sends what is requested. One goroutine reads, so that urgent requests
// overtake others; it ends with the conversation, which every way out of here
// closes.
func (c *Conn) answer(ctx context.Context, s store.Store) (err error) {
	q := newQueue()
	var reading sync.WaitGroup
	reading.Go(func() {
		err := c.readRequests(q)
		if errors.Is(err, io.EOF) {
			err = nil // casync goes without a word
		}
		q.end(err)
	})
	defer func() {
		c.GiveUp(err)
		q.end(err)
		_ = c.Close() // ends the reader
		reading.Wait()
	}()
	return c.sendRequested(ctx, q, s, func(id chunk.ID) error {
		q.missing(id)
		return c.Missing(id)
	}, nil)
}

// sendRequested sends the chunks in q until that ends. It calls missing for those
// that the store lacks, and sent, if it is not nil, for those that it has sent,
// with their packed sizes.
func (c *Conn) sendRequested(ctx context.Context, q *queue, s store.Store, missing func(chunk.ID) error, sent func(chunk.ID, int)) error {
	var packer *store.Packer
	var buf []byte
	for {
		id, ok, err := c.nextRequested(q)
		if !ok {
			return err
		}
		p, err := s.Get(ctx, id, int64(MaxData))
		if errors.Is(err, store.ErrNotFound) {
			if err := missing(id); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		if p.Form == store.Raw {
			if packer == nil {
				packer = store.NewPacker(0, chunk.DefaultParams().Max)
			}
			p = packer.Pack(buf, p.Data)
			buf = p.Data
			if len(p.Data) > MaxData {
				return fmt.Errorf("chunk %s: %w", id, store.ErrTooLarge)
			}
		}
		if err := c.Chunk(id, p.Data); err != nil {
			return err
		}
		if sent != nil {
			sent(id, len(p.Data))
		}
	}
}

// nextRequested takes the next chunk out of q, and reports whether there is one. Where it
// has to wait for that, and at the end, what was written so far is sent.
func (c *Conn) nextRequested(q *queue) (_ chunk.ID, ok bool, err error) {
	id, ok, idle, err := q.pop(false)
	if idle {
		if err := c.Flush(); err != nil {
			return id, false, err
		}
		id, ok, _, err = q.pop(true)
	}
	if !ok {
		return id, false, errors.Join(err, c.Flush())
	}
	return id, true, nil
}

// readRequests puts requests into q until the other side says goodbye, or ends
// without a word, which is io.EOF.
func (c *Conn) readRequests(q *queue) error {
	for {
		f, err := c.Read()
		if err != nil {
			return err
		}
		if f.Type == TypeGoodbye {
			return f.Empty()
		}
		high, ids, err := f.Request()
		if err != nil {
			return err
		}
		if !q.push(high, ids) {
			return io.EOF // nobody is listened to any more
		}
	}
}

// queue has the chunks that are to be sent, the urgent ones first.
//
// Casync requests all that it lacks, and each chunk again, urgently, when it
// comes to need it; it keeps what it gets. Such a client, known by requests that
// are not urgent or of several chunks, is sent nothing twice. Desync keeps
// nothing, makes one request at a time and waits for the answer to each.
type queue struct {
	mu        sync.Mutex
	changed   sync.Cond
	urgent    []chunk.ID
	other     []chunk.ID
	waiting   map[chunk.ID]bool // in the queue; true if in urgent
	sent      map[chunk.ID]struct{}
	remembers bool // the client keeps what it gets
	ended     bool
	err       error
}

func newQueue() *queue {
	q := &queue{waiting: make(map[chunk.ID]bool), sent: make(map[chunk.ID]struct{})}
	q.changed.L = &q.mu
	return q
}

// push adds requests, and waits if there are too many. It reports false when
// the queue has ended.
func (q *queue) push(high bool, ids []chunk.ID) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !high || len(ids) > 1 {
		q.remembers = true
	}
	for _, id := range ids {
		for len(q.urgent)+len(q.other) >= maxQueue && !q.ended {
			q.changed.Wait()
		}
		if q.ended {
			return false
		}
		urgent, waiting := q.waiting[id]
		_, sent := q.sent[id]
		switch {
		case waiting && (urgent || !high), !waiting && sent && q.remembers:
			continue
		case high:
			q.urgent = append(q.urgent, id)
		default:
			q.other = append(q.other, id)
		}
		q.waiting[id] = high
	}
	q.changed.Broadcast()
	return true
}

// pop returns the next chunk to send. If there is none it reports that the queue
// is idle, or, with wait, waits. ok is false at the end of the conversation.
func (q *queue) pop(wait bool) (id chunk.ID, ok, idle bool, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for {
		for list := range 2 {
			from := []*[]chunk.ID{&q.urgent, &q.other}[list]
			for len(*from) > 0 {
				id, *from = (*from)[0], (*from)[1:]
				urgent, waiting := q.waiting[id]
				if !waiting || urgent != (list == 0) {
					continue // it became urgent and has been sent
				}
				delete(q.waiting, id)
				q.sent[id] = struct{}{}
				q.changed.Broadcast()
				return id, true, false, nil
			}
		}
		switch {
		case q.ended:
			return id, false, false, q.err
		case !wait:
			return id, false, true, nil
		}
		q.changed.Wait()
	}
}

// missing forgets a chunk that was not sent after all. So the queue remembers
// no more chunks than the store has.
func (q *queue) missing(id chunk.ID) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.sent, id)
}

// end ends the queue: what is in it is still sent unless err says that the
// conversation failed.
func (q *queue) end(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.ended {
		q.ended, q.err = true, err
	}
	if err != nil {
		q.urgent, q.other = nil, nil
	}
	q.changed.Broadcast()
}

// len returns the number of chunks that are to be sent.
func (q *queue) len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.waiting)
}

// failed returns the error by which the queue has ended.
func (q *queue) failed() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.err
}
