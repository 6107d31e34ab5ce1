package chunkserver_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/ociv2-sync/ociv2-sync/chunkserver"
	"github.com/ociv2-sync/ociv2-sync/internal/testutil"
	"github.com/ociv2-sync/ociv2-sync/store/httpstore"
)

// What an earlier process has left in the cache is verified before it is served, once
// for any number of clients; what is damaged is fetched again.
func TestProxyDamagedCache(t *testing.T) {
	name, content := chunkFile([]byte("some chunk"))
	blob, good := blobFile("some blob"), blobFile("another blob")
	u := &upstream{files: map[string]string{name: content, blob: "some blob", good: "another blob"}}
	dir := t.TempDir()
	base := proxy(t, u, dir, chunkserver.ProxyOptions{})
	for path := range u.files {
		get(t, "GET", base+"/"+path)
	}
	for path, damaged := range map[string]string{name: content[:len(content)-1] + "x", blob: "some blub"} {
		if err := os.WriteFile(filepath.Join(dir, path), []byte(damaged), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var log bytes.Buffer
	base = proxy(t, u, dir, chunkserver.ProxyOptions{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	for path, want := range u.files {
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				if resp, body := get(t, "GET", base+"/"+path); resp.StatusCode != 200 || body != want {
					t.Errorf("%s: %s %q", path, resp.Status, body)
				}
			})
		}
		wg.Wait()
	}
	if a, b, c := u.count(name), u.count(blob), u.count(good); a != 2 || b != 2 || c != 1 {
		t.Errorf("fetched %d, %d and %d times", a, b, c)
	}
	if n := strings.Count(log.String(), "damaged"); n != 2 {
		t.Errorf("the log has %d damaged files:\n%s", n, log.String())
	}
}

// A disk that is full is a limit as any other: what was used least recently gives way,
// and what does not fit at all is served all the same.
func TestProxyFullDisk(t *testing.T) {
	testutil.NeedRoot(t)
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=256k"); err != nil {
		t.Skipf("tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	u := &upstream{files: map[string]string{}}
	var paths []string
	for i := range 10 {
		blob := strings.Repeat(string(rune('a'+i)), 50_000)
		paths = append(paths, blobFile(blob))
		u.files[paths[i]] = blob
	}
	huge := strings.Repeat("x", 300_000)
	u.files[blobFile(huge)] = huge
	streamed := strings.Repeat("y", 3<<20)
	u.files[blobFile(streamed)] = streamed
	t.Run("serve", func(t *testing.T) { // and close, before the disk goes
		base := proxy(t, quickly(u), dir, chunkserver.ProxyOptions{})
		for _, path := range append(paths, blobFile(huge), blobFile(streamed), paths[9]) {
			if resp, body := get(t, "GET", base+"/"+path); resp.StatusCode != 200 || body != u.files[path] {
				t.Errorf("%s: %s, %d bytes", path, resp.Status, len(body))
			}
		}
		resp, _ := get(t, "GET", base+"/"+paths[9])
		if n := u.count(paths[9]); n > 2 || resp.Header.Get("X-Cache") != "hit" {
			t.Errorf("fetched %d times, and then a %s", n, resp.Header.Get("X-Cache"))
		}
		if left, err := filepath.Glob(dir + "/app/blobs/sha256/.*"); err != nil || len(left) > 0 {
			t.Errorf("left: %v, %v", left, err)
		}
	})
}

// An upstream that stops in the middle, sends less or more than it says, or trickles, is
// asked again; when it does not get better, that is said, and nothing is kept.
func TestProxyUpstreamDies(t *testing.T) {
	name, content := chunkFile(bytes.Repeat([]byte("some chunk "), 1000))
	var ill atomic.Pointer[func(http.ResponseWriter)]
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if f := ill.Load(); f != nil {
			(*f)(w)
			return
		}
		_, _ = io.WriteString(w, content)
	}))
	defer up.Close()
	client := httpstore.NewClient(httpstore.Options{Retries: 1, RetryWait: time.Millisecond, StallTimeout: 100 * time.Millisecond})
	defer client.Close()
	source, err := client.Dir(up.URL)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	base := proxy(t, source, dir, chunkserver.ProxyOptions{MaxObject: 1 << 20})
	for what, f := range map[string]func(http.ResponseWriter){
		"dies at once":   func(http.ResponseWriter) { panic(http.ErrAbortHandler) },
		"is overloaded":  func(w http.ResponseWriter) { w.WriteHeader(http.StatusServiceUnavailable) },
		"forbids":        func(w http.ResponseWriter) { w.WriteHeader(http.StatusForbidden) },
		"sends HTML":     func(w http.ResponseWriter) { _, _ = io.WriteString(w, "<html>login</html>") },
		"sends nothing":  func(http.ResponseWriter) {},
		"sends too much": func(w http.ResponseWriter) { _, _ = io.WriteString(w, strings.Repeat(content, 10_000)) },
		"announces much": func(w http.ResponseWriter) { w.Header().Set("Content-Length", "100000000000") },
		"redirects to itself": func(w http.ResponseWriter) {
			w.Header().Set("Location", "/again")
			w.WriteHeader(http.StatusFound)
		},
		"stops in the middle": func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", "1000")
			_, _ = io.WriteString(w, content[:20])
			panic(http.ErrAbortHandler)
		},
	} {
		ill.Store(&f)
		if resp, body := get(t, "GET", base+"/"+name); resp.StatusCode != http.StatusBadGateway || len(body) > 100 {
			t.Errorf("upstream %s: %s %q", what, resp.Status, body)
		}
	}
	if files, err := filepath.Glob(dir + "/*/*/*"); err != nil || len(files) > 0 {
		t.Errorf("kept: %v, %v", files, err)
	}
	ill.Store(nil)
	if resp, body := get(t, "GET", base+"/"+name); resp.StatusCode != 200 || body != content {
		t.Errorf("upstream is well again: %s, %d bytes", resp.Status, len(body))
	}
}

