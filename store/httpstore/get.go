package httpstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/hashicorp/go-retryablehttp"

	"github.com/ociv2-sync/ociv2-sync/store"
)

const (
	// firstAlloc bounds what is allocated on the word of a Content-Length.
	firstAlloc = 1 << 20
	// maxDrain is how much of an unwanted body is read to keep a connection.
	maxDrain = 64 << 10
)

// Get returns the body of the object at rawURL, which has at most limit bytes.
// Errors wrap [store.ErrNotFound], [store.ErrTooLarge], [store.ErrNetwork] (when
// all retries failed), ctx's error, or are a [*StatusError]; they name the URL
// without user and query.
func (c *Client) Get(ctx context.Context, rawURL string, limit int64) ([]byte, error) {
	u, err := parseURL(rawURL)
	if err != nil {
		return nil, err
	}
	return c.get(ctx, u, limit)
}

func (c *Client) get(ctx context.Context, u *url.URL, limit int64) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	req, err := retryablehttp.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("httpstore: %s: %w", public(u), err)
	}
	req.Header.Set("User-Agent", c.userAgent)
	req.Header.Set("Accept-Encoding", "identity")

	// The handler returns only failures that another attempt can mend; what is
	// settled goes to body and final.
	var body []byte
	var final error
	req.SetResponseHandler(func(resp *http.Response) (err error) {
		body, err = readObject(resp, limit)
		if errors.Is(err, errRefused) || errors.Is(err, store.ErrTooLarge) {
			final = err
			return nil
		}
		return err
	})
	resp, err := c.retry.Do(req)
	if resp != nil {
		defer drain(resp)
	}
	switch {
	case ctx.Err() != nil:
		err = ctx.Err()
	case err != nil:
		err = failure(ctx, err)
	case resp.StatusCode != http.StatusOK:
		return nil, &StatusError{URL: public(u), Code: resp.StatusCode}
	default:
		err = final
	}
	if err != nil {
		return nil, fmt.Errorf("httpstore: %s: %w", public(u), err)
	}
	return body, nil
}

// failure classifies the error of the last attempt: as of the network unless it
// was not worth a retry. It drops the URL, which may hold secrets.
func failure(ctx context.Context, err error) error {
	worth, _ := checkRetry(ctx, nil, err)
	if e, ok := errors.AsType[*url.Error](err); ok {
		err = e.Err
	}
	if worth {
		return fmt.Errorf("%w: %w", store.ErrNetwork, err)
	}
	return err
}

// readObject returns the body of a response. It leaves one whose status says
// that it is not the object to its caller.
func readObject(resp *http.Response, limit int64) ([]byte, error) {
	if resp.StatusCode != http.StatusOK {
		return nil, nil
	}
	defer resp.Body.Close()
	if enc := resp.Header.Get("Content-Encoding"); enc != "" && enc != "identity" {
		return nil, fmt.Errorf("%w: the server sends it with encoding %q", errRefused, enc)
	}
	if resp.ContentLength > limit {
		return nil, fmt.Errorf("%w: %d bytes, at most %d expected", store.ErrTooLarge, resp.ContentLength, limit)
	}
	// One byte more than announced, so that the end is seen without growing.
	size := min(max(resp.ContentLength, 511), limit, firstAlloc) + 1
	b := make([]byte, 0, size)
	for {
		if len(b) == cap(b) {
			b = append(b, 0)[:len(b)]
		}
		n, err := resp.Body.Read(b[len(b):min(int64(cap(b)), limit+1)])
		b = b[:len(b)+n]
		switch {
		case int64(len(b)) > limit:
			return nil, fmt.Errorf("%w: more than %d bytes", store.ErrTooLarge, limit)
		case err == io.EOF:
			return b, nil
		case err != nil:
			return nil, err
		}
	}
}

// drain reads the rest of a body, if it is short, so that its connection can
// serve again, and closes it.
func drain(resp *http.Response) {
	_, _ = io.CopyN(io.Discard, resp.Body, maxDrain) // at worst the connection is lost
	_ = resp.Body.Close()
}
