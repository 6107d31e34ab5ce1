// Package sshstore pulls chunks, indexes and archives from a far machine, and
// pushes them to it, as casync does: it runs the system's ssh, which starts casync, desync or this
// program over there, and speaks casync's protocol with it
// (docs/format/protocol.md).
//
// A store is one connection, however many chunks are requested at a time: each
// request is a frame of one chunk, sent at once, and the answers come in
// whatever order. When the connection breaks or stalls a new one is made, and
// what has not arrived is requested again.
package sshstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/internal/casyncproto"
	"github.com/ociv2-sync/ociv2-sync/store"
)

// Options say how to reach far machines. The zero value works.
type Options struct {
	// Command is the ssh to run. "" means "ssh".
	Command string
	// Remote is the command that the far machine's shell is given, before the
	// arguments. "" means "casync".
	Remote string
	// Retries is how often a connection that broke is made again without
	// anything having arrived. 0 means 5, negative means never.
	Retries int
	// RetryWait is the wait before the second of those, doubled for each further
	// one, up to a minute, and jittered. 0 means 500 ms.
	RetryWait time.Duration
	// StallTimeout ends a connection on which something is awaited and nothing
	// arrives for as long. 0 means 30 s.
	StallTimeout time.Duration
	// RateLimit is the most bytes received, and sent, per second. 0 means no limit.
	RateLimit int64
	// Stderr is where ssh and the far side write what they have to say, and ssh
	// asks for passwords where there is no terminal; attempts that fail one after
	// the other say the same line once. nil means nowhere; the end of it is in the
	// errors too.
	Stderr io.Writer
	// Logger is told about retries. nil means nobody is.
	Logger *slog.Logger
}

const maxRetryWait = time.Minute

// ErrLocation reports what does not name a place that ssh reaches.
var ErrLocation = errors.New("not a place that ssh reaches")

// Location is a path on a far machine.
type Location struct {
	Host string // [USER@]HOST, as ssh takes it
	Port string // "" means ssh's own
	Path string // relative to where the far side starts, or absolute
}

// ParseURL reads ssh://[USER@]HOST[:PORT]/PATH, whose path is absolute, or
// relative to the home directory if it begins with /~/.
func ParseURL(s string) (Location, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Scheme != "ssh":
		return Location{}, fmt.Errorf("sshstore: %w: a URL of it is ssh://[USER@]HOST[:PORT]/PATH", ErrLocation)
	case u.RawQuery != "" || u.Fragment != "" || u.Path == "" || u.Path == "/":
		return Location{}, fmt.Errorf("sshstore: %w: %s: a URL of it is ssh://[USER@]HOST[:PORT]/PATH", ErrLocation, u.Redacted())
	}
	l := Location{Host: u.Hostname(), Port: u.Port(), Path: u.Path}
	if rest, ok := strings.CutPrefix(u.Path, "/~/"); ok {
		l.Path = rest
	}
	if u.User != nil {
		if _, secret := u.User.Password(); secret {
			return Location{}, fmt.Errorf("sshstore: %w: %s: ssh takes no password in a URL", ErrLocation, u.Redacted())
		}
		l.Host = u.User.Username() + "@" + l.Host
	}
	return l, l.check()
}

// ParseLocator reads casync's form, [USER@]HOST:PATH. It reports false for what
// casync takes for a path: whatever has a slash, or nothing, before its first
// colon.
func ParseLocator(s string) (Location, bool) {
	host, path, ok := strings.Cut(s, ":")
	l := Location{Host: host, Path: path}
	if !ok || path == "" || strings.HasPrefix(path, "//") || l.check() != nil {
		return Location{}, false
	}
	return l, true
}

// check refuses what ssh would take for an option and hosts of strange letters.
func (l Location) check() error {
	bad := strings.ContainsFunc(l.Host, func(r rune) bool {
		return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_@:%", r)
	})
	if bad || l.Host == "" || l.Host[0] == '-' || strings.HasPrefix(l.Host, "@") || strings.HasSuffix(l.Host, "@") {
		return fmt.Errorf("sshstore: %w: host %q", ErrLocation, l.Host)
	}
	return nil
}