// An object that gives way while it is read is read to its end.
func TestProxyEvictsWhileRead(t *testing.T) {
	big := strings.Repeat("0123456789abcdef", 1<<20) // more than is on its way in buffers
	other := strings.Repeat("x", 1<<20)
	u := &upstream{files: map[string]string{blobFile(big): big, blobFile(other): other}}
	dir := t.TempDir()
	base := proxy(t, u, dir, chunkserver.ProxyOptions{MaxBytes: int64(len(big))})
	get(t, "GET", base+"/"+blobFile(big))
	resp := open(t, "GET", base+"/"+blobFile(big))
	defer resp.Body.Close()
	if resp.Header.Get("X-Cache") != "hit" {
		t.Errorf("a %s", resp.Header.Get("X-Cache"))
	}
	get(t, "GET", base+"/"+blobFile(other))
	if _, err := os.Stat(filepath.Join(dir, blobFile(big))); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
	if b, err := io.ReadAll(resp.Body); err != nil || string(b) != big {
		t.Errorf("%d bytes, %v", len(b), err)
	}
}

// A copy has one entity tag, whether it was fetched for this request, came from the
// cache, or is stale: clients continue by it. So it is behind a second proxy.
func TestProxyTags(t *testing.T) {
	name, content := chunkFile([]byte("some chunk"))
	u := &upstream{files: map[string]string{name: content, "app/1.json": "{}"}}
	first := proxy(t, u, t.TempDir(), chunkserver.ProxyOptions{Fresh: time.Hour})
	client := httpstore.NewClient(httpstore.Options{Retries: -1})
	t.Cleanup(client.Close)
	dir, err := client.Dir(first)
	if err != nil {
		t.Fatal(err)
	}
	second := proxy(t, dir, t.TempDir(), chunkserver.ProxyOptions{Fresh: time.Nanosecond})
	for path := range u.files {
		tags := map[string]string{}
		for i, base := range []string{first, first, second, second} {
			if i == 3 {
				u.down.Store(true)
			}
			resp, body := get(t, "GET", base+"/"+path)
			if body != u.files[path] {
				t.Errorf("%s: %s %q", path, resp.Status, body)
			}
			tags[resp.Header.Get("ETag")] = path
			if resp, _ := get(t, "GET", base+"/"+path, "If-None-Match", resp.Header.Get("ETag")); resp.StatusCode != 304 {
				t.Errorf("%s again: %s", path, resp.Status)
			}
		}
		u.down.Store(false)
		if len(tags) != 1 {
			t.Errorf("%s has the tags %v", path, tags)
		}
		if n := u.count(path); n != 1 {
			t.Errorf("%s was fetched %d times", path, n)
		}
	}
}

// A server is ready while its directory is the one that its name leads to.
func TestReady(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "dir")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	s, err := chunkserver.New(dir, chunkserver.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	check := func(want bool, undo func() error) {
		t.Helper()
		if err := s.Ready(); (err == nil) != want {
			t.Errorf("ready: %v", err)
		}
		if err := undo(); err != nil {
			t.Fatal(err)
		}
	}
	check(true, func() error { return os.Rename(dir, dir+".old") })
	check(false, func() error { return os.Mkdir(dir, 0o755) })
	check(false, func() error { return errors.Join(os.Remove(dir), os.Rename(dir+".old", dir)) })
	check(true, func() error { return os.Remove(dir) })
	check(false, func() error { return nil })
}

// slowly is an upstream with one file, of which the second half comes when it is told to,
// and the end when it is told that.
type slowly struct {
	*upstream
	rest, end chan struct{}
}

