package httpstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/hashicorp/go-retryablehttp"

	"github.com/ociv2-sync/ociv2-sync/store"
)

// Copy writes the object at rawURL, of any size, to w while it arrives. A
// connection that breaks is resumed where it broke, as often in a row as a
// request is repeated, if the server says by an ETag or a time that the object
// is still the same; from a server without ranges what had come comes again.
// Errors are those of [Client.Get], or w's.
func (c *Client) Copy(ctx context.Context, rawURL string, w io.Writer) error {
	u, err := parseURL(rawURL)
	if err != nil {
		return err
	}
	return c.copy(ctx, c.retry, u, w, func(int64) error { return nil })
}

// Copy is [Client.Copy] of the file at path, a slash-separated path relative to the
// directory that is not URL-escaped. Before the first byte it calls begin with the
// length of the file, or -1 if the server does not say it; an error of begin ends it.
func (d *Dir) Copy(ctx context.Context, path string, w io.Writer, begin func(size int64) error) error {
	return d.client.copy(ctx, d.retry, join(d.base, path), w, begin)
}

func (c *Client) copy(ctx context.Context, retry *retryablehttp.Client, u *url.URL, w io.Writer, begin func(int64) error) error {
	d := &download{c: c, retry: retry, u: u, w: w, begin: begin}
	for failures := 0; ; {
		before := d.done
		err := d.attempt(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			err = ctx.Err()
		} else if broken, ok := errors.AsType[brokenError](err); ok {
			if d.done > before {
				failures = 0
			}
			failures++
			if d.validator != "" && failures <= retry.RetryMax {
				continue
			}
			err = fmt.Errorf("%w: %w", store.ErrNetwork, broken.err)
		}
		if _, ok := errors.AsType[*StatusError](err); ok {
			return err
		}
		return fmt.Errorf("httpstore: %s: %w", public(u), err)
	}
}

// brokenError is a body that ended too early.
type brokenError struct{ err error }

func (e brokenError) Error() string { return e.err.Error() }

// download is an object on its way.
type download struct {
	c         *Client
	retry     *retryablehttp.Client
	u         *url.URL
	w         io.Writer
	begin     func(size int64) error
	done      int64
	validator string // what If-Range takes, "" if the server gave none
}

// attempt asks for what is still missing and writes what comes.
func (d *download) attempt(ctx context.Context) error {
	req, err := retryablehttp.NewRequestWithContext(ctx, http.MethodGet, d.u.String(), nil)
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", d.c.userAgent)
	req.Header.Set("Accept-Encoding", "identity")
	want := http.StatusOK
	if d.done > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", d.done))
		req.Header.Set("If-Range", d.validator)
		want = http.StatusPartialContent
	}
	resp, err := d.retry.Do(req)
	if err != nil {
		if resp != nil {
			drain(resp)
		}
		return failure(ctx, err)
	}
	defer drain(resp)
	again := d.done > 0 && resp.StatusCode == http.StatusOK && validator(resp.Header) == d.validator // it has no ranges
	if resp.StatusCode != want && !again {
		if d.done > 0 && resp.StatusCode == http.StatusOK {
			return fmt.Errorf("%w: the object changed while it was read", errRefused)
		}
		return &StatusError{URL: public(d.u), Code: resp.StatusCode}
	}
	if err := encoded(resp.Header); err != nil {
		return err
	}
	if again {
		if _, err := io.CopyN(io.Discard, resp.Body, d.done); err != nil {
			return brokenError{err}
		}
	} else if d.done > 0 && !strings.HasPrefix(resp.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", d.done)) {
		return fmt.Errorf("%w: the server sends another range than was asked for", errRefused)
	}
	if d.done == 0 {
		d.validator = validator(resp.Header)
		if err := d.begin(resp.ContentLength); err != nil {
			return err
		}
	}
	return d.body(resp.Body)
}

// body writes a body, and tells the errors of reading from those of writing.
func (d *download) body(r io.Reader) error {
	buf := make([]byte, 64<<10)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			if _, werr := d.w.Write(buf[:n]); werr != nil {
				return werr
			}
			d.done += int64(n)
		}
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return brokenError{err}
		}
	}
}

// validator returns by what a server recognises this version of an object. A
// weak ETag does not do that byte for byte.
func validator(h http.Header) string {
	if tag := h.Get("ETag"); tag != "" && !strings.HasPrefix(tag, "W/") {
		return tag
	}
	return h.Get("Last-Modified")
}
