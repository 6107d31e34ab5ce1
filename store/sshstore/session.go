package sshstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/internal/casyncproto"
	"github.com/ociv2-sync/ociv2-sync/store"
)

// session is one run of ssh with one conversation.
type session struct {
	conn   *casyncproto.Conn
	cmd    *exec.Cmd
	pipes  []io.Closer
	stderr *tail
	stall  time.Duration
	watch  *time.Timer // ends the session; stopped while nothing is awaited
	done   sync.WaitGroup

	writing sync.Mutex // one frame at a time

	mu        sync.Mutex
	pending   map[chunk.ID]*answer
	answered  map[chunk.ID]struct{}
	retired   bool  // it ends when nothing is awaited any more
	streaming bool  // a stream is awaited
	err       error // why it ended
}

// answer is what is awaited: its fields are set when done is closed.
type answer struct {
	done    chan struct{}
	packed  store.Packed
	missing bool
	err     error
	waiters int
	shared  bool // several wait: each gets a copy
}

// dial starts ssh and exchanges HELLOs.
func (o Options) dial(ctx context.Context, at Location, args []string, wants, needs casyncproto.Flags) (*session, error) {
	var command strings.Builder
	command.WriteString(o.Remote)
	for _, arg := range args {
		command.WriteString(" " + quote(arg))
	}
	// ssh takes what follows the host for the far shell.
	argv := []string{"--", at.Host, command.String()}
	if at.Port != "" {
		argv = append([]string{"-p", at.Port}, argv...)
	}
	s := &session{
		stall: o.StallTimeout, stderr: &tail{to: o.Stderr},
		pending: make(map[chunk.ID]*answer), answered: make(map[chunk.ID]struct{}),
	}
	// The session outlives the call, so its end is not ctx's.
	s.cmd = exec.Command(o.Command, argv...)
	s.cmd.Stderr = s.stderr
	s.cmd.WaitDelay = time.Second // what ssh leaves behind may hold on to stderr
	stdin, err := s.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, errors.Join(err, stdin.Close())
	}
	s.pipes = []io.Closer{stdin, stdout}
	if err := s.cmd.Start(); err != nil {
		return nil, fmt.Errorf("%s: %w", o.Command, err)
	}
	s.conn = casyncproto.NewConn(
		&limited{ctx: context.WithoutCancel(ctx), r: stdout, limiter: newLimiter(o.RateLimit), moved: s.moved},
		&sending{ctx: context.WithoutCancel(ctx), w: stdin, limiter: newLimiter(o.RateLimit), moved: s.wrote}, s.kill)
	s.watch = time.AfterFunc(o.StallTimeout, func() { s.fail(errStalled) })
	stop := context.AfterFunc(ctx, func() { s.fail(ctx.Err()) })
	err = s.hello(wants, needs)
	if !stop() {
		err = ctx.Err()
	}
	s.watch.Stop()
	if err == nil {
		return s, nil
	}
	err = s.ended(err)
	// Nothing has been run there yet: it is ssh that speaks.
	if said := s.stderr.String(); errors.Is(err, store.ErrNetwork) && Denied(said) {
		return nil, fmt.Errorf("ssh%s", said)
	}
	return nil, err
}

var (
	errStalled = errors.New("nothing has arrived for too long")

	// errSpent says that a chunk needs a session of its own to be asked for again:
	// casync's server remembers what it was asked for and answers it once.
	errSpent = errors.New("the chunk has been requested before")
)

func (s *session) hello(wants, needs casyncproto.Flags) error {
	if err := s.conn.Hello(wants); err != nil && !errors.Is(err, syscall.EPIPE) {
		return err
	}
	f, err := s.conn.Read() // also why it listens no more
	if err != nil {
		return err
	}
	flags, err := f.Hello()
	if err == nil && flags&needs != needs {
		err = fmt.Errorf("%w: it does not offer what was asked for", casyncproto.ErrProtocol)
	}
	return err
}

// moved notes that something has arrived.
func (s *session) moved() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.streaming || len(s.pending) > 0 {
		s.watch.Reset(s.stall)
	}
}

// wrote notes that something has been sent, of which alone a push may consist for
// long.
func (s *session) wrote() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.streaming {
		s.watch.Reset(s.stall)
	}
}

// kill ends ssh; what is blocked in the pipes ends with it.
func (s *session) kill() error {
	_ = s.cmd.Process.Kill() // or it has ended before
	for _, p := range s.pipes {
		_ = p.Close() // nothing was written that matters any more
	}
	return nil
}

// fail ends the session for the reason given, unless it has ended for another.
func (s *session) fail(err error) {
	s.mu.Lock()
	if s.err == nil {
		s.err = err
	}
	s.mu.Unlock()
	_ = s.conn.Close()
}

// failed reports whether the session has ended.
func (s *session) failed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err != nil
}

// end ends the session after err and returns what to tell of it: with what the
// far side had to say, and as a failure of the network where it is one.
func (s *session) end(err error) error {
	s.fail(err)
	return s.explain(s.cmd.Wait())
}

// ended is end, but where the far side has ended the conversation ssh has some
// time to end as well, as its exit code tells why.
func (s *session) ended(err error) error {
	if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, syscall.EPIPE) {
		return s.end(err)
	}
	wait := s.leave()
	s.fail(err)
	return s.explain(wait)
}

// leave closes the far side's input and waits for ssh to end, which it makes sure
// of. Nothing is read any more.
func (s *session) leave() error {
	_ = s.pipes[0].Close() // nothing was written that matters any more
	timer := time.AfterFunc(endTime, func() { _ = s.cmd.Process.Kill() })
	defer timer.Stop()
	return s.cmd.Wait()
}

