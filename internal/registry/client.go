package registry

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/retry"
)

// client returns what sends requests to these places, with the credentials that they
// ask for.
func (o *Options) client(at []endpoint) (*auth.Client, error) {
	credential, err := o.credential(at)
	if err != nil {
		return nil, err
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = &tls.Config{}
	if o.TLS != nil {
		transport.TLSClientConfig = o.TLS.Clone()
	}
	base := &hosts{
		base: transport, certDirs: o.CertDirs, insecure: map[string]bool{}, own: map[string]*http.Transport{}, clear: map[string]bool{},
	}
	for _, e := range at {
		if e.insecure {
			base.insecure[e.Host()] = true
		}
	}
	var limited http.RoundTripper = base
	if o.Traffic != nil {
		limited = counted{base, o.Traffic}
	}
	if o.RateLimit > 0 {
		limited = throttled{limited, rate.NewLimiter(rate.Limit(o.RateLimit), int(min(max(o.RateLimit/8, 1<<10), 256<<10)))}
	}
	retrying := retry.NewTransport(limited)
	retrying.Policy = func() retry.Policy {
		p := *retry.DefaultPolicy.(*retry.GenericPolicy)
		p.MaxRetry = o.Retries
		return &p
	}
	c := &auth.Client{Client: &http.Client{Transport: failing{retrying, base}}, Cache: auth.NewCache()}
	c.SetUserAgent("ociv2-sync")
	c.Credential = credential
	return c, nil
}

// errNoRealm says that a registry does not say where its tokens are to be had. A realm
// that is there, and is no URL to ask, the client library refuses itself.
var errNoRealm = errors.New("the registry asks for a token, but its WWW-Authenticate header has no realm that says where to get one; whoever runs it has to mend that")

// failing words the failures of the network in the terms of this package.
type failing struct {
	*retry.Transport
	base *hosts
}

func (f failing) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme == "" { // of no other request than the one for a token
		return nil, errNoRealm
	}
	resp, err := f.Transport.RoundTrip(r)
	if err != nil && r.Context().Err() == nil {
		err = fmt.Errorf("%w: %w", ErrNetwork, err)
	}
	return resp, err
}

func (f failing) CloseIdleConnections() { f.base.CloseIdleConnections() }

// throttled bounds the rate at which bodies come and go, all together.
type throttled struct {
	http.RoundTripper
	limiter *rate.Limiter
}

func (t throttled) RoundTrip(r *http.Request) (*http.Response, error) {
	slow := func(b io.ReadCloser) io.ReadCloser {
		return slowReader{b, func(n int) error { return t.limiter.WaitN(r.Context(), n) }, t.limiter.Burst()}
	}
	if r.Body != nil && r.Body != http.NoBody {
		r = r.Clone(r.Context())
		r.Body = slow(r.Body)
	}
	resp, err := t.RoundTripper.RoundTrip(r)
	if err == nil {
		resp.Body = slow(resp.Body)
	}
	return resp, err
}

// counted counts requests and what they bring.
type counted struct {
	http.RoundTripper
	traffic *Traffic
}

func (c counted) RoundTrip(r *http.Request) (*http.Response, error) {
	c.traffic.Requests.Add(1)
	resp, err := c.RoundTripper.RoundTrip(r)
	if err == nil {
		resp.Body = countedReader{resp.Body, &c.traffic.Bytes}
	}
	return resp, err
}

// countedReader counts what is read.
type countedReader struct {
	io.ReadCloser
	n *atomic.Int64
}

func (c countedReader) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.n.Add(int64(n))
	return n, err
}

// slowReader waits after each read for what it has read.
type slowReader struct {
	io.ReadCloser
	wait func(n int) error
	most int
}

func (s slowReader) Read(p []byte) (int, error) {
	n, err := s.ReadCloser.Read(p[:min(len(p), s.most)])
	if werr := s.wait(n); err == nil && werr != nil {
		err = werr
	}
	return n, err
}

// pause waits before the try that follows the given number of failed ones, which
// is at least one.
func pause(ctx context.Context, failed int) error {
	timer := time.NewTimer(retry.DefaultBackoff(failed-1, nil))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