// String returns the location in casync's form.
func (l Location) String() string {
	if l.Port != "" {
		return "ssh://" + l.Host + ":" + l.Port + "/" + strings.TrimPrefix(l.Path, "/")
	}
	return l.Host + ":" + l.Path
}

// Store is a chunk store on a far machine. It implements [store.Store].
type Store struct {
	at   Location
	opts Options
	said *Said

	turn     chan struct{} // holds something while a goroutine looks after live
	live     *session      // nil before the first and after the last
	retired  []*session    // which bring what was requested of them, and end
	closed   bool
	failures atomic.Int32 // since something arrived
	once     atomic.Bool  // nothing is tried again

	life    context.Context //nolint:containedctx // of what Warm begins, which no call waits for
	stop    context.CancelFunc
	warming sync.WaitGroup

	sessions, bytes atomic.Int64
}

// New returns the store at a location. It connects when the first chunk is
// wanted, or by Warm. Call [Store.Close] when done with it.
func New(at Location, o Options) (*Store, error) {
	if err := at.check(); err != nil {
		return nil, err
	}
	s := &Store{at: at, opts: o.WithDefaults(), turn: make(chan struct{}, 1)}
	s.said = NewSaid(s.opts.Stderr)
	s.opts.Stderr = s.said
	s.life, s.stop = context.WithCancel(context.Background())
	return s, nil
}

// Once has the store tell at once that a connection has failed, as one does that
// has others beside it. It returns the store.
func (s *Store) Once() *Store {
	s.once.Store(true)
	return s
}

// Warm begins to connect, so that the first chunk need not wait for it, and does not
// wait itself. Where that fails the first Get begins anew, and tells why it cannot.
// Close ends it.
func (s *Store) Warm() {
	s.warming.Go(func() {
		if s.take(s.life) != nil {
			return
		}
		defer func() { <-s.turn }()
		if s.live != nil || s.closed {
			return
		}
		if err := s.dial(s.life); err != nil && s.life.Err() == nil {
			s.opts.Logger.Info("connecting ahead of the first chunk failed", "store", s.String(), "reason", err)
		}
	})
}

