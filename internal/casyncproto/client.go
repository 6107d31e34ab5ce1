package casyncproto

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"syscall"

	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/store"
)

// PushIndex is the near side of the push of an index, after the HELLOs. It sends
// the index, and from s the chunks that the other side then requests, each once,
// until that says goodbye. sent is called with the ID and the packed size of each.
//
// An end without a goodbye is io.ErrUnexpectedEOF, or syscall.EPIPE. Where
// something on this side fails, or the other does not keep to the protocol, it is
// told, and c closed: see [Conn.GaveUp]. What blocks is ended by closing c.
func (c *Conn) PushIndex(ctx context.Context, index io.WriterTo, s store.Store, sent func(id chunk.ID, size int)) error {
	q := newQueue()
	q.remembers = true
	whole := make(chan struct{}) // closed when the index is written
	var reading sync.WaitGroup
	var theirs error
	reading.Go(func() {
		theirs = c.readPush(q, whole)
		q.end(theirs)
	})
	err := c.stream(TypeIndex, TypeIndexEOF, func(w io.Writer) error {
		_, err := index.WriteTo(w)
		close(whole)
		return err
	})
	if err == nil {
		err = c.sendRequested(ctx, q, s, func(id chunk.ID) error {
			return fmt.Errorf("%w: it requests chunk %s, which is none of the index", ErrProtocol, id)
		}, sent)
	}
	gone := errors.Is(err, syscall.EPIPE) || errors.Is(q.failed(), io.ErrUnexpectedEOF)
	if err != nil && !gone {
		c.GiveUp(err)
		_ = c.Close() // ends the reader
	}
	q.end(err) // it may wait for room there
	reading.Wait()
	if theirs != nil && gone {
		return theirs // why nobody listens any more
	}
	return err
}

// readPush puts the requests of the far side of a push into q until that says
// goodbye, which it may when it has everything.
func (c *Conn) readPush(q *queue, whole <-chan struct{}) error {
	if err := c.readRequests(q); err != nil {
		return unexpectedEnd(err)
	}
	select {
	case <-whole:
	default:
		return fmt.Errorf("%w: GOODBYE before it can have the index", ErrProtocol)
	}
	if n := q.len(); n > 0 {
		return fmt.Errorf("%w: GOODBYE in place of %d chunks that it requested", ErrProtocol, n)
	}
	return nil
}

// PushArchive is the near side of the push of an archive, after the HELLOs. It
// sends what fill writes and waits for the other side to say goodbye. Errors are
// as those of [Conn.PushIndex], and those of fill.
func (c *Conn) PushArchive(fill func(io.Writer) error) error {
	err := c.stream(TypeArchive, TypeArchiveEOF, fill)
	if err != nil && !errors.Is(err, syscall.EPIPE) {
		c.GiveUp(err)
		_ = c.Close()
		return err
	}
	f, ended := c.Read() // also why nobody listens any more
	switch {
	case ended != nil:
		return unexpectedEnd(ended)
	case f.Type != TypeGoodbye:
		return f.Expected("GOODBYE")
	case err != nil:
		return fmt.Errorf("%w: GOODBYE before it can have the archive", ErrProtocol)
	}
	return f.Empty()
}
