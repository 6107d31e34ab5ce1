package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"

	"github.com/ociv2-sync/ociv2-sync/internal/archive"
	"github.com/ociv2-sync/ociv2-sync/internal/casyncproto"
	"github.com/ociv2-sync/ociv2-sync/internal/repo"
	"github.com/ociv2-sync/ociv2-sync/internal/sftpserve"
)

// casyncArgs makes check ignore the command lines by which casync's ssh client
// starts its far side: those whose first argument is "-".
func casyncArgs(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 && args[0] == "-" {
			return nil
		}
		return check(cmd, args)
	}
}

// casyncHelp ends the help of the two commands.
const casyncHelp = `

With - as its first argument it is the far side of casync's ssh client instead:
- ARCHIVE INDEX STORE [STORE...], each - if there is none, on standard input and
output. CASYNC_REMOTE_PATH=ociv2-sync has casync and desync start it.`

// farSide is a verb of casync's protocol, archive.ServePull or ServePush.
type farSide func(context.Context, *casyncproto.Conn, []string, *archive.Reach) error

// runFarSide talks casync's protocol on standard input and output.
func (a *app) runFarSide(ctx context.Context, serve farSide, args []string, reach *archive.Reach) error {
	in, out, err := stdio()
	if err != nil {
		return err
	}
	conn := casyncproto.NewConn(in, a.rateLimited(ctx, out), func() error { return errors.Join(in.Close(), out.Close()) })
	return serve(ctx, conn, args, reach)
}

// stdio returns standard input and output as interruptible does.
func stdio() (in, out *os.File, err error) {
	if in, err = interruptible(syscall.Stdin, "stdin"); err != nil {
		return nil, nil, err
	}
	if out, err = interruptible(syscall.Stdout, "stdout"); err != nil {
		return nil, nil, errors.Join(err, in.Close())
	}
	return in, out, nil
}

// interruptible returns a file of what fd is, such that Close ends a Read or
// Write that waits: for pipes and sockets, which is what ssh gives. It is a
// duplicate, as the poller may know fd itself already.
func interruptible(fd int, name string) (*os.File, error) {
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, fmt.Errorf("serve: %s: %w", name, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(dup, &st); err == nil && (st.Mode&unix.S_IFMT == unix.S_IFIFO || st.Mode&unix.S_IFMT == unix.S_IFSOCK) {
		if err := unix.SetNonblock(dup, true); err != nil {
			return nil, errors.Join(fmt.Errorf("serve: %s: %w", name, err), unix.Close(dup))
		}
	}
	return os.NewFile(uintptr(dup), name), nil
}

// rateLimited returns w, written to no faster than --limit-rate.
func (a *app) rateLimited(ctx context.Context, w io.Writer) io.Writer {
	if a.limitRate <= 0 {
		return w
	}
	burst := int(min(max(int64(a.limitRate)/8, 1<<10), 256<<10))
	return &slowWriter{ctx: ctx, w: w, limiter: rate.NewLimiter(rate.Limit(a.limitRate), burst)}
}

type slowWriter struct {
	ctx     context.Context //nolint:containedctx // of the command
	w       io.Writer
	limiter *rate.Limiter
}

func (s *slowWriter) Write(p []byte) (done int, err error) {
	for done < len(p) {
		part := p[done:min(len(p), done+s.limiter.Burst())]
		if err := s.limiter.WaitN(s.ctx, len(part)); err != nil {
			return done, err
		}
		n, err := s.w.Write(part)
		if done += n; err != nil {
			return done, err
		}
	}
	return done, nil
}

// serveStdio serves one ssh session: SFTP, or to one that is confined to a
// directory also casync's protocol, if that is what the client's own command asks
// for. sshd has put that into the environment where ours is a forced command.
func (a *app) serveStdio(ctx context.Context, dir string, readOnly bool) (err error) {
	command, forced := a.env("SSH_ORIGINAL_COMMAND")
	if !forced || dir == "" {
		return a.serveSFTP(ctx, dir, readOnly)
	}
	words, err := splitWords(command)
	if err != nil {
		return usageError{fmt.Errorf("the client's command: %w", err)}
	}
	if wantsSFTP(words) {
		return a.serveSFTP(ctx, dir, readOnly)
	}
	serve, args, err := a.verb(words)
	if err != nil {
		return err
	}
	if serve.writes && readOnly {
		return usageError{errors.New("nothing can be pushed here: it is read only")}
	}
	reach, err := archive.Confine(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, reach.Close()) }()
	return a.runFarSide(ctx, serve.run, args, reach)
}

