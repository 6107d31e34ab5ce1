package httpstore_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ociv2-sync/ociv2-sync/store"
	"github.com/ociv2-sync/ociv2-sync/store/httpstore"
)

// A server that offers HTTP/2 gets all requests on one connection; one that does not,
// HTTP/1.1.
func TestHTTP2(t *testing.T) {
	for _, offered := range []bool{true, false} {
		var connections, two atomic.Int64
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.ProtoMajor == 2 {
				two.Add(1)
			}
			time.Sleep(5 * time.Millisecond)
			_, _ = w.Write(bytes.Repeat([]byte(r.URL.Path), 1000))
		}))
		server.EnableHTTP2 = offered
		server.StartTLS()
		defer server.Close()
		pool := x509.NewCertPool()
		pool.AddCert(server.Certificate())
		client := httpstore.NewClient(httpstore.Options{Jobs: 32, TLS: &tls.Config{
			RootCAs: pool,
			VerifyConnection: func(tls.ConnectionState) error {
				connections.Add(1)
				return nil
			},
		}})
		defer client.Close()
		const objects = 100
		var wg sync.WaitGroup
		for i := range objects {
			wg.Go(func() {
				b, err := client.Get(t.Context(), fmt.Sprintf("%s/%d", server.URL, i), 1<<20)
				if err != nil || len(b) != 1000*len(fmt.Sprintf("/%d", i)) {
					t.Errorf("%d bytes, %v", len(b), err)
				}
			})
		}
		wg.Wait()
		if offered && (two.Load() != objects || connections.Load() > 4) || !offered && two.Load() != 0 {
			t.Errorf("offered %v: %d requests over HTTP/2, %d connections", offered, two.Load(), connections.Load())
		}
	}
}

// A server that trickles for ever is given up when the total time is over.
func TestTotalTimeout(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			_, _ = w.Write([]byte("x"))
			_ = http.NewResponseController(w).Flush()
			time.Sleep(10 * time.Millisecond)
		}
	}))
	defer server.Close()
	client := httpstore.NewClient(httpstore.Options{TotalTimeout: 200 * time.Millisecond})
	defer client.Close()
	begin := time.Now()
	if _, err := client.Get(t.Context(), server.URL, 1<<20); !errors.Is(err, store.ErrNetwork) || time.Since(begin) > 10*time.Second {
		t.Errorf("after %v: %v", time.Since(begin), err)
	}
}
