package s3store

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/minio/minio-go/v7"

	"github.com/ociv2-sync/ociv2-sync/store"
)

// Put makes the file at path of size bytes of data, or replaces it.
func (d *Dir) Put(ctx context.Context, path string, data io.ReaderAt, size int64) error {
	return d.put(ctx, path, data, size, minio.PutObjectOptions{})
}

// onePart is the size up to which a file is one request.
const onePart = 16 << 20

func (d *Dir) put(ctx context.Context, path string, data io.ReaderAt, size int64, o minio.PutObjectOptions) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	r := io.NewSectionReader(data, 0, size)
	if size <= onePart { // which is known to be all there, then
		b, err := io.ReadAll(r)
		if err == nil && int64(len(b)) != size {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return fmt.Errorf("s3store: %s/%s: %w", d, path, err)
		}
		data = bytes.NewReader(b)
		r = io.NewSectionReader(data, 0, size)
	}
	o.PartSize = onePart
	_, err := d.client.PutObject(ctx, d.bucket, d.key(path), r, size, o)
	return d.fail(ctx, path, err)
}

// Create is Put where there is no file: else the error wraps [store.ErrExists].
func (d *Dir) Create(ctx context.Context, path string, data []byte) error {
	var o minio.PutObjectOptions
	if d.opts.SingleWriter {
		_, err := d.Stat(ctx, path)
		if err == nil {
			return fmt.Errorf("s3store: %s/%s: %w", d, path, store.ErrExists)
		}
		if !errors.Is(err, store.ErrNotFound) {
			return err
		}
	} else {
		if err := d.try(ctx); err != nil {
			return err
		}
		o.SetMatchETagExcept("*")
	}
	err := d.put(ctx, path, bytes.NewReader(data), int64(len(data)), o)
	if errors.Is(err, store.ErrChanged) {
		err = fmt.Errorf("s3store: %s/%s: %w", d, path, store.ErrExists)
	}
	return err
}

// Swap replaces the file at path if its version is still the given one, "" for
// none: else the error wraps [store.ErrChanged].
func (d *Dir) Swap(ctx context.Context, path string, data []byte, version string) error {
	var o minio.PutObjectOptions
	if !d.opts.SingleWriter {
		if err := d.try(ctx); err != nil {
			return err
		}
		if version == "" {
			o.SetMatchETagExcept("*")
		} else {
			o.SetMatchETag(version)
		}
	}
	err := d.put(ctx, path, bytes.NewReader(data), int64(len(data)), o)
	if errors.Is(err, store.ErrNotFound) && version != "" {
		err = fmt.Errorf("s3store: %s/%s: %w: it is gone", d, path, store.ErrChanged)
	}
	if errors.Is(err, store.ErrChanged) {
		// By us, if the answer to the first request was lost and it was repeated.
		if now, _, e := d.Load(ctx, path, int64(len(data))); e == nil && bytes.Equal(now, data) {
			return nil
		}
	}
	return err
}

// try finds out whether the service heeds conditions, once.
func (d *Dir) try(ctx context.Context) (err error) {
	d.trial.Lock()
	defer d.trial.Unlock()
	if d.heedful {
		return nil
	}
	path := ".trial-" + strings.ToLower(rand.Text()) + ".tmp" // which a collection removes
	var absent, other minio.PutObjectOptions
	absent.SetMatchETagExcept("*")
	other.SetMatchETag("00000000000000000000000000000000")
	put := func(o minio.PutObjectOptions) error { return d.put(ctx, path, strings.NewReader("x"), 1, o) }
	if err := put(absent); err != nil {
		if e, ok := errors.AsType[*RefusedError](err); ok { // which is not about the name
			err = fmt.Errorf("s3store: %s: write: %w", d, e)
		}
		return err
	}
	defer func() { err = errors.Join(err, d.Remove(context.WithoutCancel(ctx), path)) }()
	for _, o := range []minio.PutObjectOptions{absent, other} {
		err := put(o)
		if err == nil || minio.ToErrorResponse(err).StatusCode == http.StatusNotImplemented {
			return fmt.Errorf("s3store: %s: %w", d, ErrConditions)
		}
		if !errors.Is(err, store.ErrChanged) {
			return err
		}
	}
	d.heedful = true
	return nil
}

// Remove removes a file; that there is none is no error.
func (d *Dir) Remove(ctx context.Context, path string) error {
	err := d.fail(ctx, path, d.client.RemoveObject(ctx, d.bucket, d.key(path), minio.RemoveObjectOptions{}))
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	return err
}