// wantsSFTP reports whether a client's command is ours, PROGRAM serve --stdio, or
// that of sshd's sftp subsystem.
func wantsSFTP(words []string) bool {
	switch len(words) {
	case 1:
		name := filepath.Base(words[0])
		return name == "internal-sftp" || name == "sftp-server" || name == "sftp"
	case 3:
		return words[1] == "serve" && words[2] == "--stdio"
	}
	return false
}

// serveSFTP serves one session of SFTP on standard input and output.
func (a *app) serveSFTP(ctx context.Context, dir string, readOnly bool) error {
	in, out, err := stdio()
	if err != nil {
		return err
	}
	stream := struct {
		io.Reader
		io.Writer
		io.Closer
	}{in, a.rateLimited(ctx, out), closeBoth{in, out}}
	return sftpserve.Serve(ctx, stream, sftpserve.Options{Confine: dir, ReadOnly: readOnly, Blobs: repo.Blobs})
}

// closeBoth closes two files, of which either may be closed.
type closeBoth struct{ in, out *os.File }

func (c closeBoth) Close() error {
	for _, f := range []*os.File{c.in, c.out} {
		if err := f.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
			return err
		}
	}
	return nil
}

// verb is what a client wants to be run, and whether that writes.
type verb struct {
	run    farSide
	writes bool
}

// verb reads a command line of casync's or desync's ssh client: the program,
// options that casync passes on, the verb, its arguments.
func (a *app) verb(words []string) (verb, []string, error) {
	for i, word := range words {
		rate, limited := strings.CutPrefix(word, "--rate-limit-bps=")
		switch {
		case i == 0, strings.HasPrefix(word, "--log-level="): // what is logged is for the owner of the key to say
		case limited:
			if err := a.limitRate.Set(rate); err != nil {
				return verb{}, nil, usageError{err}
			}
		case word == "pull":
			return verb{archive.ServePull, false}, words[i+1:], nil
		case word == "push":
			return verb{archive.ServePush, true}, words[i+1:], nil
		default:
			return verb{}, nil, usageError{fmt.Errorf("the client may run pull and push here, not %q", word)}
		}
	}
	return verb{}, nil, usageError{errors.New("the client's command is neither pull nor push")}
}

// splitWords splits a command line as a shell does, without anything else that a
// shell does: what would need it is refused.
func splitWords(line string) ([]string, error) {
	var words []string
	var word strings.Builder
	in, quote := false, byte(0)
	for i := 0; i < len(line); i++ {
		c := line[i]
		switch {
		case quote == 0 && (c == ' ' || c == '\t'):
			if in {
				words = append(words, word.String())
				word.Reset()
			}
			in = false
			continue
		case quote == 0 && (c == '\'' || c == '"'):
			quote = c
		case quote != 0 && c == quote:
			quote = 0
		case quote != '\'' && c == '\\':
			if i++; i == len(line) {
				return nil, errors.New("a backslash at the end")
			}
			word.WriteByte(line[i])
		case quote != '\'' && (c == '$' || c == '`'), quote == 0 && strings.IndexByte("|&;<>()*?[]{}!#\n", c) >= 0:
			return nil, fmt.Errorf("%q is for a shell, and there is none", c)
		default:
			word.WriteByte(c)
		}
		in = true
	}
	if quote != 0 {
		return nil, errors.New("a quote that does not end")
	}
	if in {
		words = append(words, word.String())
	}
	return words, nil
}
