package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/ociv2-sync/ociv2-sync/internal/testutil"
)

// lies are what a server may send in place of an object, and how a pull ends by it.
var lies = map[string]struct {
	code int
	tell func(w http.ResponseWriter, r *http.Request, truth []byte)
}{
	"a page with status 200": {exitCorrupt, func(w http.ResponseWriter, _ *http.Request, _ []byte) {
		_, _ = io.WriteString(w, "<html><body>Please log in to this network.</body></html>")
	}},
	"wrong bytes": {exitCorrupt, func(w http.ResponseWriter, _ *http.Request, truth []byte) {
		wrong := append([]byte(nil), truth...)
		wrong[len(wrong)/2] ^= 1
		_, _ = w.Write(wrong)
	}},
	"half of it": {exitCorrupt, func(w http.ResponseWriter, _ *http.Request, truth []byte) { _, _ = w.Write(truth[:len(truth)/2]) }},
	"nothing":    {exitCorrupt, func(http.ResponseWriter, *http.Request, []byte) {}},
	"cut": {exitNetwork, func(w http.ResponseWriter, _ *http.Request, truth []byte) {
		w.Header().Set("Content-Length", fmt.Sprint(len(truth)))
		_, _ = w.Write(truth[:len(truth)/2])
		panic(http.ErrAbortHandler)
	}},
	"no end": {exitCorrupt, func(w http.ResponseWriter, _ *http.Request, truth []byte) {
		for {
			if _, err := w.Write(truth); err != nil {
				return
			}
		}
	}},
	"100 GB": {exitCorrupt, func(w http.ResponseWriter, _ *http.Request, truth []byte) {
		w.Header().Set("Content-Length", "100000000000")
		for {
			if _, err := w.Write(truth); err != nil {
				return
			}
		}
	}},
	"redirects without end": {exitFailed, func(w http.ResponseWriter, r *http.Request, _ []byte) {
		http.Redirect(w, r, r.URL.Path, http.StatusFound)
	}},
	"a redirect to a file": {exitFailed, func(w http.ResponseWriter, r *http.Request, _ []byte) {
		http.Redirect(w, r, "file:///etc/passwd", http.StatusFound)
	}},
	"another encoding": {exitFailed, func(w http.ResponseWriter, _ *http.Request, truth []byte) {
		w.Header().Set("Content-Encoding", "gzip")
		_, _ = w.Write(truth)
	}},
	"a status for nothing": {exitFailed, func(w http.ResponseWriter, _ *http.Request, _ []byte) { w.WriteHeader(http.StatusNoContent) }},
}

// TestLyingServer has a server lie about each kind of object in turn: the pull says
// what is wrong with which, takes little memory and few bytes for it, changes nothing
// and keeps nothing that is wrong.
func TestLyingServer(t *testing.T) {
	p := publish(t)
	l := &lab{t: t, repo: p.repo}
	kinds := map[string]func(string) bool{
		"TAG.json": func(path string) bool { return path == "/app/2.json" },
		"toc":      func(path string) bool { return path == strings.TrimPrefix(l.tocPath("2"), p.repo) },
		"chunk":    func(path string) bool { return strings.HasSuffix(path, ".cacnk") },
	}
	for kind, about := range kinds {
		d := newDevice(t)
		d.must("pull", "-q", p.ref(1))
		check := unchanged(t, filepath.Join(d.root, "images"), filepath.Join(d.root, "trees"), filepath.Join(d.root, "blobs"))
		files := http.FileServer(http.Dir(p.repo))
		var tell func(http.ResponseWriter, *http.Request, []byte)
		var sent atomic.Int64
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if tell == nil || !about(r.URL.Path) {
				files.ServeHTTP(w, r)
				return
			}
			truth, err := os.ReadFile(filepath.Join(p.repo, filepath.FromSlash(r.URL.Path)))
			if err != nil {
				t.Error(err)
			}
			tell(&summing{w, &sent}, r, truth)
		}))
		defer server.Close()
		for name, lie := range lies {
			t.Run(kind+" "+name, func(t *testing.T) {
				tell = lie.tell
				sent.Store(0)
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				(&device{t: t, root: d.root}).fails(lie.code, []string{server.URL}, "pull", "-q", "--jobs", "4", server.URL+"/app:2")
				runtime.ReadMemStats(&after)
				// What sockets hold of what is not read, for each request, is more than what is.
				if got := after.TotalAlloc - before.TotalAlloc; got > 256<<20 || sent.Load() > 128<<20 {
					t.Errorf("%d bytes were allocated, %d sent", got, sent.Load())
				}
				server.CloseClientConnections() // what is still told ends
			})
		}
		check()
		tell = nil
		d.must("pull", "-q", server.URL+"/app:2")
		testutil.CompareTrees(t, p.releases[1], must1(filepath.EvalSymlinks(d.path("app:2"))))
	}
}

