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
// are those of [Client.Get]; a server that does not know ranges is refused. A file
// that is shorter is io.ErrUnexpectedEOF, and no store.ErrNetwork.
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
	cuts   int // since a byte was received
}

// open requests what is not received yet.
func (r *rangeReader) open() error {
	req, err := retryablehttp.NewRequestWithContext(r.ctx, http.MethodGet, r.url.String(), nil)
	if err != nil {
		return fmt.Errorf("httpstore: %s: %w", public(r.url), err)
	}
	req.Header.Set("User-Agent", r.client.userAgent)
	req.Header.Set("Accept-Encoding", "identity")
	req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", r.at, r.end-1))
	resp, err := r.retry.Do(req)
	switch {
	case err != nil:
		if resp != nil {
			resp.Body.Close() // its context ended when it had begun
		}
		if r.ctx.Err() != nil {
			err = r.ctx.Err()
		} else {
			err = failure(r.ctx, err)
		}
		return fmt.Errorf("httpstore: %s: %w", public(r.url), err)
	case resp.StatusCode == http.StatusRequestedRangeNotSatisfiable, resp.StatusCode == http.StatusOK && resp.ContentLength == 0: // it has no ranges
		err = fmt.Errorf("%w: it has no %d bytes", io.ErrUnexpectedEOF, r.end)
	case resp.StatusCode == http.StatusOK:
		err = fmt.Errorf("%w: the server does not send parts of files", errRefused)
	case resp.StatusCode != http.StatusPartialContent:
		drain(resp)
		return &StatusError{URL: public(r.url), Code: resp.StatusCode}
	case resp.Header.Get("Content-Encoding") != "" && resp.Header.Get("Content-Encoding") != "identity":
		err = fmt.Errorf("%w: the server sends it encoded", errRefused)
	default:
		var from, to int64
		_, serr := fmt.Sscanf(resp.Header.Get("Content-Range"), "bytes %d-%d/", &from, &to)
		if serr == nil && from == r.at && to < r.end-1 {
			err = fmt.Errorf("%w: it has %d bytes, not %d", io.ErrUnexpectedEOF, to+1, r.end)
		} else if serr != nil || from != r.at || to != r.end-1 {
			err = fmt.Errorf("%w: the server sends %q instead of bytes %d-%d", errRefused, resp.Header.Get("Content-Range"), r.at, r.end-1)
		}
	}
	if err != nil {
		resp.Body.Close() // it may be long
		return fmt.Errorf("httpstore: %s: %w", public(r.url), err)
	}
	r.body = resp.Body
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
