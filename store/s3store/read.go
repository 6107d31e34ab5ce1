package s3store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/minio/minio-go/v7"

	"github.com/ociv2-sync/ociv2-sync/store"
)

// get opens a file, or the size bytes of it from an offset on if size is not 0.
func (d *Dir) get(ctx context.Context, path string, offset, size int64, etag string) (io.ReadCloser, minio.ObjectInfo, error) {
	var o minio.GetObjectOptions
	if size > 0 {
		if err := o.SetRange(offset, offset+size-1); err != nil {
			return nil, minio.ObjectInfo{}, fmt.Errorf("s3store: %w", err)
		}
	}
	if etag != "" {
		if err := o.SetMatchETag(etag); err != nil {
			return nil, minio.ObjectInfo{}, fmt.Errorf("s3store: %w", err)
		}
	}
	body, info, _, err := d.core.GetObject(ctx, d.bucket, d.key(path), o)
	if err != nil {
		return nil, info, d.fail(ctx, path, err)
	}
	return body, info, nil
}

// ReadFile returns the contents of a file, of at most limit bytes: the error
// wraps [store.ErrNotFound] or [store.ErrTooLarge] else.
func (d *Dir) ReadFile(ctx context.Context, path string, limit int64) ([]byte, error) {
	b, _, err := d.Load(ctx, path, limit)
	return b, err
}

// Load is [Dir.ReadFile] that tells the version of what it has read.
func (d *Dir) Load(ctx context.Context, path string, limit int64) (data []byte, version string, err error) {
	err = d.again(ctx, func() error {
		body, info, err := d.get(ctx, path, 0, 0, "")
		if err != nil {
			return err
		}
		defer body.Close()
		if info.Size > limit {
			return fmt.Errorf("s3store: %s/%s: %w: %d bytes, at most %d expected", d, path, store.ErrTooLarge, info.Size, limit)
		}
		var b bytes.Buffer // grows with what arrives
		n, err := io.Copy(&b, io.LimitReader(d.limited(ctx, body), limit+1))
		if err == nil && n != info.Size {
			err = io.ErrUnexpectedEOF
		}
		data, version = b.Bytes(), info.ETag
		return d.cut(ctx, path, err)
	})
	return data, version, err
}

// cut returns the error for a body that has ended too early.
func (d *Dir) cut(ctx context.Context, path string, err error) error {
	if err == nil || ctx.Err() != nil {
		return d.fail(ctx, path, err)
	}
	return fmt.Errorf("s3store: %s/%s: %w: %w", d, path, store.ErrNetwork, err)
}

// OpenAt opens size bytes of a file from an offset on; the error of reading to
// their end says when the file is shorter. What is cut off is read on where it
// was.
func (d *Dir) OpenAt(ctx context.Context, path string, offset, size int64) (io.ReadCloser, error) {
	p := &part{ctx: ctx, d: d, path: path, at: offset, left: size}
	return p, d.again(ctx, p.open)
}

// part reads a part of a file.
type part struct {
	ctx      context.Context //nolint:containedctx // of OpenAt, as that of a response body
	d        *Dir
	path     string
	at, left int64
	etag     string
	body     io.ReadCloser
	fails    int // since something arrived
}

func (p *part) open() error {
	body, info, err := p.d.get(p.ctx, p.path, p.at, p.left, p.etag)
	if err != nil {
		return err
	}
	if info.Size != p.left {
		return errors.Join(fmt.Errorf("s3store: %s/%s: %w: %d bytes where %d were asked for", p.d, p.path, io.ErrUnexpectedEOF, info.Size, p.left), body.Close())
	}
	p.body, p.etag = body, info.ETag
	return nil
}

func (p *part) Read(b []byte) (int, error) {
	for {
		if p.left == 0 {
			return 0, io.EOF
		}
		n, err := p.d.limited(p.ctx, p.body).Read(b[:min(int64(len(b)), p.left)])
		p.at, p.left = p.at+int64(n), p.left-int64(n)
		if n > 0 {
			p.fails = 0
			return n, nil // an error comes again, or something else does
		}
		if err == nil {
			continue
		}
		if err == io.EOF { //nolint:errorlint // the bare value alone is the end
			err = io.ErrUnexpectedEOF
		}
		if p.fails++; p.fails > p.d.opts.Retries || p.ctx.Err() != nil {
			return 0, p.d.cut(p.ctx, p.path, err)
		}
		_ = p.body.Close() // it is broken
		if err := p.d.again(p.ctx, p.open); err != nil {
			return 0, err
		}
	}
}

func (p *part) Close() error { return p.body.Close() }

// limited returns r, read no faster than the rate limit allows.
func (d *Dir) limited(ctx context.Context, r io.Reader) io.Reader {
	if d.limiter == nil {
		return r
	}
	return readerFunc(func(b []byte) (int, error) {
		n, err := r.Read(b[:min(len(b), d.limiter.Burst())])
		if werr := d.limiter.WaitN(ctx, n); werr != nil {
			return n, werr
		}
		return n, err
	})
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }
