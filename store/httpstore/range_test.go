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
		if _, err := d.OpenAt(t.Context(), path, 7, 5000); err == nil || errors.Is(err, store.ErrNetwork) || (path == "whole") != errors.Is(err, store.ErrNoParts) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if _, err := d.OpenAt(t.Context(), "none", 7, 5); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("no file: %v", err)
	}
	srv.CloseClientConnections()
}

// Of a server without ranges, whatever it says of that, all of a file can be had,
// and no part, and a cut costs what had arrived.
func TestOpenAtWithoutRanges(t *testing.T) {
	body := bytes.Repeat([]byte("0123456789"), 1000)
	for _, code := range []int{http.StatusOK, http.StatusRequestedRangeNotSatisfiable, http.StatusNotImplemented} {
		t.Run(http.StatusText(code), func(t *testing.T) {
			cut := 1 // responses to be cut after 100 bytes
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Range") != "" && code != http.StatusOK {
					w.WriteHeader(code)
					return
				}
				r.Header.Del("Range")
				if cut > 0 {
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
			r, err := d.OpenAt(t.Context(), "file", 0, int64(len(body)))
			if err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, body) || cut != 0 {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			if err := r.Close(); err != nil {
				t.Error(err)
			}
			if _, err := d.OpenAt(t.Context(), "file", 0, 100); !errors.Is(err, store.ErrNoParts) {
				t.Errorf("the beginning: %v", err)
			}
			_, err = d.OpenAt(t.Context(), "file", 100, 100)
			if unsatisfiable := code == http.StatusRequestedRangeNotSatisfiable; !errors.Is(err, store.ErrNoParts) && !(unsatisfiable && errors.Is(err, io.ErrUnexpectedEOF)) {
				t.Errorf("the middle: %v", err)
			}
			if _, err := d.OpenAt(t.Context(), "file", 0, int64(len(body))+1); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("more than there is: %v", err)
			}
			srv.CloseClientConnections()
		})
	}
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