func (l *lab) tocPath(tag string) string { return l.layerPath(tag, layerTOC) }

// summing counts what is written.
type summing struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (s *summing) Write(p []byte) (int, error) {
	n, err := s.ResponseWriter.Write(p)
	s.n.Add(int64(n))
	return n, err
}

// TestSignedURLs has a server that wants a signature with each request, which is in
// the query of the reference, and never in what is told.
func TestSignedURLs(t *testing.T) {
	t.Parallel()
	p := publish(t)
	files := http.FileServer(http.Dir(p.repo))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("sig") != "s3cret/+" {
			http.Error(w, "no", http.StatusForbidden)
			return
		}
		files.ServeHTTP(w, r)
	}))
	defer server.Close()
	d := newDevice(t)
	for _, tag := range []string{"1", "2"} {
		r := d.must("pull", server.URL+"/app:"+tag+"?x=1&sig=s3cret%2F%2B")
		if strings.Contains(r.stdout+r.stderr, "s3cret") {
			t.Errorf("it tells the signature: %s%s", r.stdout, r.stderr)
		}
	}
	testutil.CompareTrees(t, p.releases[1], must1(filepath.EvalSymlinks(d.path("app:2"))))
	d.fails(exitFailed, []string{"403"}, "pull", server.URL+"/app:1?sig=wrong")
	for path := range strings.SplitSeq(strings.Join(d.state(), " "), " ") {
		must(t, filepath.WalkDir(path, func(name string, e os.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) || e != nil && !e.Type().IsRegular() || strings.Contains(name, "/rootfs/") {
				return nil
			}
			if err != nil {
				return err
			}
			b, err := os.ReadFile(name)
			if strings.Contains(string(b), "s3cret") {
				t.Errorf("%s keeps the signature", name)
			}
			return err
		}))
	}
}

// TestProxies has every request of a pull, and of an extract, go through the proxy
// that the environment names, with https in a tunnel; and none where it says so.
func TestProxies(t *testing.T) {
	t.Parallel()
	p := publish(t)
	origin := httptest.NewServer(http.FileServer(http.Dir(p.repo)))
	defer origin.Close()
	var through, tunnels atomic.Int64
	at, err := url.Parse(origin.URL)
	must(t, err)
	plain := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(at) }}
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method == http.MethodConnect:
			tunnels.Add(1)
			http.Error(w, "no tunnel today", http.StatusForbidden)
		case r.URL.Host != "images.example":
			t.Errorf("the proxy is asked for %s", r.URL)
		default:
			if user, password, _ := parseProxyAuth(r); user != "me" || password != "s3cret" {
				http.Error(w, "who are you", http.StatusProxyAuthRequired)
				return
			}
			through.Add(1)
			plain.ServeHTTP(w, r)
		}
	}))
	defer proxy.Close()
	d := newDevice(t)
	run := func(env []string, args ...string) (string, int) {
		cmd := d.command(args...)
		cmd.Env = append(cmd.Env, env...)
		out, err := cmd.CombinedOutput()
		if err != nil && cmd.ProcessState == nil {
			t.Fatal(err)
		}
		return string(out), cmd.ProcessState.ExitCode()
	}
	by := "//me:s3cret@" + strings.TrimPrefix(proxy.URL, "http://")
	env := []string{"http_proxy=http:" + by, "https_proxy=http:" + by}
	if out, code := run(env, "pull", "-q", "http://images.example/app:1"); code != 0 || through.Load() < 3 {
		t.Errorf("%d requests through the proxy, exit code %d: %s", through.Load(), code, out)
	}
	testutil.CompareTrees(t, p.releases[0], must1(filepath.EvalSymlinks(d.path("app:1"))))
	out, code := run(env, "extract", "http://images.example/app/1.caidx", filepath.Join(t.TempDir(), "tree"), "--store=http://images.example/default.castr")
	if code != 0 {
		t.Errorf("extract: exit code %d: %s", code, out)
	}
	out, code = run(env, "pull", "-q", "https://images.example/app:1")
	if code == 0 || tunnels.Load() == 0 || strings.Contains(out, "s3cret") {
		t.Errorf("%d tunnels, exit code %d: %s", tunnels.Load(), code, out)
	}
	n := through.Load()
	if out, code = run(append(env, "no_proxy=.example"), "pull", "-q", "http://images.example/app:2"); code != exitNetwork || through.Load() != n {
		t.Errorf("%d requests more, exit code %d: %s", through.Load()-n, code, out)
	}
}

// parseProxyAuth is BasicAuth for a proxy.
func parseProxyAuth(r *http.Request) (user, password string, ok bool) {
	as := http.Request{Header: http.Header{"Authorization": r.Header["Proxy-Authorization"]}}
	return as.BasicAuth()
}
