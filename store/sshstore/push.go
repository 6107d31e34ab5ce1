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

// PushIndex sends an index to a location, and from chunks those that the chunk
// store in the directory dir over there lacks, which is made if it is not there.
// The far side is casync or this program. When PushIndex returns without an error
// the index is in place.
//
// When the connection breaks it is made again, and what has been stored is not
// sent again; [Options].Retries counts those that brought no chunk further. A
// connection on which nothing moves for ten times the StallTimeout has broken.
// Errors wrap [store.ErrNetwork] (after all retries), or are the far side's.
func PushIndex(ctx context.Context, at Location, dir string, index io.WriterTo, chunks store.Store, o Options) (Pushed, error) {
	s, err := New(at, o)
	if err != nil {
		return Pushed{}, err
	}
	var pushed Pushed
	known := make(map[chunk.ID]struct{})
	sent := func(id chunk.ID, size int) {
		if _, again := known[id]; again {
			return
		}
		known[id] = struct{}{}
		pushed.Chunks++
		pushed.Bytes += int64(size)
		s.failures.Store(0)
	}
	for {
		err = s.push(ctx, []string{"push", "-", "-", at.Path, dir},
			casyncproto.PushChunks|casyncproto.PushIndex|casyncproto.PushIndexChunks, casyncproto.WritableStore|casyncproto.WritableIndex,
			func(c *casyncproto.Conn) error { return c.PushIndex(ctx, index, chunks, sent) })
		if err == nil || ctx.Err() != nil || !errors.Is(err, store.ErrNetwork) {
			return pushed, s.failure(ctx, err)
		}
		if err = s.wait(ctx, err); err != nil {
			return pushed, s.failure(ctx, err)
		}
	}
}

// PushArchive sends the archive that fill writes to a location. It is not begun
// anew when the connection breaks. Errors are as those of [PushIndex].
func PushArchive(ctx context.Context, at Location, fill func(io.Writer) error, o Options) error {
	s, err := New(at, o)
	if err != nil {
		return err
	}
	return s.failure(ctx, s.push(ctx, []string{"push", "-", at.Path, "-", "-"}, casyncproto.PushArchive, casyncproto.WritableArchive,
		func(c *casyncproto.Conn) error { return c.PushArchive(fill) }))
}

// push runs a session in which talk pushes something.
func (s *Store) push(ctx context.Context, args []string, wants, needs casyncproto.Flags, talk func(*casyncproto.Conn) error) error {
	live, err := s.opts.dial(ctx, s.at, args, wants, needs)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { live.fail(ctx.Err()) })
	defer stop()
	live.mu.Lock()
	live.streaming = true
	live.stall *= patience
	live.watch.Reset(live.stall)
	live.mu.Unlock()
	err = talk(live.conn)
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
