package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/ociv2-sync/ociv2-sync/chunkserver"
)

// monitorOptions reads the tokens and opens the access log.
func (a *app) monitorOptions(o *serveOptions) (chunkserver.MonitorOptions, error) {
	var m chunkserver.MonitorOptions
	if o.accessLog {
		m.AccessLog = slog.New(slog.NewJSONHandler(a.stderr, nil))
	}
	if o.htpasswd != "" {
		users, err := readHtpasswd(o.htpasswd)
		if err != nil {
			return m, err
		}
		m.Login = users.login
	}
	if o.tokenFile != "" {
		text, err := os.ReadFile(o.tokenFile)
		if err != nil {
			return m, err
		}
		if m.Tokens = strings.Fields(string(text)); len(m.Tokens) == 0 {
			return m, usageError{fmt.Errorf("%s has no token", o.tokenFile)}
		}
	}
	return m, nil
}

// serverTLS returns the configuration that the options mean, nil for HTTP.
func serverTLS(o *serveOptions) (*tls.Config, error) {
	if o.tlsCert == "" {
		if o.tlsKey != "" || o.clientCA != "" {
			return nil, usageError{errors.New("--tls-key and --tls-client-ca go with --tls-cert")}
		}
		return nil, nil
	}
	pair := &reloading{cert: o.tlsCert, key: o.tlsKey}
	if pair.key == "" {
		pair.key = pair.cert
	}
	if _, err := pair.get(nil); err != nil {
		return nil, usageError{fmt.Errorf("--tls-cert: %w", err)}
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: pair.get, NextProtos: []string{"http/1.1"}}
	if o.clientCA != "" {
		pem, err := os.ReadFile(o.clientCA)
		if err != nil {
			return nil, err
		}
		config.ClientCAs, config.ClientAuth = x509.NewCertPool(), tls.RequireAndVerifyClientCert
		if !config.ClientCAs.AppendCertsFromPEM(pem) {
			return nil, usageError{fmt.Errorf("%s has no certificate", o.clientCA)}
		}
	}
	return config, nil
}

// reloading is a certificate that is read again when its file has changed.
type reloading struct {
	cert, key string

	mu      sync.Mutex
	looked  time.Time // when the file was looked at
	changed time.Time // of the file that was read
	pair    *tls.Certificate
}

// get returns the certificate. One that cannot be read any more, being written at
// the moment perhaps, leaves the one before in use.
func (r *reloading) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pair != nil && time.Since(r.looked) < time.Second {
		return r.pair, nil
	}
	r.looked = time.Now()
	fi, err := os.Stat(r.cert)
	if err == nil && (r.pair == nil || !fi.ModTime().Equal(r.changed)) {
		var pair tls.Certificate
		if pair, err = tls.LoadX509KeyPair(r.cert, r.key); err == nil {
			r.pair, r.changed = &pair, fi.ModTime()
		}
	}
	if r.pair != nil {
		return r.pair, nil
	}
	return nil, err
}

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
	return &limitedConn{Conn: conn, free: sync.OnceFunc(func() { <-l.free })}, nil
}

// Close ends the wait for room too.
func (l *limitedListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

// limitedConn gives its room back when it is closed.
type limitedConn struct {
	net.Conn
	free func()
}

// ReadFrom lets files through to the system's sendfile.
func (c *limitedConn) ReadFrom(r io.Reader) (int64, error) { return io.Copy(c.Conn, r) }

// Close closes the connection.
func (c *limitedConn) Close() error {
	defer c.free()
	return c.Conn.Close()
}
