package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// listen opens what --listen says: HOST:PORT, unix:PATH, or systemd, the socket that
// systemd has opened.
func (a *app) listen(ctx context.Context, where string) (net.Listener, error) {
	var lc net.ListenConfig
	if path, ok := strings.CutPrefix(where, "unix:"); ok {
		if fi, err := os.Lstat(path); err == nil && fi.Mode().Type() == fs.ModeSocket {
			var d net.Dialer
			conn, err := d.DialContext(ctx, "unix", path)
			if err == nil {
				return nil, errors.Join(fmt.Errorf("%s: another server listens there", path), conn.Close())
			}
			if err := os.Remove(path); err != nil { // of a server that was killed
				return nil, err
			}
		}
		return lc.Listen(ctx, "unix", path)
	}
	if where != "systemd" {
		return lc.Listen(ctx, "tcp", where)
	}
	pid, _ := a.env("LISTEN_PID")
	fds, _ := a.env("LISTEN_FDS")
	if pid != strconv.Itoa(os.Getpid()) || fds != "1" {
		return nil, usageError{errors.New("--listen systemd is for a unit with a socket, one: LISTEN_PID and LISTEN_FDS are not in the environment")}
	}
	const first = 3 // sd_listen_fds(3)
	f := os.NewFile(first, "systemd")
	l, err := net.FileListener(f)
	return l, errors.Join(err, f.Close())
}

// limitedListener accepts as many connections at a time as free has room for.
type limitedListener struct {
	net.Listener
	free   chan struct{}
	stall  time.Duration // how long a client may take nothing
	once   sync.Once
	closed chan struct{}
}

// Accept waits for room, and then for a connection.
func (l *limitedListener) Accept() (net.Conn, error) {
	select {
	case l.free <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	conn, err := l.Listener.Accept()
	if err != nil {
		<-l.free
		return nil, err
	}
	return &limitedConn{Conn: conn, stall: l.stall, free: sync.OnceFunc(func() { <-l.free })}, nil
}

// Close ends the wait for room too.
func (l *limitedListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

// limitedConn gives its room back when it is closed, and fails when the far side takes
// nothing any more.
type limitedConn struct {
	net.Conn
	free    func()
	stall   time.Duration
	managed atomic.Bool // somebody else sets the deadlines: TLS, to say goodbye
	corked  bool        // what is written next is the beginning of more
}

// Cork implements [chunkserver.Corker].
func (c *limitedConn) Cork() { c.corked = true }

// step is how many bytes a client may take the time of a stall for: whoever is at the
// end of a slow link gets a file of any length.
const step = 64 << 10

// ReadFrom lets files through to the system's sendfile.
func (c *limitedConn) ReadFrom(r io.Reader) (n int64, err error) {
	part := &io.LimitedReader{R: r}
	end := int64(math.MaxInt64)
	// sendfile wants the file, or what limits it, not two that do.
	if limited, ok := r.(*io.LimitedReader); ok {
		part.R, end = limited.R, limited.N
		defer func() { limited.N -= n }()
	}
	for n < end {
		part.N = min(step, end-n)
		if err := c.arm(); err != nil {
			return n, err
		}
		m, err := io.Copy(c.Conn, part)
		n += m
		if err != nil || part.N > 0 {
			return n, err
		}
	}
	return n, nil
}

// Write implements [net.Conn].
func (c *limitedConn) Write(p []byte) (int, error) {
	if err := c.arm(); err != nil {
		return 0, err
	}
	n := 0
	if c.corked {
		c.corked = false
		n = c.keepBack(p)
	}
	m, err := c.Conn.Write(p[n:])
	return n + m, err
}

// keepBack gives the system bytes that it may keep until more come, for 200 ms at most, and
// returns how many it takes.
func (c *limitedConn) keepBack(p []byte) (n int) {
	conn, ok := c.Conn.(syscall.Conn)
	if !ok {
		return 0
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0
	}
	// What is wrong with the connection, or that it is full, the next write sees.
	_ = raw.Control(func(fd uintptr) {
		n, err = unix.SendmsgN(int(fd), p, nil, nil, unix.MSG_MORE|unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		if err != nil {
			n = 0
		}
	})
	return n
}

// arm gives the next bytes their time.
func (c *limitedConn) arm() error {
	if c.managed.Load() {
		return nil
	}
	return c.Conn.SetWriteDeadline(time.Now().Add(c.stall))
}

// SetWriteDeadline implements [net.Conn]. Without a deadline, which the server sets after
// a handshake and after each request, the next bytes have their time again.
func (c *limitedConn) SetWriteDeadline(t time.Time) error {
	c.managed.Store(!t.IsZero())
	return c.Conn.SetWriteDeadline(t)
}

// Close closes the connection.
func (c *limitedConn) Close() error {
	defer c.free()
	return c.Conn.Close()
}
