package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ociv2-sync/ociv2-sync/chunkserver"
	"github.com/ociv2-sync/ociv2-sync/internal/testutil"
	"github.com/ociv2-sync/ociv2-sync/store/httpstore"
)

// served is a server with limits of its own.
type served struct {
	addr string
	stop context.CancelFunc
	done chan error
}

func serveWith(t *testing.T, h http.Handler, config *tls.Config, limit limits) *served {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	ctx, stop := context.WithCancel(t.Context())
	s := &served{addr: l.Addr().String(), stop: stop, done: make(chan error, 1)}
	go func() {
		s.done <- serveUntil(ctx, l, &http.Server{Handler: h, TLSConfig: config, ErrorLog: nil}, 100, limit)
		close(s.done)
	}()
	t.Cleanup(func() {
		stop()
		<-s.done
	})
	return s
}

// dial opens a connection and sends something.
func (s *served) dial(t *testing.T, send string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", s.addr)
	must(t, err)
	t.Cleanup(func() { _ = c.Close() })
	_, err = io.WriteString(c, send)
	must(t, err)
	return c
}

// Who sends a header or a body without end, or takes nothing, is cut off; who takes
// little at a time is not, however long it takes.
func TestSlowClients(t *testing.T) {
	big := filepath.Join(t.TempDir(), "big")
	const size = 64 << 20 // more than the system keeps for a connection
	must(t, os.WriteFile(big, nil, 0o600))
	must(t, os.Truncate(big, size))
	files := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, big) })
	own := testutil.NewCertificate(t)
	config, err := new(app).serverTLS(&serveOptions{tlsCert: own.CertFile, tlsKey: own.KeyFile})
	must(t, err)
	limit := defaultLimits()
	limit.stall = 200 * time.Millisecond
	patient := limit
	limit.header, limit.body, limit.idle = 100*time.Millisecond, 200*time.Millisecond, 100*time.Millisecond
	s := serveWith(t, files, nil, limit)
	for name, send := range map[string]string{
		"nothing":           "",
		"part of a header":  "GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ",
		"part of a body":    "PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n123",
		"nothing more":      "HEAD / HTTP/1.1\r\nHost: x\r\n\r\n",
		"header too large":  "GET / HTTP/1.1\r\nHost: x\r\nX-Large: " + strings.Repeat("x", 30_000) + "\r\n\r\n",
		"no HTTP":           "\x16\x03\x01\x00\x05hello\r\n\r\n",
		"a body of nothing": "PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := s.dial(t, send)
			if _, err := io.Copy(io.Discard, c); err != nil && !errors.Is(err, syscall.ECONNRESET) {
				t.Error(err)
			}
		})
	}
	const get, head = "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HEAD / HTTP/1.1\r\nHost: x\r\n\r\n"
	for name, c := range map[string]struct {
		config *tls.Config
		send   string
	}{
		"takes nothing":            {nil, get},
		"takes the first response": {nil, head + get},
		"takes nothing over TLS":   {config, get},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			answered := make(chan struct{}, 1)
			s := serveWith(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				files(w, r)
				if r.Method == http.MethodGet {
					answered <- struct{}{}
				}
			}), c.config, patient)
			conn := s.dial(t, "")
			if c.config != nil {
				conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // it is ours
			}
			_, err := io.WriteString(conn, c.send)
			must(t, err)
			<-answered // as far as it is
			if n, err := io.Copy(io.Discard, conn); n >= size {
				t.Errorf("%d bytes came, %v", n, err)
			}
		})
	}
}

// A long file may take any time, in parts.
func TestSlowTransfer(t *testing.T) {
	inner, far := net.Pipe()
	defer far.Close()
	c := &limitedConn{Conn: inner, free: func() {}, stall: time.Hour}
	data := bytes.Repeat([]byte("0123456789"), 30_000)
	for name, r := range map[string]io.Reader{
		"all":     bytes.NewReader(data),
		"limited": io.LimitReader(io.MultiReader(bytes.NewReader(data), strings.NewReader("more")), int64(len(data))),
		"short":   io.LimitReader(bytes.NewReader(data), 1<<40),
	} {
		got := make(chan []byte)
		go func() {
			b := make([]byte, len(data))
			_, _ = io.ReadFull(far, b)
			got <- b
		}()
		n, err := c.ReadFrom(r)
		if n != int64(len(data)) || err != nil || !bytes.Equal(<-got, data) {
			t.Errorf("%s: %d bytes, %v", name, n, err)
		}
		if l, ok := r.(*io.LimitedReader); ok && name == "limited" && l.N != 0 {
			t.Errorf("%d bytes are said to be left", l.N)
		}
	}
	must(t, c.Close())
}

