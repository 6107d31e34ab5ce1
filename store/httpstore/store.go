package httpstore

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/hashicorp/go-retryablehttp"

	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/store"
)

// parseURL returns the http(s) URL in s. Its error does not repeat s, which may
// hold a password.
func parseURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil {
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = e.Err
		}
		return nil, fmt.Errorf("httpstore: URL: %w", err)
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("httpstore: %s: not an http or https URL", public(u))
	}
	u.Fragment, u.RawFragment = "", ""
	return u, nil
}

// Dir reads the files below a URL.
type Dir struct {
	client *Client
	retry  *retryablehttp.Client // how often
	base   *url.URL
}

// Dir returns the directory at rawURL. A query in it is kept on every file's
// URL, as signed URLs need.
func (c *Client) Dir(rawURL string) (*Dir, error) {
	u, err := parseURL(rawURL)
	if err != nil {
		return nil, err
	}
	return &Dir{client: c, retry: c.retry, base: u}, nil
}

// Once returns the same directory for those who have another one to turn to: a
// request that fails without having brought anything is not repeated.
func (d *Dir) Once() *Dir { return &Dir{client: d.client, retry: d.client.once, base: d.base} }

// ReadFile returns the contents of the file at path, a slash-separated path
// relative to the directory that is not URL-escaped. Limit and errors are those
// of [Client.Get].
func (d *Dir) ReadFile(ctx context.Context, path string, limit int64) ([]byte, error) {
	return d.client.get(ctx, d.retry, join(d.base, path), limit)
}

// String returns the URL without user and query.
func (d *Dir) String() string { return public(d.base) }

// join appends a path that is not escaped to that of base and keeps the rest,
// escapes included.
func join(base *url.URL, path string) *url.URL {
	u := *base
	u.RawPath = strings.TrimSuffix(base.EscapedPath(), "/") + "/" + (&url.URL{Path: path}).EscapedPath()
	u.Path = strings.TrimSuffix(base.Path, "/") + "/" + path
	return &u
}

// Store is a chunk store below a URL, in the layout of directories
// (docs/format/chunks.md, section 4). It implements [store.Store] alone.
type Store struct{ dir *Dir }

// New returns the chunk store at rawURL. A query in it is kept on every request.
func New(c *Client, rawURL string) (*Store, error) {
	d, err := c.Dir(rawURL)
	if err != nil {
		return nil, err
	}
	return &Store{dir: d}, nil
}

// Once returns the same store, of a directory as [Dir.Once] returns it.
func (s *Store) Once() *Store { return &Store{dir: s.dir.Once()} }

// Get implements [store.Store]. An uncompressed chunk costs a second request,
// as does a chunk that is not there.
func (s *Store) Get(ctx context.Context, id chunk.ID, limit int64) (store.Packed, error) {
	hex := id.String()
	name := hex[:4] + "/" + hex
	data, err := s.dir.ReadFile(ctx, name+".cacnk", limit)
	if err == nil {
		return store.Packed{Form: store.Compressed, Data: data}, nil
	}
	if errors.Is(err, store.ErrNotFound) {
		data, rawErr := s.dir.ReadFile(ctx, name, limit)
		if rawErr == nil {
			return store.Packed{Form: store.Raw, Data: data}, nil
		}
		if !errors.Is(rawErr, store.ErrNotFound) {
			err = rawErr
		}
	}
	return store.Packed{}, err
}

// String returns the URL without user and query.
func (s *Store) String() string { return s.dir.String() }
