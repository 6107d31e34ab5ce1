package s3store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/ociv2-sync/ociv2-sync/store"
)

// get opens a file, from an offset on, for at most size bytes, or to its end if that is 0.
func (d *Dir) get(ctx context.Context, path string, offset, size int64, etag string) (io.ReadCloser, minio.ObjectInfo, error) {
	var o minio.GetObjectOptions
	switch {
	case size > 0:
		if err := o.SetRange(offset, offset+size-1); err != nil {
			return nil, minio.ObjectInfo{}, fmt.Errorf("s3store: %w", err)
		}
	case offset > 0:
		if err := o.SetRange(offset, 0); err != nil {
			return nil, minio.ObjectInfo{}, fmt.Errorf("s3store: %w", err)
		}
	}
	if etag != "" {
		if err := o.SetMatchETag(etag); err != nil {
			return nil, minio.ObjectInfo{}, fmt.Errorf("s3store: %w", err)
		}
	}
	begin := time.Now()
	body, info, _, err := d.core.GetObject(ctx, d.bucket, d.key(path), o)
	if err != nil {
		return nil, info, d.fail(ctx, path, err)
	}
	d.flow.Answered(time.Since(begin))
	return body, info, nil
}

// ReadFile returns the contents of a file, of at most limit bytes: the error
// wraps [store.ErrNotFound] or [store.ErrTooLarge] else.
func (d *Dir) ReadFile(ctx context.Context, path string, limit int64) ([]byte, error) {
	b, _, err := d.Load(ctx, path, limit)
	return b, err
}

// Load is [Dir.ReadFile] that tells the version of what it has read. It waits until the
// link has use for it; what is cut off is read on where it was, as long as the file is
// the same.
func (d *Dir) Load(ctx context.Context, path string, limit int64) (data []byte, version string, err error) {
	cost, err := d.flow.Enter(ctx, limit)
	if err != nil {
		return nil, "", err
	}
	w := &whole{d: d, path: path, limit: limit}
	brought := int64(-1)
	defer func() { d.flow.Leave(cost, limit, brought) }()
	err = d.again(ctx, func() (int64, error) { return w.read(ctx) })
	if n := int64(w.data.Len()); n > 0 || err == nil {
		brought = n
	}
	if err != nil {
		return nil, "", err
	}
	return w.data.Bytes(), w.etag, nil
}

// whole reads a file, by several requests if need be.
type whole struct {
	d     *Dir
	path  string
	limit int64
	data  bytes.Buffer // what has come; grows with it
	etag  string       // of what it is; "" if that is not known, and then nothing is kept
	size  int64
}

// read reads what is missing, and returns how much has come.
func (w *whole) read(ctx context.Context) (brought int64, err error) {
	if w.etag == "" {
		w.data.Reset()
	}
	had := int64(w.data.Len())
	body, info, err := w.d.get(ctx, w.path, had, 0, w.etag)
	if had > 0 && (errors.Is(err, store.ErrChanged) || err == nil && info.ETag != w.etag) {
		if body != nil {
			_ = body.Close() // of another version
		}
		w.etag = ""
		return w.read(ctx) // from the beginning
	}
	if err != nil {
		return 0, err
	}
	defer body.Close()
	if had > 0 && info.Size != w.size-had { // of a service that knows no ranges
		w.data.Reset()
		had = 0
	}
	w.etag, w.size = info.ETag, had+info.Size
	if w.size > w.limit {
		return 0, fmt.Errorf("s3store: %s/%s: %w: %d bytes, at most %d expected", w.d, w.path, store.ErrTooLarge, w.size, w.limit)
	}
	brought, err = io.Copy(&w.data, io.LimitReader(w.d.limited(ctx, body), info.Size+1))
	if int64(w.data.Len()) == w.size {
		return brought, nil // whatever happened then: there is no rest to ask for
	}
	if err == nil {
		err = io.ErrUnexpectedEOF
	}
	return brought, w.d.cut(ctx, w.path, err)
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
	return p, d.again(ctx, func() (int64, error) { return 0, p.open() })
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
		if err := p.d.again(p.ctx, func() (int64, error) { return 0, p.open() }); err != nil {
			return 0, err
		}
	}
}

func (p *part) Close() error { return p.body.Close() }

// limited returns r, which is counted, and read no faster than the rate limit allows.
func (d *Dir) limited(ctx context.Context, r io.Reader) io.Reader {
	return readerFunc(func(b []byte) (int, error) {
		if d.limiter == nil {
			n, err := r.Read(b)
			d.flow.Arrived(n)
			return n, err
		}
		n, err := r.Read(b[:min(len(b), d.limiter.Burst())])
		d.flow.Arrived(n)
		if werr := d.limiter.WaitN(ctx, n); werr != nil {
			return n, werr
		}
		return n, err
	})
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }
