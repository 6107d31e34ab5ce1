package sftpstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/pkg/sftp"

	"github.com/ociv2-sync/ociv2-sync/internal/flow"
	"github.com/ociv2-sync/ociv2-sync/internal/sftpwire"
	"github.com/ociv2-sync/ociv2-sync/store"
	"github.com/ociv2-sync/ociv2-sync/store/sshstore"
)

const (
	// perFile is how many requests are in flight for one file.
	perFile = 128
	// worthwhile is how much a session must bring, where nothing that was asked for has
	// come whole, for it not to have failed: more than its beginning.
	worthwhile = 1 << 10
	// mostFiles is how many files are read at a time: callers bound them before.
	mostFiles = 1024
)

// link is one run of ssh with an SFTP session in it.
type link struct {
	client  *sftp.Client
	parts   *parts // nil where they are not asked for
	process *sshstore.Process
	stall   time.Duration
	watch   *time.Timer // ends the session; stopped while nothing is awaited
	dead    atomic.Bool

	mu      sync.Mutex
	pending int
	err     error // why it was ended
}

var (
	errStalled = errors.New("nothing has arrived for too long")
	// errNoServer says that the far side does not run what it was told to.
	errNoServer = errors.New("no SFTP server")
)

// way is how an SFTP server is had on the far side.
type way struct {
	options []string
	command string
}

var subsystem = &way{[]string{"-s"}, "sftp"}

// dial starts ssh and an SFTP session.
func (c *conn) dial(ctx context.Context, by *way) (*link, error) {
	l := &link{stall: c.opts.SSH.StallTimeout}
	process, err := sshstore.Start(c.at, c.opts.SSH, l.moved, by.options, by.command)
	if err != nil {
		return nil, err
	}
	l.process = process
	l.watch = time.AfterFunc(l.stall, func() { l.kill(errStalled) })
	stop := context.AfterFunc(ctx, func() { l.kill(context.Cause(ctx)) })
	defer stop()
	in, out := io.Reader(&noting{Reader: process.Out, l: l, worked: c.worked}), process.In
	if by != subsystem {
		p := newParts(sftpwire.NewWriter(out), c.flow)
		// Before the session is known to be one: that saves a round trip.
		p.out.Opened = func() { p.expect(c.expected) }
		l.parts, in, out = p, sftpwire.NewReader(in, p.wants, p.take), joined{p.out, out}
	}
	l.client, err = sftp.NewClientPipe(in, out, sftp.MaxConcurrentRequestsPerFile(perFile), sftp.UseConcurrentWrites(true))
	l.watch.Stop()
	if err == nil {
		return l, nil
	}
	code, said := process.End()
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case l.reason() != nil:
		err = l.reason()
	case strings.Contains(said, "subsystem request failed"):
		return nil, fmt.Errorf("%w: ssh%s", errNoServer, said)
	case code != 255 && code > 0:
		return nil, fmt.Errorf("%w: %q there ended with exit code %d%s", errNoServer, by.command, code, said)
	case code == 0:
		return nil, fmt.Errorf("%w: %q there does not speak SFTP%s", errNoServer, by.command, said)
	case sshstore.Denied(said):
		return nil, fmt.Errorf("ssh%s", said)
	}
	return nil, fmt.Errorf("%w: ssh: %w%s", store.ErrNetwork, err, said)
}

// noting notes that what the far side writes is some progress, and its end.
type noting struct {
	io.Reader

	l      *link
	got    int
	worked func()
}

func (n *noting) Read(p []byte) (int, error) {
	k, err := n.Reader.Read(p)
	if n.got = min(n.got+k, worthwhile); n.got == worthwhile {
		n.worked()
	}
	if err != nil {
		n.l.dead.Store(true)
		if n.l.parts != nil {
			n.l.parts.fail()
		}
	}
	return k, err
}

// joined is what the library writes to, beside what we do.
type joined struct {
	io.Writer
	io.Closer
}

func (l *link) kill(err error) {
	l.mu.Lock()
	if l.err == nil {
		l.err = err
	}
	l.mu.Unlock()
	l.dead.Store(true)
	l.process.Kill()
}

func (l *link) reason() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// moved notes that something has arrived.
func (l *link) moved() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.pending > 0 {
		l.watch.Reset(l.stall)
	}
}

// run calls f, whose requests end when ctx does or nothing arrives any more.
func (l *link) run(ctx context.Context, f func(*link) error) error {
	l.mu.Lock()
	if l.pending++; l.pending == 1 {
		l.watch.Reset(l.stall)
	}
	l.mu.Unlock()
	stop := context.AfterFunc(ctx, func() { l.kill(context.Cause(ctx)) })
	err := f(l)
	stop()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.pending--; l.pending == 0 {
		l.watch.Stop()
	}
	return err
}

// lost reports whether an error is that of the connection, not the server's.
func (l *link) lost(err error) bool {
	return l.dead.Load() || errors.Is(err, sftp.ErrSSHFxConnectionLost) || errors.Is(err, os.ErrClosed) ||
		errors.Is(err, io.ErrClosedPipe) || errors.Is(err, syscall.EPIPE)
}

// parting is how long ssh has to end by itself. It need not: nothing is under way, and
// all that was written is known to be; to wait for the far side would cost a round trip.
const parting = 100 * time.Millisecond

// end ends the session and says what ssh had to say.
func (l *link) end() string {
	l.watch.Stop()
	_ = l.process.In.Close()
	timer := time.AfterFunc(parting, l.process.Kill)
	defer timer.Stop()
	_ = l.client.Close() // waits for the end of what the far side writes
	_, said := l.process.End()
	return said
}

// conn keeps a session with the far side, and makes it again when it breaks.
type conn struct {
	at   sshstore.Location
	opts Options
	said *sshstore.Said
	flow *flow.Window // what is read of whole files
	ways []*way       // those to try; the one that worked is the only one afterwards

	expected []sftpwire.Part // asked for with the first connection

	turn     chan struct{} // holds something while a goroutine looks after live
	live     *link
	closed   bool
	failures atomic.Int32   // since something arrived
	closing  sync.WaitGroup // files
}

// release closes a file that was read, which is not worth a round trip of anybody's
// time: what could go wrong has done so.
func (c *conn) release(f *sftp.File) { c.closing.Go(func() { _ = f.Close() }) }

// do calls f with a session, and again with another one if that breaks: f can be
// repeated.
func (c *conn) do(ctx context.Context, f func(*link) error) error {
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		l, err := c.connect(ctx)
		if err != nil {
			return err
		}
		err = l.run(ctx, f)
		switch {
		case err == nil:
			c.worked()
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case !l.lost(err):
			return err
		}
		if err := c.broken(ctx, l, err); err != nil {
			return err
		}
	}
}

// take waits for the turn to look after the session.
func (c *conn) take(ctx context.Context) error {
	select {
	case c.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// connect returns the session, which it makes if there is none.
func (c *conn) connect(ctx context.Context) (*link, error) {
	if err := c.take(ctx); err != nil {
		return nil, err
	}
	defer func() { <-c.turn }()
	for c.live == nil {
		if c.closed {
			return nil, os.ErrClosed
		}
		var all error
		for i, by := range c.ways {
			l, err := c.dial(ctx, by)
			if err == nil {
				c.live, c.ways, c.expected = l, c.ways[i:i+1], nil
				return l, nil
			}
			all = err
			if !errors.Is(err, errNoServer) {
				break
			}
		}
		if !errors.Is(all, store.ErrNetwork) {
			return nil, all
		}
		if err := c.wait(ctx, all); err != nil {
			return nil, err
		}
	}
	return c.live, nil
}

// broken notes that a session has failed, once for all who use it.
func (c *conn) broken(ctx context.Context, was *link, err error) error {
	if err := c.take(ctx); err != nil {
		return err
	}
	defer func() { <-c.turn }()
	if c.live != was {
		return nil
	}
	c.live = nil
	if why := was.reason(); why != nil {
		err = why
	}
	was.process.Kill()
	said := was.end()
	return c.wait(ctx, fmt.Errorf("%w: the connection broke: %w%s", store.ErrNetwork, err, said))
}

// worked notes that there is progress.
func (c *conn) worked() {
	if c.failures.Swap(0) > 0 {
		c.said.Worked()
	}
}

// wait counts a failure and waits until it is worth while to try again, and
// everybody with it, as it has the turn. It returns err when that is enough.
func (c *conn) wait(ctx context.Context, err error) error {
	c.said.Failed()
	n := c.failures.Add(1)
	if int(n) > c.opts.SSH.Retries {
		return err
	}
	pause := c.opts.SSH.Pause(n)
	c.opts.SSH.Logger.Info("connecting again", "repository", c.at.String(), "in", pause.Round(time.Millisecond), "reason", err)
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (c *conn) close() {
	c.turn <- struct{}{}
	live := c.live
	c.live, c.closed = nil, true
	<-c.turn
	if live != nil {
		live.end()
	}
	c.closing.Wait() // which ends with the sessions
}
