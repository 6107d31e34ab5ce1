// Package httpstore fetches chunks and other objects from static HTTP servers.
//
// A [Client] is one set of connections with one policy: HTTP/2 where the server
// offers it, HTTP/1.1 with keep-alive elsewhere, as many requests at once as fill the link, retries with growing and
// jittered waits where a second attempt can help, which continue where the last
// one was cut, time-outs for servers that stop, a limit in bytes on every object, no
// redirect from https to http, no compression on the way. It counts requests and
// body bytes exactly, so that what a pull moved can be compared with its plan.
//
// Objects come as bytes, unverified: their digests are for the caller to check.
// [New] makes a [store.Store] of a URL, [Client.Dir] a reader of files.
package httpstore

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-retryablehttp"
	"golang.org/x/time/rate"

	"github.com/ociv2-sync/ociv2-sync/internal/flow"
	"github.com/ociv2-sync/ociv2-sync/store"
)

// Options say how a client behaves. The zero value works.
type Options struct {
	// Jobs is the most requests made at once. How many are is as many as the
	// link has use for: see [flow.Window]. 0 means 16.
	Jobs int
	// Retries is how often a failed request is repeated without anything new
	// having come. 0 means 5, negative means never.
	Retries int
	// RetryWait is the wait before the first retry, doubled for each further
	// one, up to a minute, and jittered. A Retry-After of the server counts
	// instead if it is longer, up to the same minute. 0 means 500 ms.
	RetryWait time.Duration
	// StallTimeout ends an attempt in which nothing has moved for as long: no
	// connection made, no byte sent or received. 0 means 30 s.
	StallTimeout time.Duration
	// AttemptTimeout ends an attempt however steadily it trickles. 0 means 10
	// minutes.
	AttemptTimeout time.Duration
	// TotalTimeout ends the fetch of an object, with all its attempts. 0 means
	// never: over a slow link that is cut again and again, each attempt brings more.
	TotalTimeout time.Duration
	// RateLimit is the most bytes of bodies taken per second, over all requests.
	// 0 means no limit.
	RateLimit int64
	// UserAgent is the value of the header of that name. "" means "ociv2-sync".
	UserAgent string
	// Credentials returns headers for a request to a URL, those of redirects
	// included: it is for the caller to say which host may see what. nil means
	// none. A user and a password in the URL itself go before.
	Credentials func(*url.URL) http.Header
	// TLS is the configuration of connections, with authorities and certificates
	// other than the system's. nil means the default one.
	TLS *tls.Config
	// Proxy returns the proxy for a request, as in [http.Transport]. nil means
	// none.
	Proxy func(*http.Request) (*url.URL, error)
	// Logger is told about retries. nil means nobody is.
	Logger *slog.Logger
}

const (
	maxRetryWait = time.Minute
	maxRedirects = 10
	// maxHeaders is the most bytes of headers that a response may have: with many
	// requests in flight the library's 10 MiB would be much memory.
	maxHeaders = 128 << 10
)

// errRefused marks failures that a retry cannot change.
var errRefused = errors.New("refused")

// Client fetches objects. It may be used by several goroutines at once. Call
// [Client.Close] when done with it.
type Client struct {
	retry     *retryablehttp.Client
	once      *retryablehttp.Client // which repeats nothing
	total     time.Duration
	userAgent string

	limiter *rate.Limiter
	window  *flow.Window

	requests, bodyBytes atomic.Int64
}

