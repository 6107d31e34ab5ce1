package httpstore

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/ociv2-sync/ociv2-sync/store"
)

func TestOpenAt(t *testing.T) {
	body := bytes.Repeat([]byte("0123456789"), 1000)
	cut := 0 // responses to be cut after 100 bytes
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, "/whole"):
			r.Header.Del("Range")
		case strings.HasSuffix(r.URL.Path, "/other"):
			r.Header.Set("Range", "bytes=0-4")
		case strings.HasSuffix(r.URL.Path, "/none"):
			http.NotFound(w, r)
			return
		case cut > 0:
			cut--
			w = &cutWriter{w, 100}
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(body))
	}))
	defer srv.Close()
	c := NewClient(Options{Retries: 2, RetryWait: time.Millisecond})
	defer c.Close()
	d, err := c.Dir(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	for _, cuts := range []int{0, 2, 7} { // more than the retries, but each got on
		cut = cuts
		r, err := d.OpenAt(t.Context(), "file", 7, 5000)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		if err != nil || !bytes.Equal(got, body[7:5007]) {
			t.Errorf("%d cuts: %d bytes, %v", cuts, len(got), err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
	for _, path := range []string{"whole", "other"} {
		if _, err := d.OpenAt(t.Context(), path, 7, 5000); err == nil || errors.Is(err, store.ErrNetwork) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if _, err := d.OpenAt(t.Context(), "none", 7, 5); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("no file: %v", err)
	}
	srv.CloseClientConnections()
}

// cutWriter breaks the connection after some bytes.
type cutWriter struct {
	http.ResponseWriter
	left int
}

func (w *cutWriter) Write(b []byte) (int, error) {
	if len(b) < w.left {
		w.left -= len(b)
		return w.ResponseWriter.Write(b)
	}
	_, _ = w.ResponseWriter.Write(b[:w.left])
	_ = http.NewResponseController(w.ResponseWriter).Flush()
	panic(http.ErrAbortHandler)
}
