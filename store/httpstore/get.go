package httpstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/hashicorp/go-retryablehttp"

	"github.com/ociv2-sync/ociv2-sync/store"
)

const (
	// firstAlloc bounds what is allocated on the word of a Content-Length; then three times
	// what has come is.
	firstAlloc = 1 << 20
	// maxDrain is how much of an unwanted body is read to keep a connection.
	maxDrain = 64 << 10
	// worthAsking is how much an attempt that is cut must have brought for the next to
	// follow at once: as much as it costs to ask.
	worthAsking = 1 << 10
	// maxReason is how much of what is wrong with a response is told.
	maxReason = 200
)

// errCut marks what is cut and is to be continued at once.
var errCut = errors.New("cut")

// Get returns the body of the object at rawURL, which has at most limit bytes.
// Errors wrap [store.ErrNotFound], [store.ErrTooLarge], [store.ErrNetwork] (when
// all retries failed), ctx's error, or are a [*StatusError]; they name the URL
// without user and query.
func (c *Client) Get(ctx context.Context, rawURL string, limit int64) ([]byte, error) {
	u, err := parseURL(rawURL)
	if err != nil {
		return nil, err
	}
	return c.get(ctx, c.retry, u, limit)
}

func (c *Client) get(ctx context.Context, retry *retryablehttp.Client, u *url.URL, limit int64) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	req, err := retryablehttp.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("httpstore: %s: %w", public(u), err)
	}
	req.Header.Set("User-Agent", c.userAgent)
	req.Header.Set("Accept-Encoding", "identity")

	cost, err := c.window.Enter(ctx, limit)
	if err != nil {
		return nil, err
	}
	caller := ctx
	if c.total > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.total)
		defer cancel()
		req = req.WithContext(ctx)
	}
	o := object{req: req, limit: limit}
	brought := int64(-1)
	defer func() { c.window.Leave(cost, limit, brought) }()
	req.SetResponseHandler(o.take)
	// An attempt that brought something counts as none, and is followed by the next at
	// once: over a link that is cut again and again, what matters is that each time there
	// is more.
	var resp *http.Response
	for more := true; more && ctx.Err() == nil; {
		o.had = len(o.body)
		resp, err = retry.Do(req)
		more = err != nil && len(o.body) > o.had
		if more && resp != nil {
			resp.Body.Close() // nothing more comes of it
		}
	}
	if resp != nil {
		defer drain(resp)
	}
	if len(o.body) > 0 || err == nil {
		brought = int64(len(o.body))
	}
	switch {
	case caller.Err() != nil:
		err = caller.Err()
	case ctx.Err() != nil:
		err = fmt.Errorf("%w: not there after %v", store.ErrNetwork, c.total)
	case err != nil:
		err = failure(ctx, err)
	case o.final == nil && !o.whole:
		return nil, &StatusError{URL: public(u), Code: resp.StatusCode}
	default:
		err = o.final
	}
	if err != nil {
		return nil, fmt.Errorf("httpstore: %s: %w", public(u), err)
	}
	return o.body, nil
}

// failure classifies the error of the last attempt: as of the network unless it
// was not worth a retry. It drops the URL, which may hold secrets.
func failure(ctx context.Context, err error) error {
	worth, _ := checkRetry(ctx, nil, err)
	if e, ok := errors.AsType[*url.Error](err); ok {
		err = e.Err
	}
	if text := err.Error(); len(text) > maxReason { // with what the server sent in it
		err = shortened{err, strings.ToValidUTF8(text[:maxReason], "") + "..."}
	}
	if worth {
		return fmt.Errorf("%w: %w", store.ErrNetwork, err)
	}
	return err
}

// shortened is an error of which less is told.
type shortened struct {
	error

	text string
}

func (s shortened) Error() string { return s.text }
func (s shortened) Unwrap() error { return s.error }

