package sshstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/ociv2-sync/ociv2-sync/internal/casyncproto"
	"github.com/ociv2-sync/ociv2-sync/store"
)

// Index returns the index at a location, of at most limit bytes. Errors wrap
// [store.ErrTooLarge], [store.ErrNetwork] (after all retries), or are the far
// side's.
func Index(ctx context.Context, at Location, limit int64, o Options) ([]byte, error) {
	var index strings.Builder
	err := fetch(ctx, at, []string{"pull", "-", "-", at.Path, "-"}, casyncproto.PullIndex, casyncproto.ReadableIndex, o,
		func(c *casyncproto.Conn) error {
			index.Reset()
			n, err := io.Copy(&index, io.LimitReader(c.Stream(casyncproto.TypeIndex), limit+1))
			if err == nil && n > limit {
				err = fmt.Errorf("%w: more than %d bytes", store.ErrTooLarge, limit)
			}
			return err
		})
	return []byte(index.String()), err
}

// Archive writes the archive at a location to w. It cannot be continued when
// the connection breaks, and is not begun anew.
func Archive(ctx context.Context, at Location, w io.Writer, o Options) error {
	o.Retries = -1
	return fetch(ctx, at, []string{"pull", "-", at.Path, "-", "-"}, casyncproto.PullArchive, casyncproto.ReadableArchive, o,
		func(c *casyncproto.Conn) error {
			_, err := io.Copy(w, c.Stream(casyncproto.TypeArchive))
			return err
		})
}

// fetch runs a session of which one stream is wanted.
func fetch(ctx context.Context, at Location, args []string, wants, needs casyncproto.Flags, o Options, read func(*casyncproto.Conn) error) error {
	s, err := New(at, o)
	if err != nil {
		return err
	}
	for {
		var live *session
		live, err = s.opts.dial(ctx, at, args, wants, needs)
		if err == nil {
			err = live.stream(ctx, read)
		}
		if err == nil || ctx.Err() != nil || !errors.Is(err, store.ErrNetwork) {
			break
		}
		if err = s.wait(ctx, err); err != nil {
			break
		}
	}
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	}
	return fmt.Errorf("sshstore: %s: %w", at, err)
}

// stream has read read from the session, and ends it.
func (s *session) stream(ctx context.Context, read func(*casyncproto.Conn) error) error {
	stop := context.AfterFunc(ctx, func() { s.fail(ctx.Err()) })
	defer stop()
	s.mu.Lock()
	s.streaming = true
	s.watch.Reset(s.stall)
	s.mu.Unlock()
	err := read(s.conn)
	s.mu.Lock()
	s.streaming = false
	s.watch.Stop()
	s.mu.Unlock()
	if err != nil {
		return s.end(err)
	}
	_ = s.conn.Goodbye() // everything has come
	s.fail(io.EOF)
	_ = s.cmd.Wait()
	return nil
}
