package ingest

import (
	"context"
	"io"

	"golang.org/x/sync/errgroup"
)

const (
	// aheadFrom is the number of workers that one goroutine cannot keep busy any
	// more by reading and cutting. With fewer it is better off alone: it does not
	// have to look where no cut may be.
	aheadFrom = 4
	// before is how much of the bytes before it a batch needs to be marked.
	before = 64
)

// cutAhead cuts what comes next, up to the end or to a run of zeros, of which the
// first chunk begins with rest. Cuts depend on the cuts before them, but only on
// few bytes otherwise: several goroutines find the places where one may be, and
// one decides. What it returns stays valid.
func (s *ingester) cutAhead(ctx context.Context, rest []byte, send func(*batch) error) (_ []byte, eof bool, err error) {
	g, ctx := errgroup.WithContext(ctx)
	todo := make(chan *batch)
	queue := make(chan *batch, cap(s.free)) // in the order of the stream; never full
	g.Go(func() error {
		defer close(todo)
		defer close(queue)
		return s.readAhead(ctx, rest[max(len(rest)-before, 0):], todo, queue)
	})
	for range s.ahead {
		g.Go(func() error {
			for b := range todo {
				b.marks = s.cutter.Mark(b.marks, b.data, s.head())
				b.marked <- struct{}{}
			}
			return nil
		})
	}
	own := append(make([]byte, 0, s.maxChunk), rest...)
	g.Go(func() error {
		for b := range queue {
			select {
			case <-b.marked:
			case <-ctx.Done():
				return ctx.Err()
			}
			own = s.decide(b, own)
			if eof = b.last; len(b.chunks) == 0 {
				s.free <- b
				continue
			}
			s.enter(b)
			if err := send(b); err != nil {
				return err
			}
		}
		return nil
	})
	err = g.Wait()
	return own, eof, err
}

// head is where the bytes of a batch that is read ahead begin.
func (s *ingester) head() int { return max(s.maxChunk, before) }

// readAhead fills batches. tail is what the stream had before.
func (s *ingester) readAhead(ctx context.Context, tail []byte, todo, queue chan<- *batch) error {
	var last [before]byte
	copy(last[before-len(tail):], tail)
	head := s.head()
	for {
		if zeros, err := s.run(nil); err != nil || zeros > 0 {
			return err
		}
		b, err := s.batch(ctx)
		if err != nil {
			return err
		}
		b.room(head+s.batchSize, 0)
		copy(b.data[head-before:], last[:])
		n, err := s.fill(ctx, b.data[head:])
		b.last = err == io.EOF //nolint:errorlint // the bare value alone is the end
		if err != nil && !b.last {
			return err
		}
		b.data = b.data[:head+n]
		copy(last[:], b.data[head+n-before:])
		queue <- b
		select {
		case todo <- b:
		case <-ctx.Done():
			return ctx.Err()
		}
		if b.last {
			return nil
		}
	}
}

// decide finds the chunks of rest and the marked bytes of b, and returns what is
// left over, in rest's storage.
func (s *ingester) decide(b *batch, rest []byte) []byte {
	data := b.data[s.head()-len(rest):]
	copy(data, rest)
	at := 0
	for at < len(data) {
		n, ok := s.cutter.NextMarked(data[at:], len(rest)-at, b.marks)
		if !ok && !b.last {
			break
		}
		if !ok {
			n = len(data) - at
		}
		b.chunks = append(b.chunks, data[at:at+n:at+n])
		at += n
	}
	b.bytes = data[:at]
	return append(rest[:0], data[at:]...)
}
