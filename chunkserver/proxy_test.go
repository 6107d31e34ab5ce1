package chunkserver_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/chunkserver"
	"github.com/ociv2-sync/ociv2-sync/store"
	"github.com/ociv2-sync/ociv2-sync/store/httpstore"
	"github.com/ociv2-sync/ociv2-sync/store/storetest"
)

// upstream is a repository in memory that counts what is read, and fails when it
// is told to.
type upstream struct {
	mu    sync.Mutex
	files map[string]string
	reads map[string]int
	down  atomic.Bool
	hold  chan struct{} // if set, reads wait for it
}

func (u *upstream) ReadFile(ctx context.Context, path string, limit int64) ([]byte, error) {
	if u.hold != nil {
		select {
		case <-u.hold:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.reads == nil {
		u.reads = make(map[string]int)
	}
	u.reads[path]++
	b, ok := u.files[path]
	switch {
	case u.down.Load():
		return nil, fmt.Errorf("down: %w", store.ErrNetwork)
	case !ok:
		return nil, store.ErrNotFound
	case int64(len(b)) > limit:
		return nil, store.ErrTooLarge
	}
	return []byte(b), nil
}

func (u *upstream) count(path string) int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.reads[path]
}

func (u *upstream) set(path, content string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.files[path] = content
}

// chunkFile returns the path and the content of a chunk's file.
func chunkFile(b []byte) (path, content string) {
	id := chunk.SHA512_256.Sum(b).String()
	return "default.castr/" + id[:4] + "/" + id + ".cacnk", string(store.NewPacker(0, 1<<16).Pack(nil, b).Data)
}

func blobFile(content string) string {
	sum := sha256.Sum256([]byte(content))
	return "app/blobs/sha256/" + hex.EncodeToString(sum[:])
}

func proxy(t *testing.T, u chunkserver.Upstream, dir string, o chunkserver.ProxyOptions) string {
	t.Helper()
	p, err := chunkserver.NewProxy(u, dir, o)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(p)
	t.Cleanup(func() {
		server.Close()
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return server.URL
}

// A hundred clients that ask at once cost one fetch of each object, and those who
// come later none.
func TestProxyOnce(t *testing.T) {
	name, content := chunkFile([]byte("some chunk"))
	blob := blobFile("some blob")
	u := &upstream{files: map[string]string{name: content, blob: "some blob", "app/1.json": "{}"}, hold: make(chan struct{})}
	dir := t.TempDir()
	base := proxy(t, u, dir, chunkserver.ProxyOptions{Fresh: time.Hour})
	var wg sync.WaitGroup
	for path, want := range u.files {
		for range 100 {
			wg.Go(func() {
				resp, body := get(t, "GET", base+"/"+path)
				if resp.StatusCode != 200 || body != want || resp.ContentLength != int64(len(want)) || resp.Header.Get("ETag") == "" {
					t.Errorf("%s: %s %q", path, resp.Status, body)
				}
			})
		}
	}
	time.Sleep(50 * time.Millisecond)
	close(u.hold)
	wg.Wait()
	for path, want := range map[string]string{name: content, blob: "some blob", "app/1.json": "{}"} {
		if n := u.count(path); n != 1 {
			t.Errorf("%s was fetched %d times", path, n)
		}
		resp, body := get(t, "GET", base+"/"+path, "Range", "bytes=1-1")
		if resp.StatusCode != 206 || body != want[1:2] || resp.Header.Get("X-Cache") != "hit" {
			t.Errorf("%s, Range: %s %q %v", path, resp.Status, body, resp.Header)
		}
		if resp, _ := get(t, "HEAD", base+"/"+path); resp.ContentLength != int64(len(want)) {
			t.Errorf("HEAD %s: %d bytes", path, resp.ContentLength)
		}
	}
	// Another proxy goes on with the cache, but asks for what may have changed.
	other := proxy(t, u, dir, chunkserver.ProxyOptions{Fresh: time.Hour})
	for _, path := range []string{name, blob, "app/1.json"} {
		get(t, "GET", other+"/"+path)
	}
	if a, b, c := u.count(name), u.count(blob), u.count("app/1.json"); a != 1 || b != 1 || c != 2 {
		t.Errorf("fetched %d, %d and %d times", a, b, c)
	}
}

// What changes is asked for; when nobody answers there is the copy, and it says so.
func TestProxyStale(t *testing.T) {
	name, content := chunkFile([]byte("some chunk"))
	u := &upstream{files: map[string]string{name: content, "app/1.json": `"one"`}}
	base := proxy(t, u, t.TempDir(), chunkserver.ProxyOptions{Fresh: time.Nanosecond})
	check := func(path, want, cache, warning string) {
		t.Helper()
		resp, body := get(t, "GET", base+"/"+path)
		if body != want || resp.Header.Get("X-Cache") != cache || resp.Header.Get("Warning") != warning {
			t.Errorf("%s: %s %q, %v", path, resp.Status, body, resp.Header)
		}
	}
	check("app/1.json", `"one"`, "miss", "")
	u.set("app/1.json", `"two"`)
	check("app/1.json", `"two"`, "miss", "")
	check(name, content, "miss", "")
	u.down.Store(true)
	check("app/1.json", `"two"`, "stale", `110 - "Response is Stale"`)
	check(name, content, "hit", "")
	u.down.Store(false)
	u.set("app/1.json", "<html>Pay for this network</html>")
	check("app/1.json", `"two"`, "stale", `110 - "Response is Stale"`)
	u.down.Store(true)
	if resp, _ := get(t, "GET", base+"/app/2.json"); resp.StatusCode != 502 {
		t.Errorf("what was never there: %s", resp.Status)
	}
	u.down.Store(false)
	u.mu.Lock()
	delete(u.files, "app/1.json")
	u.mu.Unlock()
	for range 2 {
		if resp, _ := get(t, "GET", base+"/app/1.json"); resp.StatusCode != 404 {
			t.Errorf("what is there no more: %s", resp.Status)
		}
		u.down.Store(false)
	}
}

// What upstream lies about is neither served nor kept.
func TestProxyVerifies(t *testing.T) {
	name, _ := chunkFile([]byte("some chunk"))
	_, other := chunkFile([]byte("another chunk"))
	blob := blobFile("some blob")
	xz := "default.castr/0123/" + hex64 + ".cacnk"
	u := &upstream{files: map[string]string{name: other, blob: "<html>", "big.json": "123456", xz: "\xfd7zXZ\x00 no more of it", "x.caidx": "<html>", "x.caibx": "", "x.catar": "<html>", "x.json": "<html>"}}
	dir := t.TempDir()
	base := proxy(t, u, dir, chunkserver.ProxyOptions{MaxObject: 100})
	for _, path := range []string{name, blob, xz, "x.caidx", "x.caibx", "x.catar", "x.json"} {
		if resp, _ := get(t, "GET", base+"/"+path); resp.StatusCode != 502 {
			t.Errorf("%s: %s", path, resp.Status)
		}
	}
	u.set("big.json", string(make([]byte, 101)))
	if resp, _ := get(t, "GET", base+"/big.json"); resp.StatusCode != 502 {
		t.Errorf("too large: %s", resp.Status)
	}
	for _, path := range []string{"../x.json", "x", "app/.git/x.json"} {
		if resp, _ := get(t, "GET", base+"/"+path); resp.StatusCode != 404 {
			t.Errorf("%s: %s", path, resp.Status)
		}
	}
	if resp, _ := get(t, "PUT", base+"/"+name); resp.StatusCode != 405 {
		t.Errorf("PUT: %s", resp.Status)
	}
	files, err := filepath.Glob(dir + "/*/*/*")
	if err != nil || len(files) > 0 {
		t.Errorf("kept: %v, %v", files, err)
	}
}

// The cache does not grow beyond its limit, and drops what was used least
// recently.
func TestProxyEvicts(t *testing.T) {
	u := &upstream{files: map[string]string{}}
	for _, n := range []string{"a", "b", "c"} {
		u.files[n+".json"] = `"` + strings.Repeat("x", 98) + `"`
	}
	dir := t.TempDir()
	base := proxy(t, u, dir, chunkserver.ProxyOptions{MaxBytes: 250, Fresh: time.Hour})
	for _, n := range []string{"a", "b", "a", "c", "a", "b"} {
		get(t, "GET", base+"/"+n+".json")
	}
	if a, b, c := u.count("a.json"), u.count("b.json"), u.count("c.json"); a != 1 || b != 2 || c != 1 {
		t.Errorf("fetched %d, %d, %d times", a, b, c)
	}
	if _, err := os.Stat(dir + "/c.json"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("c is still there: %v", err)
	}
}

// A directory of something else is not taken for a cache: a repository, say, of
// which files would be deleted.
func TestProxyNotACache(t *testing.T) {
	dir := repository(t)
	if _, err := chunkserver.NewProxy(&upstream{}, dir, chunkserver.ProxyOptions{MaxBytes: 1}); err == nil {
		t.Error("a repository is a cache")
	}
	if _, err := os.Stat(dir + "/catalog.json"); err != nil {
		t.Error(err)
	}
	made := filepath.Join(t.TempDir(), "made")
	proxy(t, &upstream{}, made, chunkserver.ProxyOptions{})
	if _, err := os.Stat(made); err != nil {
		t.Error(err)
	}
}

// Our own client finds a whole store behind a proxy of our own server.
func TestProxyStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T, chunks map[chunk.ID]store.Packed) store.Store {
		dir := t.TempDir()
		for id, p := range chunks {
			name := filepath.Join(dir, id.String()[:4], id.String())
			if p.Form == store.Compressed {
				name += ".cacnk"
			}
			if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, p.Data, 0o444)); err != nil {
				t.Fatal(err)
			}
		}
		c, upstream := httpstore.NewClient(httpstore.Options{}), httpstore.NewClient(httpstore.Options{})
		t.Cleanup(c.Close)
		t.Cleanup(upstream.Close)
		up, err := upstream.Dir(serve(t, dir))
		if err != nil {
			t.Fatal(err)
		}
		s, err := httpstore.New(c, proxy(t, up, t.TempDir(), chunkserver.ProxyOptions{}))
		if err != nil {
			t.Fatal(err)
		}
		return s
	})
}