// NewClient returns a client.
func NewClient(o Options) *Client {
	stall := cmp.Or(o.StallTimeout, 30*time.Second)
	wait := min(cmp.Or(o.RetryWait, 500*time.Millisecond), maxRetryWait)
	logger := o.Logger
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	c := &Client{total: max(o.TotalTimeout, 0), userAgent: cmp.Or(o.UserAgent, "ociv2-sync"), limiter: newLimiter(o.RateLimit)}
	jobs := cmp.Or(max(o.Jobs, 0), 16)
	c.window = flow.New(jobs)

	// HTTP/2 where a server offers it with TLS: as many requests on one connection.
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	dialer := &net.Dialer{Timeout: stall}
	transport := &http.Transport{
		Proxy: o.Proxy,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return flow.Stalling(conn, stall), nil
		},
		TLSClientConfig:     o.TLS,
		TLSHandshakeTimeout: stall,
		MaxIdleConnsPerHost: jobs,
		IdleConnTimeout:     90 * time.Second,
		DisableCompression:  true,
		Protocols:           &protocols,

		MaxResponseHeaderBytes: maxHeaders,
	}
	client := &http.Client{
		Transport:     &countingTransport{client: c, next: transport, credentials: o.Credentials},
		CheckRedirect: checkRedirect,
		Timeout:       cmp.Or(o.AttemptTimeout, 10*time.Minute),
	}
	retrying := func(times int) *retryablehttp.Client {
		return &retryablehttp.Client{
			HTTPClient:   client,
			RetryMax:     times,
			RetryWaitMin: wait,
			RetryWaitMax: maxRetryWait,
			CheckRetry:   checkRetry,
			Backoff:      backoff,
			// The last response as it is, for Get to judge.
			ErrorHandler: func(resp *http.Response, err error, _ int) (*http.Response, error) { return resp, err },
			PrepareRetry: func(r *http.Request) error {
				logger.Info("retrying", "url", public(r.URL))
				return nil
			},
		}
	}
	c.retry, c.once = retrying(max(cmp.Or(o.Retries, 5), 0)), retrying(0)
	return c
}

// Close closes idle connections. Those in use are closed with their requests.
func (c *Client) Close() { c.retry.HTTPClient.CloseIdleConnections() }

// Stats are what a client has done so far.
type Stats struct {
	Requests  int64 // requests sent, retries and redirects included
	BodyBytes int64 // bytes of response bodies received
}

// Stats returns the counts up to now.
func (c *Client) Stats() Stats {
	return Stats{Requests: c.requests.Load(), BodyBytes: c.bodyBytes.Load()}
}

// checkRedirect keeps redirects within http and https, and https within itself.
func checkRedirect(r *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return fmt.Errorf("%w: more than %d redirects", errRefused, maxRedirects)
	}
	from := via[len(via)-1].URL
	if r.URL.Scheme != "https" && (r.URL.Scheme != "http" || from.Scheme == "https") {
		return fmt.Errorf("%w: redirect from %s to %s", errRefused, from.Scheme, public(r.URL))
	}
	r.Header.Del("Referer") // it would tell another host the query, which may be a signature
	return nil
}

// checkRetry decides whether an attempt is to be repeated.
func checkRetry(ctx context.Context, resp *http.Response, err error) (bool, error) {
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	if err == nil {
		return retryable(resp.StatusCode), nil
	}
	if errors.Is(err, errRefused) || errors.Is(err, errCut) {
		return false, nil
	}
	// What is left of permanent failures (schemes, certificates, headers) the
	// library knows. The response plays no part in that.
	again, _ := retryablehttp.DefaultRetryPolicy(ctx, nil, err)
	return again, nil
}

// retryable reports whether a status may be gone the next time.
func retryable(code int) bool {
	switch code {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests,
		http.StatusInternalServerError, http.StatusBadGateway,
		http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// backoff returns the wait before retry n: doubled each time, then between half
// and all of it, so that clients that failed together do not return together.
func backoff(first, most time.Duration, n int, resp *http.Response) time.Duration {
	wait := most
	if n < 16 {
		wait = min(first<<n, most)
	}
	wait = wait/2 + rand.N(wait/2+1)
	if resp != nil {
		// DefaultBackoff is the server's Retry-After if there is one.
		if asked := retryablehttp.DefaultBackoff(0, most, 0, resp); asked > wait {
			wait = min(asked, most)
		}
	}
	return wait
}

// StatusError reports a response that is not the object. It matches
// [store.ErrNotFound] for the statuses 404 and 410, and [store.ErrNetwork] for
// those that were retried in vain.
type StatusError struct {
	URL  string // without user and query, which may be secret
	Code int
}

// Error implements error.
func (e *StatusError) Error() string {
	return fmt.Sprintf("httpstore: %s: status %d %s", e.URL, e.Code, http.StatusText(e.Code))
}

// Is implements the interface of [errors.Is].
func (e *StatusError) Is(target error) bool {
	switch target {
	case store.ErrNotFound:
		return e.Code == http.StatusNotFound || e.Code == http.StatusGone
	case store.ErrNetwork:
		return retryable(e.Code)
	}
	return false
}

// public returns u without what may be secret in it.
func public(u *url.URL) string {
	c := *u
	c.User, c.RawQuery, c.Fragment = nil, "", ""
	return c.String()
}