// When the server is told to stop, what is being answered is answered, nothing new is
// taken, and it ends well; who takes too long is cut off, and that is said.
func TestShutdown(t *testing.T) {
	for name, within := range map[string]bool{"in time": true, "too late": false} {
		t.Run(name, func(t *testing.T) {
			begun, finish := make(chan struct{}), make(chan struct{})
			limit := defaultLimits()
			if !within {
				limit.grace = time.Millisecond
			}
			s := serveWith(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				close(begun)
				<-finish
				_, _ = io.WriteString(w, "the end")
			}), nil, limit)
			c := s.dial(t, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
			<-begun
			s.stop()
			for { // until the listener is closed
				c, err := net.Dial("tcp", s.addr)
				if err != nil {
					break
				}
				_ = c.Close()
			}
			if !within {
				if err := <-s.done; err == nil || !strings.Contains(err.Error(), "requests were cut off") || exitCode(err) != exitFailed {
					t.Errorf("error %v", err)
				}
				close(finish)
				return
			}
			close(finish)
			resp, err := http.ReadResponse(bufio.NewReader(c), nil)
			must(t, err)
			body, err := io.ReadAll(resp.Body)
			if err != nil || string(body) != "the end" || resp.Close != true {
				t.Errorf("%q, close %v, %v", body, resp.Close, err)
			}
			if err := <-s.done; err != nil {
				t.Error(err)
			}
		})
	}
}

// Clients without a certificate, or with that of another authority, are not let in.
func TestClientCertificates(t *testing.T) {
	own, client, other := testutil.NewCertificate(t), testutil.NewCertificate(t), testutil.NewCertificate(t)
	config, err := new(app).serverTLS(&serveOptions{tlsCert: own.CertFile, tlsKey: own.KeyFile, clientCA: client.CertFile})
	must(t, err)
	s := serveWith(t, http.NotFoundHandler(), config, defaultLimits())
	get := func(certs ...*testutil.Certificate) error { return s.visitor(t, own, certs...)() }
	if err := get(client); err != nil {
		t.Errorf("the right certificate: %v", err)
	}
	if get() == nil || get(other) == nil {
		t.Error("the wrong certificate, or none, is good enough")
	}
	for _, o := range []serveOptions{
		{tlsCert: own.CertFile, tlsKey: other.KeyFile},
		{tlsCert: own.CertFile, tlsKey: own.KeyFile, clientCA: own.KeyFile},
	} {
		if _, err := new(app).serverTLS(&o); exitCode(err) != exitUsage {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

// visitor returns what makes a request with the certificates given, in a new connection
// that resumes the session of the one before where the server lets it.
func (s *served) visitor(t *testing.T, server *testutil.Certificate, certs ...*testutil.Certificate) func() error {
	t.Helper()
	roots, err := readAuthorities(server.CertFile)
	must(t, err)
	conf := &tls.Config{RootCAs: roots, ClientSessionCache: tls.NewLRUClientSessionCache(1)}
	for _, c := range certs {
		pair, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
		must(t, err)
		conf.Certificates = append(conf.Certificates, pair)
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: conf, DisableKeepAlives: true}}
	return func() error {
		resp, err := client.Get("https://" + s.addr + "/x")
		if err != nil {
			return err
		}
		return resp.Body.Close()
	}
}

// lines are what is written, a line at a time.
type lines chan string

func (l lines) Write(p []byte) (int, error) {
	l <- string(p)
	return len(p), nil
}

// The authorities of clients may be replaced while the server runs: who came in by the
// old ones does not any more, by a session of then neither. A file without any changes
// nothing, and is in the log.
func TestClientAuthoritiesReload(t *testing.T) {
	t.Parallel()
	own, before, after := testutil.NewCertificate(t), testutil.NewCertificate(t), testutil.NewCertificate(t)
	path := filepath.Join(t.TempDir(), "authorities")
	written := time.Unix(1e9, 0)
	write := func(text []byte) {
		t.Helper()
		written = written.Add(time.Second)
		must(t, os.WriteFile(path+".new", text, 0o600))
		must(t, os.Chtimes(path+".new", written, written))
		must(t, os.Rename(path+".new", path))
	}
	pem := func(c *testutil.Certificate) []byte {
		t.Helper()
		text, err := os.ReadFile(c.CertFile)
		must(t, err)
		return text
	}
	write(pem(before))
	log := make(lines, 10)
	config, err := (&app{stderr: log}).serverTLS(&serveOptions{tlsCert: own.CertFile, tlsKey: own.KeyFile, clientCA: path})
	must(t, err)
	s := serveWith(t, http.NotFoundHandler(), config, defaultLimits())
	old, young := s.visitor(t, own, before), s.visitor(t, own, after)
	for range 2 {
		must(t, old())
	}
	if young() == nil {
		t.Error("a certificate of another authority is good enough")
	}
	write(pem(after))
	for young() != nil {
		time.Sleep(50 * time.Millisecond)
	}
	if old() == nil {
		t.Error("who came in by the authorities of before still does")
	}
	write([]byte("damaged"))
	for len(log) == 0 {
		must(t, young())
		time.Sleep(50 * time.Millisecond)
	}
	if line := <-log; !strings.Contains(line, "level=ERROR") || !strings.Contains(line, path) {
		t.Errorf("the log says %q", line)
	}
	must(t, young())
	if old() == nil {
		t.Error("a damaged file lets others in")
	}
}

// systemd hands over its socket: sd_listen_fds(3), with the program that systemd has
// for that, and without.
func TestSocketActivation(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "catalog.json"), []byte("{}"), 0o600))
	socket := filepath.Join(t.TempDir(), "socket")
	exe := filepath.Join(dir, "ociv2-sync") // by its name the test is the program
	must(t, os.Symlink(newDevice(t).command().Path, exe))
	fetch := func(t *testing.T, network, addr string) {
		t.Helper()
		tr := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			for { // until systemd's program listens
				c, err := new(net.Dialer).DialContext(ctx, network, addr)
				if err == nil || ctx.Err() != nil {
					return c, err
				}
				time.Sleep(time.Millisecond)
			}
		}}
		resp, err := (&http.Client{Transport: tr}).Get("http://x/catalog.json")
		must(t, err)
		defer resp.Body.Close()
		if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "{}" {
			t.Errorf("%s %q, %v", resp.Status, b, err)
		}
	}
	start := func(t *testing.T, cmd *exec.Cmd) {
		t.Helper()
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		cmd.Env = append(cleanEnv(), cmd.Env...)
		must(t, cmd.Start())
		t.Cleanup(func() {
			must(t, cmd.Process.Signal(syscall.SIGTERM))
			if code := wait(t, cmd); code != 0 || t.Failed() {
				t.Errorf("exit code %d\n%s", code, stderr.String())
			}
		})
	}
	t.Run("systemd-socket-activate", func(t *testing.T) {
		tool := testutil.Tool(t, "systemd-socket-activate")
		// It becomes the program with the first connection.
		cmd := exec.Command(tool, "-l", socket, exe, "serve", "--listen", "systemd", dir)
		start(t, cmd)
		fetch(t, "unix", socket)
		fetch(t, "unix", socket)
	})
	t.Run("descriptor 3", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		must(t, err)
		f, err := l.(*net.TCPListener).File()
		must(t, err)
		cmd := exec.Command("sh", "-c", `LISTEN_FDS=1 LISTEN_PID=$$ exec "$0" serve --listen systemd "$1"`, exe, dir)
		cmd.ExtraFiles = []*os.File{f}
		start(t, cmd)
		addr := l.Addr().String()
		must(t, errors.Join(f.Close(), l.Close()))
		fetch(t, "tcp", addr)
	})
}

