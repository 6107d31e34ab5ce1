package httpstore_test

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/ociv2-sync/ociv2-sync/store"
	"github.com/ociv2-sync/ociv2-sync/store/httpstore"
)

// breaking serves b by ranges and breaks off every answer after some bytes.
func breaking(b []byte, after int64, change bool) http.Handler {
	answers := 0
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answers++
		w.Header().Set("ETag", `"1"`)
		if change && answers > 1 {
			w.Header().Set("ETag", `"2"`)
		}
		http.ServeContent(&limited{w, after}, r, "", time.Time{}, bytes.NewReader(b))
	})
}

// limited breaks the connection off after some bytes of the body.
type limited struct {
	http.ResponseWriter
	left int64
}

func (l *limited) Write(p []byte) (int, error) {
	n := min(l.left, int64(len(p)))
	if _, err := l.ResponseWriter.Write(p[:n]); err != nil {
		return 0, err
	}
	if l.left -= n; l.left == 0 {
		l.ResponseWriter.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	return len(p), nil
}

// rangeless serves b as a whole, and breaks off the first answer.
func rangeless(b []byte) http.Handler {
	first := breaking(b, 300_000, false)
	answered := false
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !answered {
			answered = true
			first.ServeHTTP(w, r)
		}
		r.Header.Del("Range")
		breaking(b, 1<<40, false).ServeHTTP(w, r)
	})
}

func TestCopy(t *testing.T) {
	b := bytes.Repeat([]byte("0123456789"), 100_000)
	for _, tt := range []struct {
		name    string
		handler http.Handler
		retries int
		want    error
	}{
		{"whole", breaking(b, 1<<40, false), -1, nil},
		{"breaks, no retries", breaking(b, 300_000, false), -1, store.ErrNetwork},
		{"breaks, resumed", breaking(b, 300_000, false), 1, nil},
		{"breaks, no ranges", rangeless(b), 1, nil},
		{"breaks, changed", breaking(b, 300_000, true), 3, errors.New("any")},
		{"not there", http.NotFoundHandler(), -1, store.ErrNotFound},
	} {
		t.Run(tt.name, func(t *testing.T) {
			server := httptest.NewServer(tt.handler)
			defer server.Close()
			c := httpstore.NewClient(httpstore.Options{Retries: tt.retries, RetryWait: time.Millisecond})
			defer c.Close()
			var got bytes.Buffer
			err := c.Copy(t.Context(), server.URL+"/x.catar", &got)
			switch {
			case tt.want == nil:
				if err != nil || !bytes.Equal(got.Bytes(), b) {
					t.Errorf("%d bytes, %v", got.Len(), err)
				}
			case err == nil || tt.want.Error() != "any" && !errors.Is(err, tt.want):
				t.Errorf("%v, want %v", err, tt.want)
			}
		})
	}
	server := httptest.NewServer(breaking(b, 1<<40, false))
	defer server.Close()
	c := httpstore.NewClient(httpstore.Options{})
	defer c.Close()
	if err := c.Copy(t.Context(), server.URL, failing{}); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("a writer that fails: %v", err)
	}
	dir, err := c.Dir(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	length := int64(-1)
	if err := dir.Copy(t.Context(), "a file", &got, func(n int64) error { length = n; return nil }); err != nil || length != int64(len(b)) || got.Len() != len(b) {
		t.Errorf("%d bytes of %d, announced %d, %v", got.Len(), len(b), length, err)
	}
	if err := dir.Copy(t.Context(), "a file", &got, func(int64) error { return io.ErrShortBuffer }); !errors.Is(err, io.ErrShortBuffer) || got.Len() != len(b) {
		t.Errorf("too long: %v", err)
	}
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }
