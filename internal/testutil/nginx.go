package testutil

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// Nginx is a running nginx that serves one directory on loopback. All methods may
// be called from any goroutine.
type Nginx struct {
	URL string // http://127.0.0.1:PORT, without a slash at the end

	log  string
	skip atomic.Int64 // how many bytes of the log Reset has put behind us
	t    testing.TB
}

// Request is one line of the access log.
type Request struct {
	Method     string
	Path       string // as it was sent, with the query string
	Status     int
	BodyBytes  int64  // response body; headers are not in it
	Range      string // the Range header, "" when there was none
	Connection int64  // nginx's serial of the TCP connection: same number, same connection
}

// markPath answers 204 and is logged last; it is left out of Requests.
const markPath = "/.testutil-mark"

// logFields is the number of tab-separated fields that nginxConfig's log_format
// writes.
const logFields = 6

// nginxConfig is a stock configuration but for the places it writes to, and with one
// worker, so that the log has the order of the requests. (Without a master process
// nginx 1.22 crashes on an inherited socket.)
const nginxConfig = `
daemon off;
worker_processes 1;
%[6]s
pid %[1]s/pid;
error_log %[1]s/error.log;
events { worker_connections 1024; }
http {
	client_body_temp_path %[1]s/body;
	proxy_temp_path %[1]s/proxy;
	fastcgi_temp_path %[1]s/fastcgi;
	uwsgi_temp_path %[1]s/uwsgi;
	scgi_temp_path %[1]s/scgi;
	default_type application/octet-stream;
	sendfile on;
	log_format count '$request_method	$status	$body_bytes_sent	$connection	$http_range	$request_uri';
	access_log %[1]s/access.log count;
	server {
		listen %[2]s;
		root "%[3]s";
		location = %[4]s { return 204; }
%[5]s
	}
}
`

// StartNginx serves dir with a stock nginx on loopback until the test ends. The
// serverLines are added to its server block (limit_rate, return, ...). The test is
// skipped when nginx is not installed.
func StartNginx(t testing.TB, dir string, serverLines ...string) *Nginx {
	t.Helper()
	bin := Tool(t, "nginx")
	dir, err := filepath.Abs(dir)
	must(t, err)
	prefix := t.TempDir()

	// nginx takes over a listening socket named in NGINX, as it does when its own
	// binary is upgraded: no port is free now and taken a moment later, and the
	// first request simply waits until nginx is ready.
	ln, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	must(t, err)
	addr := ln.Addr().String()
	socket, err := ln.File()
	must(t, err)
	must(t, ln.Close())
	user := ""
	if os.Geteuid() == 0 {
		user = "user root;" // the worker must read what the test made, 0700 directories too
	}
	conf := fmt.Sprintf(nginxConfig, prefix, addr, dir, markPath, strings.Join(serverLines, "\n"), user)
	must(t, os.WriteFile(filepath.Join(prefix, "nginx.conf"), []byte(conf), 0o600))

	cmd := exec.Command(bin, "-p", prefix, "-e", filepath.Join(prefix, "error.log"), "-c", filepath.Join(prefix, "nginx.conf"))
	cmd.Env = append(os.Environ(), "NGINX=3;")
	cmd.ExtraFiles = []*os.File{socket}
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	// A test binary that dies at its time limit runs no cleanup; the master passes
	// SIGTERM on to its worker.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	must(t, cmd.Start())
	must(t, socket.Close())
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	})

	n := &Nginx{URL: "http://" + addr, log: filepath.Join(prefix, "access.log"), t: t}
	if err := n.mark(); err != nil {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		errorLog, _ := os.ReadFile(filepath.Join(prefix, "error.log"))
		t.Fatalf("nginx did not start: %v\n%s%s", err, output.Bytes(), errorLog)
	}
	n.Reset()
	return n
}

// mark makes one request on a connection of its own. nginx writes a request's log
// line in the step that ends its response, in one process: whatever was answered
// before the mark was sent is in the log when the mark is answered.
func (n *Nginx) mark() error {
	transport := &http.Transport{DisableKeepAlives: true}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: 20 * time.Second}
	resp, err := client.Get(n.URL + markPath)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusNoContent {
		return fmt.Errorf("nginx answered %s", resp.Status)
	}
	return nil
}

func (n *Nginx) readLog() []byte {
	n.t.Helper()
	must(n.t, n.mark())
	log, err := os.ReadFile(n.log)
	must(n.t, err)
	return log
}

// Reset forgets the requests made so far. No request may be under way.
func (n *Nginx) Reset() {
	n.t.Helper()
	n.skip.Store(int64(len(n.readLog())))
}

// Requests returns what was asked for since the start or the last Reset, in the
// order in which the responses ended. It is exact once the client has read its
// responses to the end.
func (n *Nginx) Requests() []Request {
	n.t.Helper()
	var requests []Request
	for line := range strings.Lines(string(n.readLog()[n.skip.Load():])) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), "\t", logFields)
		if len(f) != logFields {
			n.t.Fatalf("nginx: access log line %q", line)
		}
		if f[5] == markPath {
			continue
		}
		r := Request{Method: f[0], Path: f[5]}
		r.Status = int(number(n.t, f[1]))
		r.BodyBytes = number(n.t, f[2])
		r.Connection = number(n.t, f[3])
		if f[4] != "-" {
			r.Range = f[4]
		}
		requests = append(requests, r)
	}
	return requests
}

// Count returns how many requests there were since the start or the last Reset,
// and how many bytes of response bodies.
func (n *Nginx) Count() (requests int, bodyBytes int64) {
	n.t.Helper()
	all := n.Requests()
	for _, r := range all {
		bodyBytes += r.BodyBytes
	}
	return len(all), bodyBytes
}

func number(t testing.TB, s string) int64 {
	t.Helper()
	n, err := strconv.ParseInt(s, 10, 64)
	must(t, err)
	return n
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
