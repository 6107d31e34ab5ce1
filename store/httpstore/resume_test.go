package httpstore_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ociv2-sync/ociv2-sync/store"
	"github.com/ociv2-sync/ociv2-sync/store/httpstore"
)

// cutWriter ends the connection after so many bytes of body.
type cutWriter struct {
	http.ResponseWriter
	left int
}

func (w *cutWriter) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p[:min(len(p), w.left)])
	if w.left -= n; w.left == 0 {
		_ = http.NewResponseController(w.ResponseWriter).Flush()
		panic(http.ErrAbortHandler)
	}
	return n, err
}

// An object that is cut more often than there are retries arrives all the same,
// no byte of it twice.
func TestResume(t *testing.T) {
	content := make([]byte, 1_000_000)
	if _, err := rand.NewChaCha8([32]byte{}).Read(content); err != nil {
		t.Fatal(err)
	}
	for name, validate := range map[string]func(http.Header){
		"ETag":          func(h http.Header) { h.Set("ETag", `"version"`) },
		"Last-Modified": func(http.Header) {},
	} {
		server := newServer(t, func(w http.ResponseWriter, r *http.Request) {
			validate(w.Header())
			http.ServeContent(&cutWriter{w, 90_000}, r, "", time.Unix(1e9, 0), bytes.NewReader(content))
		})
		// Where each attempt brings something there is nothing to wait for.
		c := newClient(t, httpstore.Options{Retries: 2, RetryWait: time.Minute})
		got, err := c.Get(t.Context(), server.URL, 1<<20)
		if err != nil || !bytes.Equal(got, content) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
		if s := c.Stats(); s.BodyBytes != 1_000_000 || s.Requests != 12 {
			t.Errorf("%s: %+v", name, s)
		}
	}
}

// A server that stops in the middle is asked for the rest of the same version, and that
// is what it sends.
func TestResumeStalled(t *testing.T) {
	content := make([]byte, 200_000)
	if _, err := rand.NewChaCha8([32]byte{}).Read(content); err != nil {
		t.Fatal(err)
	}
	var stalls atomic.Int64
	var asked atomic.Value
	server := newServer(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"version"`)
		if stalls.Add(1) > 1 {
			asked.Store(r.Header.Get("Range") + " " + r.Header.Get("If-Range"))
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
			return
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(content)))
		_, _ = w.Write(content[:50_000])
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	c := newClient(t, httpstore.Options{StallTimeout: time.Second, Retries: 3})
	got, err := c.Get(t.Context(), server.URL, 1<<20)
	if err != nil || !bytes.Equal(got, content) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if s := c.Stats(); s.BodyBytes != 200_000 || asked.Load() != `bytes=50000- "version"` {
		t.Errorf("%+v, asked for %v", s, asked.Load())
	}
}

// What is another version, or cannot be told from one, is not continued; nor is a
// server believed that sends another range.
func TestResumeRefused(t *testing.T) {
	versions := []string{string(bytes.Repeat([]byte("old "), 10_000)), string(bytes.Repeat([]byte("new "), 9_000))}
	for name, serve := range map[string]func(w http.ResponseWriter, r *http.Request, n int64){
		"replaced": func(w http.ResponseWriter, r *http.Request, n int64) {
			w.Header().Set("ETag", strconv.Quote(strconv.Itoa(int(min(n, 2)))))
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader([]byte(versions[min(n, 2)-1])))
		},
		"weak tag": func(w http.ResponseWriter, r *http.Request, n int64) {
			w.Header().Set("ETag", `W/"x"`)
			if r.Header.Get("Range") != "" {
				t.Error("a range of it is asked for")
			}
			_, _ = io.WriteString(w, versions[min(n, 2)-1])
		},
		"another range": func(w http.ResponseWriter, r *http.Request, n int64) {
			w.Header().Set("ETag", `"x"`)
			if r.Header.Get("Range") != "" {
				w.Header().Set("Content-Range", "bytes 0-35999/36000")
				w.WriteHeader(http.StatusPartialContent)
			}
			_, _ = io.WriteString(w, versions[min(n, 2)-1])
		},
		"range refused": func(w http.ResponseWriter, r *http.Request, n int64) {
			w.Header().Set("ETag", `"x"`)
			if r.Header.Get("Range") != "" {
				w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
				return
			}
			_, _ = io.WriteString(w, versions[min(n, 2)-1])
		},
	} {
		var n atomic.Int64
		server := newServer(t, func(w http.ResponseWriter, r *http.Request) {
			if n.Add(1) == 1 {
				w = &cutWriter{w, 20_000}
			}
			serve(w, r, n.Load())
		})
		got, err := newClient(t, httpstore.Options{}).Get(t.Context(), server.URL, 1<<20)
		if err != nil || string(got) != versions[1] {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
}

// The rest of an object is not more than the limit lets come.
func TestResumeLimit(t *testing.T) {
	var n atomic.Int64
	server := newServer(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"x"`)
		if n.Add(1) == 1 {
			w = &cutWriter{w, 50}
			_, _ = w.Write(make([]byte, 60))
		}
		w.Header().Set("Content-Range", "bytes 50-999/1000")
		w.WriteHeader(http.StatusPartialContent)
		_, _ = w.Write(make([]byte, 950))
	})
	_, err := newClient(t, httpstore.Options{}).Get(t.Context(), server.URL, 100)
	if !errors.Is(err, store.ErrTooLarge) || n.Load() != 2 {
		t.Errorf("%v after %d requests", err, n.Load())
	}
}

