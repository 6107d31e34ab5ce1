package main

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ociv2-sync/ociv2-sync/internal/testutil"
)

// TestServerDies has the server go away in the middle of a pull, in several ways:
// exit code 6, everything as it was, and the next pull goes on.
func TestServerDies(t *testing.T) {
	t.Parallel()
	p := publish(t)
	other := t.TempDir()
	must(t, os.WriteFile(filepath.Join(other, "file"), []byte("other"), 0o644))
	newDevice(t).must("push", "--deltas=0", "rootfs:"+other, p.repo+"/app:other")
	for name, die := range map[string]func(w http.ResponseWriter, r *http.Request){
		"refuses": func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusServiceUnavailable) },
		"cuts":    func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"cuts in the body": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "30000")
			_, _ = w.Write(make([]byte, 1000))
			panic(http.ErrAbortHandler)
		},
	} {
		t.Run(name, func(t *testing.T) {
			tr, _ := setTrap(t, p.repo)
			var dead atomic.Bool
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if dead.Load() && strings.HasSuffix(r.URL.Path, ".cacnk") {
					die(w, r)
					return
				}
				tr.ServeHTTP(w, r)
			}))
			defer server.Close()
			d := newDevice(t)
			d.must("pull", p.repo+"/app:other")
			check := unchanged(t, filepath.Join(d.root, "images"), filepath.Join(d.root, "trees"), filepath.Join(d.root, "blobs"))
			tr.set(80, func() { dead.Store(true) })
			d.fails(exitNetwork, []string{server.URL, ".cacnk", "try again"}, "pull", "-q", server.URL+"/app:1")
			check()
			dest := filepath.Join(t.TempDir(), "dest")
			must(t, os.Mkdir(dest, 0o755)) // of no use here
			noLeftovers(t, d, dest)
			dead.Store(false)
			d.must("pull", server.URL+"/app:1")
			testutil.CompareTrees(t, p.releases[0], must1(filepath.EvalSymlinks(d.path("app:1"))))
			if sum, again := tr.total(); again > sum/5 { // what was in flight is much of so small an image
				t.Errorf("%d bytes fetched, and %d of them again", sum, again)
			}
		})
	}
}

// TestOneWriter has a second pull find a first one at work in the root, and
// readers not mind it.
func TestOneWriter(t *testing.T) {
	t.Parallel()
	p := publish(t)
	tr, url := setTrap(t, p.repo)
	tr.stall = true
	d := newDevice(t)
	d.must("pull", p.ref(1))
	stalled := make(chan struct{})
	tr.set(1, func() { close(stalled) })
	cmd := d.command("pull", "-q", url+"/app:2")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	must(t, cmd.Start())
	select {
	case <-stalled:
	case <-time.After(20 * time.Second):
		t.Error("the first pull does not begin")
	}
	d.fails(exitFailed, []string{"is being written to by pid", "pull of " + url + "/app:2"}, "pull", "-q", p.ref(2))
	d.fails(exitFailed, []string{"is being written to by pid"}, "rollback", "app:1")
	d.must("plan", p.ref(2))
	if list := d.must("images").stdout; !strings.HasPrefix(list, "app:1 ") {
		t.Errorf("images: %s", list)
	}
	must(t, cmd.Process.Signal(os.Interrupt))
	if code := wait(t, cmd); code != 130 {
		t.Errorf("exit code %d; %s", code, stderr.String())
	}
	d.must("pull", p.ref(2))
}
