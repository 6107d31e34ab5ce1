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

// OpenAt opens size bytes, at least one, of the file at path from an offset on.
// A transfer that is cut is continued where it was by a further request, as
// often as the client retries without receiving anything. Errors, of Read too,
// are those of [Client.Get]; store.ErrNoParts where the server does not know ranges,
// unless it is all of the file that is asked for: then a cut costs what had arrived. A
// file that is shorter is io.ErrUnexpectedEOF, and no store.ErrNetwork.
func (d *Dir) OpenAt(ctx context.Context, path string, offset, size int64) (io.ReadCloser, error) {
	r := &rangeReader{ctx: ctx, client: d.client, retry: d.retry, url: join(d.base, path), at: offset, end: offset + size}
	if err := r.open(); err != nil {
		return nil, err
	}
	return r, nil
}

// rangeReader reads a part of a file, over several connections if need be.
type rangeReader struct {
	ctx    context.Context //nolint:containedctx // a reader has no other way to get that of its opener
	client *Client
	retry  *retryablehttp.Client
	url    *url.URL
	at     int64 // the next byte
	end    int64
	body   io.ReadCloser
	cuts   int  // since a byte was received
	whole  bool // the server has no ranges, and all of the file is wanted, as far as is known
}

// open requests what is not received yet.
func (r *rangeReader) open() error {
	resp, err := r.request()
	if err != nil {
		return err
	}
	if refusesParts(resp.StatusCode) && r.at == 0 && !r.whole {
		drain(resp)
		r.whole = true
		if resp, err = r.request(); err != nil {
			return err
		}
	}
	switch code := resp.StatusCode; {
	case code == http.StatusRequestedRangeNotSatisfiable:
		err = fmt.Errorf("%w: it has no %d bytes", io.ErrUnexpectedEOF, r.end)
	case code == http.StatusNotImplemented:
		err = store.ErrNoParts
	case code != http.StatusOK && code != http.StatusPartialContent:
		drain(resp)
		return &StatusError{URL: public(r.url), Code: code}
	case encoded(resp.Header) != nil:
		err = encoded(resp.Header)
	case code == http.StatusOK:
		err = r.fromStart(resp)
	default:
		err = r.checkPart(resp)
	}
	if err != nil {
		resp.Body.Close() // it may be long
		return fmt.Errorf("httpstore: %s: %w", public(r.url), err)
	}
	r.body = resp.Body
	return nil
}

// refusesParts reports whether a status may be that of a server that has the file and
// no ranges.
func refusesParts(code int) bool {
	return code == http.StatusRequestedRangeNotSatisfiable || code == http.StatusNotImplemented
}

// request sends one request, and as many more as the client retries.
func (r *rangeReader) request() (*http.Response, error) {
	req, err := retryablehttp.NewRequestWithContext(r.ctx, http.MethodGet, r.url.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("httpstore: %s: %w", public(r.url), err)
	}
	req.Header.Set("User-Agent", r.client.userAgent)
	req.Header.Set("Accept-Encoding", "identity")
	if !r.whole {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", r.at, r.end-1))
	}
	resp, err := r.retry.Do(req)
	if err != nil {
		if resp != nil {
			resp.Body.Close() // its context ended when it had begun
		}
		if r.ctx.Err() != nil {
			err = r.ctx.Err()
		} else {
			err = failure(r.ctx, err)
		}
		return nil, fmt.Errorf("httpstore: %s: %w", public(r.url), err)
	}
	return resp, nil
}

// fromStart goes to the next byte in a response that has the whole file, if that
// is what is wanted: what else comes with a part of it, nobody has asked for.
func (r *rangeReader) fromStart(resp *http.Response) error {
	switch {
	case resp.ContentLength >= 0 && resp.ContentLength < r.end:
		return fmt.Errorf("%w: it has no %d bytes", io.ErrUnexpectedEOF, r.end)
	case resp.ContentLength != r.end || r.at > 0 && !r.whole:
		return store.ErrNoParts
	}
	r.whole = true
	if _, err := io.CopyN(io.Discard, resp.Body, r.at); err != nil {
		return fmt.Errorf("%w: %w", store.ErrNetwork, err)
	}
	return nil
}

// checkPart compares a part with what was asked for.
func (r *rangeReader) checkPart(resp *http.Response) error {
	var from, to int64
	got := resp.Header.Get("Content-Range")
	_, err := fmt.Sscanf(got, "bytes %d-%d/", &from, &to)
	switch {
	case err == nil && from == r.at && to < r.end-1:
		return fmt.Errorf("%w: it has %d bytes, not %d", io.ErrUnexpectedEOF, to+1, r.end)
	case err != nil || from != r.at || to != r.end-1:
		return fmt.Errorf("%w: the server sends %q instead of bytes %d-%d", errRefused, got, r.at, r.end-1)
	}
	return nil
}

func (r *rangeReader) Read(p []byte) (int, error) {
	for {
		if r.at == r.end {
			return 0, io.EOF
		}
		n, err := r.body.Read(p[:min(int64(len(p)), r.end-r.at)])
		r.at += int64(n)
		if n > 0 {
			r.cuts = 0
			return n, nil
		}
		if err == nil {
			continue
		}
		if r.ctx.Err() != nil {
			return 0, fmt.Errorf("httpstore: %s: %w", public(r.url), r.ctx.Err())
		}
		r.cuts++
		if r.cuts > r.retry.RetryMax {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return 0, fmt.Errorf("httpstore: %s: %w: %w", public(r.url), store.ErrNetwork, err)
		}
		r.body.Close()
		if err := r.open(); err != nil {
			return 0, err
		}
	}
}

func (r *rangeReader) Close() error { return r.body.Close() }
