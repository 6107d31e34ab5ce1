package httpstore

import (
	"bytes"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ociv2-sync/ociv2-sync/internal/flow"
)

// A limit holds for all requests of a client together.
func TestRateLimit(t *testing.T) {
	const size, limit = 64 << 10, 16 << 10
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter(limit)
		begin := time.Now()
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				body := io.NopCloser(bytes.NewReader(make([]byte, size/4)))
				n, err := io.Copy(io.Discard, &countingBody{ReadCloser: body, client: &Client{limiter: l, window: flow.New(1)}, ctx: t.Context()})
				if err != nil || n != size/4 {
					t.Errorf("read %d bytes, %v", n, err)
				}
			})
		}
		wg.Wait()
		// The burst comes at once, the rest at the rate; time is the bubble's.
		want := time.Duration(size-l.Burst()) * time.Second / limit
		if took := time.Since(begin); took < want-time.Second/10 || took > want+time.Second/10 {
			t.Errorf("%d bytes at %d a second took %v, want %v", size, limit, took, want)
		}
	})
}