// encoded returns the error for a response that is not the file as it is.
func encoded(h http.Header) error {
	if enc := h.Get("Content-Encoding"); enc != "" && enc != "identity" {
		return fmt.Errorf("%w: the server, or a proxy before it, sends it with encoding %q; it must send files as they are", errRefused, enc)
	}
	return nil
}

// object is what has come of one, over all attempts.
type object struct {
	req   *retryablehttp.Request
	limit int64
	body  []byte
	had   int // of it, before the attempts that are not counted yet
	whole bool
	final error // what another attempt cannot mend
}

// take reads a response. Its error is one that another attempt may mend, for
// which what has come is kept, if the server lets the rest be asked for alone. A
// response whose status says that it is not the object is left to the caller.
func (o *object) take(resp *http.Response) error {
	begin := int64(len(o.body))
	switch {
	case resp.StatusCode == http.StatusOK:
		o.drop()
	case resp.StatusCode == http.StatusPartialContent && begin > 0:
		if !strings.HasPrefix(resp.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", begin)) {
			o.drop()
			return errors.New("the server sends another range than was asked for")
		}
	case begin > 0: // 416, say: it is not what it was
		o.drop()
		return fmt.Errorf("status %d for the rest of the object", resp.StatusCode)
	default:
		return nil
	}
	err := o.read(resp)
	switch {
	case err == nil:
		o.whole = true
	case errors.Is(err, errRefused), errors.Is(err, store.ErrTooLarge):
		o.final = err
		return nil
	case resp.StatusCode == http.StatusOK:
		o.keep(resp.Header)
	default:
		o.req.Header.Set("Range", fmt.Sprintf("bytes=%d-", len(o.body)))
	}
	if err != nil && len(o.body) >= o.had+worthAsking {
		return fmt.Errorf("%w: %w", errCut, err)
	}
	return err
}

// keep makes the next attempt ask for what is missing of this version of the
// object, if the server tells one version from another.
func (o *object) keep(h http.Header) {
	version := h.Get("ETag")
	if version == "" {
		version = h.Get("Last-Modified")
	}
	if version == "" || strings.HasPrefix(version, "W/") || len(o.body) == 0 {
		o.drop()
		return
	}
	o.req.Header.Set("Range", fmt.Sprintf("bytes=%d-", len(o.body)))
	o.req.Header.Set("If-Range", version)
}

// drop makes the next attempt ask for all of the object.
func (o *object) drop() {
	o.body = nil
	o.req.Header.Del("Range")
	o.req.Header.Del("If-Range")
}

// read appends the body of a response to what has come.
func (o *object) read(resp *http.Response) error {
	defer resp.Body.Close()
	if err := encoded(resp.Header); err != nil {
		return err
	}
	size := int64(len(o.body)) + resp.ContentLength // as announced, if it is
	if resp.ContentLength > 0 && size > o.limit {
		return fmt.Errorf("%w: %d bytes, at most %d expected", store.ErrTooLarge, size, o.limit)
	}
	if o.body == nil {
		// One byte more than announced, so that the end is seen without growing.
		o.body = make([]byte, 0, min(max(resp.ContentLength, 511), o.limit, firstAlloc)+1)
	}
	for {
		if len(o.body) == cap(o.body) {
			have := int64(len(o.body))
			o.body = slices.Grow(o.body, int(max(min(size+1-have, 3*have), 512)))
		}
		n, err := resp.Body.Read(o.body[len(o.body):min(int64(cap(o.body)), o.limit+1)])
		o.body = o.body[:len(o.body)+n]
		switch {
		case int64(len(o.body)) > o.limit:
			return fmt.Errorf("%w: more than %d bytes", store.ErrTooLarge, o.limit)
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
	}
}

// drain reads the rest of a body, if it is short, so that its connection can
// serve again, and closes it.
func drain(resp *http.Response) {
	_, _ = io.CopyN(io.Discard, resp.Body, maxDrain) // at worst the connection is lost
	_ = resp.Body.Close()
}