// explain returns what to tell of a session that failed and whose ssh has ended.
func (s *session) explain(wait error) error {
	s.mu.Lock()
	err := s.err
	s.mu.Unlock()
	if _, ok := errors.AsType[*casyncproto.AbortError](err); ok || errors.Is(err, casyncproto.ErrProtocol) ||
		errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	said := s.stderr.String()
	if err := farFailure(wait, said); err != nil {
		return err
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.EPIPE) {
		err = errors.New("the connection ended")
	}
	return fmt.Errorf("%w: %w%s", store.ErrNetwork, err, said)
}

// farFailure returns the error that it was not ssh that failed but what it ran, nil
// if that is not so. To run it again will not help.
func farFailure(wait error, said string) error {
	if exit, ok := errors.AsType[*exec.ExitError](wait); ok && exit.ExitCode() > 0 && exit.ExitCode() < 255 {
		return fmt.Errorf("the command on the far side failed with exit code %d%s", exit.ExitCode(), said)
	}
	return nil
}

// start begins to take answers; arrived is called with the length of each.
func (s *session) start(arrived func(int)) {
	s.done.Go(func() {
		err := s.end(s.read(arrived))
		s.watch.Stop()
		s.mu.Lock()
		defer s.mu.Unlock()
		s.err = err
		for _, a := range s.pending {
			a.err = err
			close(a.done)
		}
		s.pending = nil
	})
}

// read takes answers until the conversation ends.
func (s *session) read(arrived func(int)) error {
	for {
		f, err := s.conn.Read()
		if err != nil {
			return err
		}
		var id chunk.ID
		var got answer
		switch f.Type {
		case casyncproto.TypeMissing:
			id, err = f.Missing()
			got.missing = true
		case casyncproto.TypeGoodbye:
			return io.EOF
		default:
			var compressed bool
			id, compressed, got.packed.Data, err = f.Chunk()
			if !compressed {
				got.packed.Form = store.Raw
			}
		}
		if err != nil {
			return err
		}
		s.mu.Lock()
		a, ok := s.pending[id]
		if ok {
			delete(s.pending, id)
			s.answered[id] = struct{}{}
			a.packed, a.missing, a.shared = got.packed, got.missing, a.waiters > 1
			close(a.done)
		}
		resting := len(s.pending) == 0
		if resting {
			s.watch.Stop()
		}
		over := resting && s.retired
		s.mu.Unlock()
		if !ok {
			return fmt.Errorf("%w: chunk %s was not requested", casyncproto.ErrProtocol, id)
		}
		arrived(len(got.packed.Data))
		if over {
			return io.EOF
		}
	}
}

// request asks for a chunk, unless that has been done, and waits for it. It
// returns errSpent for a chunk that this session has brought before.
func (s *session) request(ctx context.Context, id chunk.ID) (*answer, error) {
	s.mu.Lock()
	if s.pending == nil {
		defer s.mu.Unlock()
		return nil, s.err
	}
	a, asked := s.pending[id]
	if !asked {
		if _, spent := s.answered[id]; spent || s.retired {
			s.mu.Unlock()
			return nil, errSpent
		}
		a = &answer{done: make(chan struct{})}
		s.pending[id] = a
		if len(s.pending) == 1 {
			s.watch.Reset(s.stall)
		}
	}
	a.waiters++
	s.mu.Unlock()
	if !asked {
		if err := s.send(id); err != nil {
			s.fail(err) // the reader tells everybody
		}
	}
	select {
	case <-a.done:
	case <-ctx.Done():
		// The answer will come, for nobody.
		return nil, ctx.Err()
	}
	if a.err != nil {
		return nil, a.err
	}
	if a.shared {
		a = &answer{packed: store.Packed{Form: a.packed.Form, Data: bytes.Clone(a.packed.Data)}, missing: a.missing}
	}
	return a, nil
}

func (s *session) send(id chunk.ID) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	return errors.Join(s.conn.Request(id), s.conn.Flush())
}

// retire ends the session as soon as nothing is awaited.
func (s *session) retire() {
	s.mu.Lock()
	s.retired = true
	resting := len(s.pending) == 0
	s.mu.Unlock()
	if resting {
		s.fail(io.EOF)
	}
}

// goodbye ends the session in order, or at once if it is not at rest.
func (s *session) goodbye() {
	s.mu.Lock()
	resting := s.pending != nil && len(s.pending) == 0
	s.mu.Unlock()
	if resting {
		s.writing.Lock()
		err := s.conn.Goodbye()
		s.writing.Unlock()
		if err == nil {
			_ = s.pipes[0].Close() // all has been said
			timer := time.AfterFunc(time.Second, func() { s.fail(io.EOF) })
			s.done.Wait()
			timer.Stop()
			return
		}
	}
	s.fail(io.EOF)
	s.done.Wait()
}

// quote returns arg as one word for a shell.
func quote(arg string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_./,+=@%", r)
	}
	if arg != "" && !strings.ContainsFunc(arg, func(r rune) bool { return !plain(r) }) {
		return arg
	}
	return "'" + strings.ReplaceAll(arg, "'", `'\''`) + "'"
}

// tail passes on what is written and keeps the end of it.
type tail struct {
	to   io.Writer
	mu   sync.Mutex
	kept []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.kept = append(t.kept, p...)
	t.kept = t.kept[max(0, len(t.kept)-512):]
	return t.to.Write(p)
}

// String returns the last line, to follow a message.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	lines := strings.Split(strings.TrimSpace(string(t.kept)), "\n")
	if last := strings.TrimSpace(lines[len(lines)-1]); last != "" {
		return fmt.Sprintf(": %q", last)
	}
	return ""
}
