package httpstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/internal/testutil"
	"github.com/ociv2-sync/ociv2-sync/store"
	"github.com/ociv2-sync/ociv2-sync/store/httpstore"
	"github.com/ociv2-sync/ociv2-sync/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newClient returns a client that retries at once.
func newClient(t *testing.T, o httpstore.Options) *httpstore.Client {
	t.Helper()
	if o.RetryWait == 0 {
		o.RetryWait = time.Millisecond
	}
	c := httpstore.NewClient(o)
	t.Cleanup(c.Close)
	return c
}

// newServer serves f.
func newServer(t *testing.T, f http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(f)
	t.Cleanup(s.Close)
	return s
}

func TestStore(t *testing.T) {
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
		nginx := testutil.StartNginx(t, dir)
		s, err := httpstore.New(newClient(t, httpstore.Options{}), nginx.URL+"/")
		if err != nil {
			t.Fatal(err)
		}
		return s
	})
}

// The counters say what the server's log says, and connections are reused, also
// after a 404 and with as many requests at once as there are jobs.
func TestCounters(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f"), make([]byte, 300_000), 0o444); err != nil {
		t.Fatal(err)
	}
	nginx := testutil.StartNginx(t, dir)
	c := newClient(t, httpstore.Options{Jobs: 20})
	for range 3 {
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				name, want := "/f", error(nil)
				if i%4 == 0 {
					name, want = "/absent", store.ErrNotFound
				}
				if b, err := c.Get(t.Context(), nginx.URL+name, 300_000); !errors.Is(err, want) || err == nil && len(b) != 300_000 {
					t.Errorf("Get %s: %d bytes, %v", name, len(b), err)
				}
			})
		}
		wg.Wait()
	}
	requests, bodyBytes := nginx.Count()
	if got := c.Stats(); got.Requests != int64(requests) || got.BodyBytes != bodyBytes || requests != 60 {
		t.Errorf("counted %+v; the server counted %d requests, %d bytes", got, requests, bodyBytes)
	}
	connections := make(map[int64]bool)
	for _, r := range nginx.Requests() {
		connections[r.Connection] = true
	}
	if len(connections) > 20 {
		t.Errorf("%d connections for 20 jobs", len(connections))
	}
}

// Faults that pass: the object arrives in the end.
func TestRetries(t *testing.T) {
	content := bytes.Repeat([]byte("object "), 10_000)
	hang := make(chan struct{})
	t.Cleanup(func() { close(hang) })
	for name, fault := range map[string]http.HandlerFunc{
		"503": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) },
		"429 with Retry-After": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "0")
			w.WriteHeader(429)
		},
		"closed before the header": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"closed in the body": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(len(content)))
			_, _ = w.Write(content[:5000])
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		},
		"stalled in the body": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(len(content)))
			_, _ = w.Write(content[:5000])
			_ = http.NewResponseController(w).Flush()
			select {
			case <-hang:
			case <-r.Context().Done():
			}
		},
		"stalled before the header": func(_ http.ResponseWriter, r *http.Request) {
			select {
			case <-hang:
			case <-r.Context().Done():
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			var n atomic.Int64
			server := newServer(t, func(w http.ResponseWriter, r *http.Request) {
				if n.Add(1) <= 2 {
					fault(w, r)
				}
				_, _ = w.Write(content)
			})
			c := newClient(t, httpstore.Options{StallTimeout: 100 * time.Millisecond})
			got, err := c.Get(t.Context(), server.URL, 1<<20)
			if err != nil || !bytes.Equal(got, content) || n.Load() != 3 {
				t.Errorf("%d bytes after %d requests, %v", len(got), n.Load(), err)
			}
			if s := c.Stats(); s.Requests != 3 {
				t.Errorf("counted %d requests", s.Requests)
			}
		})
	}
}