func (u slowly) Copy(ctx context.Context, path string, w io.Writer, begin func(int64) error) error {
	b, err := u.ReadFile(ctx, path, math.MaxInt64)
	if err == nil {
		err = begin(int64(len(b)))
	}
	for _, c := range []struct {
		part []byte
		wait chan struct{}
	}{{b[:len(b)/2], u.rest}, {b[len(b)/2:], u.end}} {
		if err == nil {
			_, err = w.Write(c.part)
		}
		select {
		case <-c.wait:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return err
}

// quickly is an upstream that holds nothing back.
func quickly(u *upstream) slowly {
	now := make(chan struct{})
	close(now)
	return slowly{u, now, now}
}

// A large blob is in a file while it is fetched, not in memory, and a later process takes
// it up from there, if it is still what it was.
func TestProxyLarge(t *testing.T) {
	big := strings.Repeat("0123456789abcdef", 200_000)
	name := blobFile(big)
	u := quickly(&upstream{files: map[string]string{name: big}})
	dir := t.TempDir()
	small := chunkserver.ProxyOptions{MaxObject: 1000}
	for i, want := range []struct {
		cache   string
		fetches int
		before  func() error
	}{
		{"miss", 1, func() error { return nil }},
		{"hit", 1, func() error { return nil }},
		{"miss", 2, func() error { return os.WriteFile(filepath.Join(dir, name), []byte(big[1:]+"x"), 0o644) }},
	} {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			if err := want.before(); err != nil {
				t.Fatal(err)
			}
			base := proxy(t, u, dir, small)
			resp, body := get(t, "GET", base+"/"+name)
			if body != big || resp.Header.Get("X-Cache") != want.cache || u.count(name) != want.fetches {
				t.Errorf("%s, %d bytes, %s, %d fetches", resp.Status, len(body), resp.Header.Get("X-Cache"), u.count(name))
			}
			if left, err := filepath.Glob(dir + "/app/blobs/sha256/.*"); err != nil || len(left) > 0 {
				t.Errorf("left: %v, %v", left, err)
			}
		})
	}
	base := proxy(t, u, t.TempDir(), chunkserver.ProxyOptions{MaxObject: 1000, MaxBytes: 1 << 20})
	if resp, _ := get(t, "GET", base+"/"+name); resp.StatusCode != 502 {
		t.Errorf("larger than cache and memory: %s", resp.Status)
	}
}

// A large blob is passed on while it is fetched, to all who want it, but for its last
// byte, which waits until it is verified.
func TestProxyStreams(t *testing.T) {
	big := strings.Repeat("0123456789abcdef", 200_000)
	for _, lie := range []bool{false, true} {
		name := blobFile(big)
		if lie {
			name = blobFile("something else")
		}
		u := slowly{&upstream{files: map[string]string{name: big}}, make(chan struct{}), make(chan struct{})}
		dir := t.TempDir()
		base := proxy(t, u, dir, chunkserver.ProxyOptions{})
		resp := open(t, "GET", base+"/"+name)
		defer resp.Body.Close()
		const buffered = 8 << 10 // what the server may hold back
		got := make([]byte, len(big)/2-buffered)
		if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != big[:len(got)] || resp.ContentLength != int64(len(big)) {
			t.Errorf("the first half: %v", err)
		}
		if resp, body := get(t, "GET", base+"/"+name, "Range", "bytes=100-199"); resp.StatusCode != 206 || body != big[100:200] {
			t.Errorf("a range: %s %q", resp.Status, body)
		}
		if resp, _ := get(t, "HEAD", base+"/"+name); resp.StatusCode != 200 || resp.ContentLength != int64(len(big)) {
			t.Errorf("HEAD: %s", resp.Status)
		}
		close(u.rest)
		more := make([]byte, len(big)/2-buffered)
		if _, err := io.ReadFull(resp.Body, more); err != nil || string(more) != big[len(got):len(got)+len(more)] {
			t.Errorf("the second half: %v", err)
		}
		var wg sync.WaitGroup
		for range 5 {
			wg.Go(func() {
				resp, err := http.Get(base + "/" + name)
				if err != nil {
					t.Error(err)
					return
				}
				defer resp.Body.Close()
				if b, err := io.ReadAll(resp.Body); (err == nil && string(b) == big) == lie && resp.StatusCode == 200 || len(b) == len(big) && lie {
					t.Errorf("another one: %s, %d bytes, %v", resp.Status, len(b), err)
				}
			})
		}
		close(u.end)
		rest, err := io.ReadAll(resp.Body)
		if n := len(got) + len(more) + len(rest); (err == nil) == lie || (n == len(big)) == lie {
			t.Errorf("a lie: %v; %d of %d bytes, %v", lie, n, len(big), err)
		}
		wg.Wait()
		if n := u.count(name); n != 1 && !lie {
			t.Errorf("%d fetches", n)
		}
		if _, err := os.Stat(filepath.Join(dir, name)); (err == nil) == lie {
			t.Errorf("a lie: %v; kept: %v", lie, err)
		}
		http.DefaultClient.CloseIdleConnections()
	}
}