// WithDefaults returns o with the defaults of what is not set.
func (o Options) WithDefaults() Options {
	o.Command, o.Remote = cmp.Or(o.Command, "ssh"), cmp.Or(o.Remote, "casync")
	o.Retries = max(cmp.Or(o.Retries, 5), 0)
	o.RetryWait = min(cmp.Or(o.RetryWait, 500*time.Millisecond), maxRetryWait)
	o.StallTimeout = cmp.Or(o.StallTimeout, 30*time.Second)
	if o.Stderr == nil {
		o.Stderr = io.Discard
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

// String returns the location.
func (s *Store) String() string { return s.at.String() }

// Close ends the connection. No Get and no Warm may be running or follow.
func (s *Store) Close() error {
	s.stop()
	s.warming.Wait()
	s.turn <- struct{}{}
	live, retired := s.live, s.retired
	s.live, s.retired, s.closed = nil, nil, true
	<-s.turn
	if live != nil {
		live.goodbye()
	}
	for _, r := range retired {
		r.goodbye()
	}
	return nil
}

// Get implements [store.Store]. Several calls for one chunk make one request; a
// chunk that is wanted again after it has come costs another connection.
func (s *Store) Get(ctx context.Context, id chunk.ID, limit int64) (store.Packed, error) {
	p, err := s.get(ctx, id, limit)
	switch {
	case err == nil || errors.Is(err, store.ErrNotFound):
		return p, err
	case ctx.Err() != nil:
		return p, ctx.Err()
	}
	return p, fmt.Errorf("sshstore: %s: chunk %s: %w", s, id, err)
}

func (s *Store) get(ctx context.Context, id chunk.ID, limit int64) (store.Packed, error) {
	for {
		if err := ctx.Err(); err != nil {
			return store.Packed{}, err
		}
		live, err := s.connect(ctx)
		if err != nil {
			return store.Packed{}, err
		}
		a, err := live.request(ctx, id)
		switch {
		case err == nil && a.missing:
			return store.Packed{}, store.NotFound(s.String(), id)
		case err == nil && int64(len(a.packed.Data)) > limit:
			return store.Packed{}, fmt.Errorf("%w: %d bytes, at most %d expected", store.ErrTooLarge, len(a.packed.Data), limit)
		case err == nil:
			return a.packed, nil
		case errors.Is(err, errSpent):
			if err := s.renew(ctx, live); err != nil {
				return store.Packed{}, err
			}
			continue
		case ctx.Err() != nil || !errors.Is(err, store.ErrNetwork):
			return store.Packed{}, err
		}
		if err := s.broken(ctx, live, err); err != nil {
			return store.Packed{}, err
		}
	}
}

// connect returns the connection, which it makes if there is none.
func (s *Store) connect(ctx context.Context) (*session, error) {
	if err := s.take(ctx); err != nil {
		return nil, err
	}
	defer func() { <-s.turn }()
	for s.live == nil {
		if s.closed {
			return nil, fmt.Errorf("the store is closed")
		}
		err := s.dial(ctx)
		if err == nil {
			break
		}
		if !errors.Is(err, store.ErrNetwork) {
			return nil, err
		}
		if err := s.wait(ctx, err); err != nil {
			return nil, err
		}
	}
	return s.live, nil
}

// dial makes the connection. The caller has the turn.
func (s *Store) dial(ctx context.Context) error {
	live, err := s.opts.dial(ctx, s.at, []string{"pull", "-", "-", "-", s.at.Path}, casyncproto.PullChunks, casyncproto.ReadableStore)
	if err != nil {
		return err
	}
	s.sessions.Add(1)
	live.start(s.arrived)
	s.live = live
	return nil
}

// take waits for the turn to look after the connection.
func (s *Store) take(ctx context.Context) error {
	select {
	case s.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// arrived notes that the connection works.
func (s *Store) arrived(n int) {
	s.bytes.Add(int64(n))
	s.worked()
}

// worked notes that there is progress.
func (s *Store) worked() {
	if s.failures.Swap(0) > 0 {
		s.said.Worked()
	}
}

// broken notes that a connection has failed, once for all who wait for it.
func (s *Store) broken(ctx context.Context, was *session, err error) error {
	if err := s.take(ctx); err != nil {
		return err
	}
	defer func() { <-s.turn }()
	if s.live != was {
		return nil
	}
	s.live = nil
	return s.wait(ctx, err)
}

// renew makes the next request go to a new connection.
func (s *Store) renew(ctx context.Context, was *session) error {
	if err := s.take(ctx); err != nil {
		return err
	}
	defer func() { <-s.turn }()
	if s.live == was {
		s.live = nil
		was.retire()
		s.retired = append(s.retired, was)
	}
	return nil
}

// Pause is how long to wait after a failure, the n-th since something arrived. After the
// first, which may be one of many cuts of a link that works, that is not at all: each
// connection brings more.
func (o Options) Pause(n int32) time.Duration {
	if n <= 1 {
		return 0
	}
	pause := min(o.RetryWait<<min(n-2, 16), maxRetryWait)
	return pause/2 + rand.N(pause/2+1)
}

// wait counts a failure and waits until it is worth while to try again, and
// everybody with it, as it has the turn. It returns err when that is enough.
func (s *Store) wait(ctx context.Context, err error) error {
	s.said.Failed()
	n := s.failures.Add(1)
	if int(n) > s.opts.Retries || s.once.Load() {
		return err
	}
	pause := s.opts.Pause(n)
	s.opts.Logger.Info("connecting again", "store", s.String(), "in", pause.Round(time.Millisecond), "reason", err)
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Stats are what a store has done so far.
type Stats struct {
	Connections int64 // made
	Bytes       int64 // of packed chunks received
}

// Stats returns the counts up to now.
func (s *Store) Stats() Stats { return Stats{Connections: s.sessions.Load(), Bytes: s.bytes.Load()} }
