package sshstore

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/internal/casyncproto"
	"github.com/ociv2-sync/ociv2-sync/store"
)

// patience is how much longer than for an answer a push waits for something to
// happen: what has been written may still be on its way, and the far side may
// take its time to put everything on its disk.
const patience = 10

// Pushed is what the far side of a push lacked.
type Pushed struct {
	Chunks int
	Bytes  int64 // packed
}

// Push is an index, with chunks, on its way to a far machine.
type Push struct {
	s    *Store
	dir  string
	live *session // connected already; nil afterwards
}

// OpenPush connects to where an index is to go, whose chunks go into the chunk
// store in the directory dir over there, which is made if it is not there. The far
// side is casync or this program. What follows may take its time: a connection that
// has broken meanwhile is made again. Call [Push.Close] when done with it.
// Errors are as those of [Push.Index].
func OpenPush(ctx context.Context, at Location, dir string, o Options) (*Push, error) {
	s, err := New(at, o)
	if err != nil {
		return nil, err
	}
	p := &Push{s: s, dir: dir}
	for {
		err := p.connect(ctx)
		if err == nil {
			return p, nil
		}
		if err = p.again(ctx, err); err != nil {
			return nil, err
		}
	}
}

// Close ends the connection where nothing was sent.
func (p *Push) Close() {
	if p.live != nil {
		_ = p.live.end(io.EOF) // nothing depends on it
		p.live = nil
	}
}

// Index sends the index, and from chunks those that the far side lacks, once. When
// it returns without an error the index is in place.
//
// When the connection breaks it is made again, and what has been stored is not
// sent again; [Options].Retries counts those that brought no chunk further. A
// connection on which nothing moves for ten times the StallTimeout has broken.
// Errors wrap [store.ErrNetwork] (after all retries), or are the far side's.
func (p *Push) Index(ctx context.Context, index io.WriterTo, chunks store.Store) (Pushed, error) {
	var pushed Pushed
	known := make(map[chunk.ID]struct{})
	sent := func(id chunk.ID, size int) {
		if _, again := known[id]; again {
			return
		}
		known[id] = struct{}{}
		pushed.Chunks++
		pushed.Bytes += int64(size)
		p.s.worked()
	}
	for {
		var err error
		if p.live == nil {
			err = p.connect(ctx)
		}
		if err == nil {
			live := p.live
			p.live = nil
			err = live.push(ctx, func(c *casyncproto.Conn) error { return c.PushIndex(ctx, index, chunks, sent) })
		}
		if err == nil {
			return pushed, nil
		}
		if err = p.again(ctx, err); err != nil {
			return pushed, err
		}
	}
}

// connect begins the conversation.
func (p *Push) connect(ctx context.Context) (err error) {
	p.live, err = p.s.opts.dial(ctx, p.s.at, []string{"push", "-", "-", p.s.at.Path, p.dir},
		casyncproto.PushChunks|casyncproto.PushIndex|casyncproto.PushIndexChunks, casyncproto.WritableStore|casyncproto.WritableIndex)
	return err
}

// again waits until it is worth while to connect again after err, and returns the
// error if it is not.
func (p *Push) again(ctx context.Context, err error) error {
	if ctx.Err() == nil && errors.Is(err, store.ErrNetwork) {
		err = p.s.wait(ctx, err)
	}
	return p.s.failure(ctx, err)
}

// PushArchive sends the archive that fill writes to a location. It is not begun
// anew when the connection breaks. Errors are as those of [PushIndex].
func PushArchive(ctx context.Context, at Location, fill func(io.Writer) error, o Options) error {
	s, err := New(at, o)
	if err != nil {
		return err
	}
	live, err := s.opts.dial(ctx, at, []string{"push", "-", at.Path, "-", "-"}, casyncproto.PushArchive, casyncproto.WritableArchive)
	if err == nil {
		err = live.push(ctx, func(c *casyncproto.Conn) error { return c.PushArchive(fill) })
	}
	return s.failure(ctx, err)
}

// push has talk push something, and ends the session.
func (live *session) push(ctx context.Context, talk func(*casyncproto.Conn) error) error {
	stop := context.AfterFunc(ctx, func() { live.fail(ctx.Err()) })
	defer stop()
	live.mu.Lock()
	live.streaming = true
	live.stall *= patience
	live.watch.Reset(live.stall)
	live.mu.Unlock()
	err := talk(live.conn)
	live.mu.Lock()
	live.streaming = false
	live.watch.Stop()
	live.mu.Unlock()
	switch {
	case err == nil:
	case live.conn.GaveUp() && !live.failed():
		_ = live.end(err)
		return err // which is not that of the connection
	default:
		return live.ended(err)
	}
	// All is in place. If it ends in a failure nevertheless there is a reason.
	return farFailure(live.leave(), live.stderr.String())
}

// failure returns what to tell of an err with which this ended.
func (s *Store) failure(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	}
	return fmt.Errorf("sshstore: %s: %w", s.at, err)
}