// Faults that stay: one error of the right kind, after as many requests as make
// sense, without the URL's secrets.
func TestFailures(t *testing.T) {
	endless := func(w http.ResponseWriter, _ *http.Request) {
		for {
			if _, err := w.Write(make([]byte, 1<<10)); err != nil {
				return
			}
		}
	}
	for name, tt := range map[string]struct {
		handler  http.HandlerFunc
		want     error
		requests int64
	}{
		"404": {http.NotFound, store.ErrNotFound, 1},
		"410": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(410) }, store.ErrNotFound, 1},
		"500": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }, store.ErrNetwork, 3},
		"cut": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, store.ErrNetwork, 3},
		"too long": {func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write(make([]byte, 101))
		}, store.ErrTooLarge, 1},
		"endless": {endless, store.ErrTooLarge, 1},
		"huge length": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100000000000")
		}, store.ErrTooLarge, 1},
		"403": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(403) }, nil, 1},
		"206": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(206) }, nil, 1},
		"encoded": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = w.Write([]byte("x"))
		}, nil, 1},
		"garbage": {func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err == nil {
				_, _ = conn.Write(append(bytes.Repeat([]byte{0xff}, 4000), '\n'))
				_ = conn.Close()
			}
		}, store.ErrNetwork, 3},
		"much header": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Much", strings.Repeat("x", 1<<20))
		}, store.ErrNetwork, 3},
		"redirect loop": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/again?sig=secret", http.StatusFound)
		}, nil, 11},
		"redirect to a file": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "file:///etc/passwd", http.StatusFound)
		}, nil, 1},
	} {
		t.Run(name, func(t *testing.T) {
			server := newServer(t, tt.handler)
			c := newClient(t, httpstore.Options{Retries: 2})
			url := strings.Replace(server.URL, "//", "//user:secret@", 1) + "/object?sig=secret"
			_, err := c.Get(t.Context(), url, 100)
			if err == nil || tt.want != nil && !errors.Is(err, tt.want) {
				t.Fatalf("error %v, want %v", err, tt.want)
			}
			if tt.want == nil && (errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrNetwork)) {
				t.Errorf("error %v is of a wrong kind", err)
			}
			if strings.Contains(err.Error(), "secret") || !strings.Contains(err.Error(), server.URL) {
				t.Errorf("error %q: want the URL without secrets", err)
			}
			if len(err.Error()) > 400 {
				t.Errorf("error of %d bytes: %.500v", len(err.Error()), err)
			}
			if got := c.Stats().Requests; got != tt.requests {
				t.Errorf("%d requests, want %d", got, tt.requests)
			}
		})
	}
}

func TestUnreachable(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	server.Close()
	_, err := newClient(t, httpstore.Options{Retries: -1}).Get(t.Context(), server.URL, 100)
	if !errors.Is(err, store.ErrNetwork) {
		t.Errorf("error %v, want ErrNetwork", err)
	}
}

// A server that trickles for ever is given up in the end.
func TestTrickle(t *testing.T) {
	server := newServer(t, func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			_, _ = io.WriteString(w, "x")
			_ = http.NewResponseController(w).Flush()
			time.Sleep(5 * time.Millisecond)
		}
	})
	c := newClient(t, httpstore.Options{Retries: 1, AttemptTimeout: 100 * time.Millisecond})
	_, err := c.Get(t.Context(), server.URL, 1<<20)
	if !errors.Is(err, store.ErrNetwork) || c.Stats().Requests != 2 {
		t.Errorf("%v after %d requests", err, c.Stats().Requests)
	}
}

// An unknown certificate authority is refused at once.
func TestUnknownAuthority(t *testing.T) {
	server := httptest.NewUnstartedServer(http.NotFoundHandler())
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(server.Close)
	c := newClient(t, httpstore.Options{})
	_, err := c.Get(t.Context(), server.URL, 100)
	if err == nil || errors.Is(err, store.ErrNetwork) || c.Stats().Requests != 1 {
		t.Errorf("%v after %d requests", err, c.Stats().Requests)
	}
}

func TestCancel(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	server := newServer(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "begin")
		_ = http.NewResponseController(w).Flush()
		cancel()
		<-r.Context().Done()
	})
	c := newClient(t, httpstore.Options{})
	if _, err := c.Get(ctx, server.URL, 100); !errors.Is(err, context.Canceled) || errors.Is(err, store.ErrNetwork) {
		t.Errorf("error %v, want context.Canceled alone", err)
	}
	if n := c.Stats().Requests; n != 1 {
		t.Errorf("%d requests after a cancel", n)
	}
}

// The query of the base goes with every object; names are escaped, the base
// stays as it was written.
func TestDirURLs(t *testing.T) {
	var got atomic.Value
	server := newServer(t, func(_ http.ResponseWriter, r *http.Request) { got.Store(r.RequestURI) })
	c := newClient(t, httpstore.Options{})
	for _, tt := range []struct{ base, path, want string }{
		{"", "TAG.json", "/TAG.json"},
		{"/", "a/b", "/a/b"},
		{"/p/?sig=a%2Fb&x", "a/b", "/p/a/b?sig=a%2Fb&x"},
		{"/p%2Fq#frag", "50% ?#", "/p%2Fq/50%25%20%3F%23"},
	} {
		d, err := c.Dir(server.URL + tt.base)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.ReadFile(t.Context(), tt.path, 10); err != nil || got.Load() != tt.want {
			t.Errorf("%q + %q: requested %v, %v; want %s", tt.base, tt.path, got.Load(), err, tt.want)
		}
	}
	for _, bad := range []string{"", "file:///x", "/x", "http://", "https:opaque", "ftp://h/", "http://u:secret@h:port/"} {
		if _, err := c.Dir(bad); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("Dir(%q): %v", bad, err)
		}
	}
}