// Credentials are sent to the host they are for, and do not follow a redirect.
func TestCredentials(t *testing.T) {
	var seen atomic.Value
	other := newServer(t, func(_ http.ResponseWriter, r *http.Request) { seen.Store(r.Header.Clone()) })
	own := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer secret" || r.Header.Get("X-Key") != "secret" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		http.Redirect(w, r, other.URL, http.StatusFound)
	}))
	t.Cleanup(own.Close)
	c := newClient(t, httpstore.Options{Credentials: func(u *url.URL) http.Header {
		if u.Scheme+"://"+u.Host != own.URL {
			return nil
		}
		return http.Header{"Authorization": {"Bearer secret"}, "X-Key": {"secret"}}
	}})
	if _, err := c.Get(t.Context(), own.URL, 10); err != nil {
		t.Fatal(err)
	}
	if h := seen.Load().(http.Header); h.Get("Authorization") != "" || h.Get("X-Key") != "" {
		t.Errorf("the other host is told %v", h)
	}
}

func TestParseNetrc(t *testing.T) {
	got, err := httpstore.ParseNetrc(`# comment
machine a.example login me password one
machine B.example
	login you
	password two account x
machine a.example login late password three
macdef init
machine c.example login no password no

default login anybody password four
machine d.example password five
`)
	want := map[string]httpstore.Login{"a.example": {User: "me", Password: "one"}, "b.example": {User: "you", Password: "two"}, "d.example": {Password: "five"}}
	if err != nil || len(got) != len(want) {
		t.Errorf("%v, %v", got, err)
	}
	for host, login := range want {
		if got[host] != login {
			t.Errorf("%s: %v", host, got[host])
		}
	}
	for _, bad := range []string{"machine", "login x", "machine a login", "machine a secret x"} {
		if _, err := httpstore.ParseNetrc(bad); err == nil {
			t.Errorf("%q is read", bad)
		}
	}
}

func FuzzParseNetrc(f *testing.F) {
	f.Add("machine a login b password c\ndefault login x\nmacdef y\nz\n\n")
	f.Fuzz(func(t *testing.T, s string) {
		logins, err := httpstore.ParseNetrc(s)
		if err != nil && logins != nil {
			t.Error("both")
		}
		if _, ok := logins[""]; ok {
			t.Error("a login for no host")
		}
	})
}