// A site's devices all pull the same image at once, through its proxy: each object comes
// from upstream once.
func TestSite(t *testing.T) {
	t.Parallel()
	const devices = 25
	dir := t.TempDir()
	tree, repo := filepath.Join(dir, "tree"), filepath.Join(dir, "repo")
	must(t, errors.Join(os.Mkdir(tree, 0o755), os.Mkdir(filepath.Join(dir, "cache"), 0o755)))
	for i := range 12 {
		writeNoise(t, filepath.Join(tree, fmt.Sprint(i)), uint64(i), 40_000)
	}
	newDevice(t).must("push", "rootfs:"+tree, repo+"/app:1")
	upstream := testutil.StartNginx(t, repo)
	client := httpstore.NewClient(httpstore.Options{})
	defer client.Close()
	source, err := client.Dir(upstream.URL)
	must(t, err)
	p, err := chunkserver.NewProxy(source, filepath.Join(dir, "cache"), chunkserver.ProxyOptions{Fresh: time.Hour})
	must(t, err)
	server := httptest.NewServer(p)
	var all []*device
	for range devices {
		all = append(all, newDevice(t))
	}
	var wg sync.WaitGroup
	begin := make(chan struct{})
	for _, d := range all {
		wg.Go(func() {
			<-begin
			if r := d.run("pull", "-q", server.URL+"/app:1"); r.code != exitDone {
				t.Errorf("exit code %d: %s", r.code, r.stderr)
			}
		})
	}
	close(begin)
	wg.Wait()
	server.Close()
	must(t, p.Close())
	times := map[string]int{}
	for _, r := range upstream.Requests() {
		times[r.Path]++
	}
	if len(times) < 10 {
		t.Errorf("%d objects were fetched", len(times))
	}
	for uri, n := range times {
		if n != 1 {
			t.Errorf("%s was fetched %d times", uri, n)
		}
	}
	for _, d := range all {
		testutil.CompareTrees(t, tree, must1(filepath.EvalSymlinks(d.path("app:1"))))
	}
}
