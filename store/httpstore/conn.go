package httpstore

import (
	"context"
	"io"
	"math"
	"net/http"
	"net/url"
	"time"

	"golang.org/x/time/rate"
)

// countingTransport counts every request and every body byte for the client, and
// adds the credentials for its host to each request: here, so that they do not
// follow a redirect.
type countingTransport struct {
	client      *Client
	next        *http.Transport
	credentials func(*url.URL) http.Header
}

func (t *countingTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	t.client.requests.Add(1)
	if t.credentials != nil {
		with := r.Clone(r.Context())
		for name, values := range t.credentials(r.URL) {
			if _, set := with.Header[name]; !set {
				with.Header[name] = values
			}
		}
		r = with
	}
	sent := time.Now()
	resp, err := t.next.RoundTrip(r)
	if err == nil {
		t.client.window.Answered(time.Since(sent))
		resp.Body = &countingBody{ReadCloser: resp.Body, client: t.client, ctx: r.Context()}
	}
	return resp, err
}

// CloseIdleConnections lets [http.Client.CloseIdleConnections] through.
func (t *countingTransport) CloseIdleConnections() { t.next.CloseIdleConnections() }

// countingBody is a response body that is counted and, where the client has a
// limit, read no faster than that.
type countingBody struct {
	io.ReadCloser
	client *Client
	ctx    context.Context //nolint:containedctx // that of the request, for whose body this stands
}

func (b *countingBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p[:min(len(p), b.client.limiter.Burst())])
	b.client.bodyBytes.Add(int64(n))
	b.client.window.Arrived(n)
	if werr := b.client.limiter.WaitN(b.ctx, n); err == nil {
		err = werr
	}
	return n, err
}

// newLimiter returns the limiter of bytes per second that all bodies share. Its
// burst is what may be read at once: an eighth of a second's worth, within
// bounds that keep reads both smooth and few.
func newLimiter(perSecond int64) *rate.Limiter {
	if perSecond <= 0 {
		return rate.NewLimiter(rate.Inf, math.MaxInt)
	}
	return rate.NewLimiter(rate.Limit(perSecond), int(min(max(perSecond/8, 1<<10), 256<<10)))
}
