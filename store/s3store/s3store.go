// Package s3store keeps files in a bucket of an S3 service: those of a
// repository, and chunks.
//
// A file appears, or is replaced, by one request. What must not be replaced is
// written with If-None-Match: *, and what another writer may have replaced with
// If-Match: a service that does not heed these is found out by a trial before the
// first such request, and refused unless Options.SingleWriter says that there is
// nobody else.
package s3store

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"golang.org/x/time/rate"

	"github.com/ociv2-sync/ociv2-sync/store"
)

// Options say how a bucket is reached. The zero value is Amazon's service,
// without credentials.
type Options struct {
	// Endpoint is the URL of the service; "" means Amazon's.
	Endpoint string
	// Region of the bucket; "" has it asked for, at Amazon.
	Region string
	// PathStyle puts the bucket's name into the path of a URL, not the host.
	// Services other than the large ones get it so anyway.
	PathStyle bool
	// AccessKey, SecretKey and SessionToken are the credentials.
	AccessKey, SecretKey, SessionToken string
	// CredentialsFile, of the format of ~/.aws/credentials, and Profile in it, ""
	// for default, are used where there is no AccessKey. A machine at Amazon is
	// asked after that.
	CredentialsFile, Profile string
	// SingleWriter accepts a service that does not heed conditions.
	SingleWriter bool
	// Retries is how often a request is repeated; 0 means 5, negative never.
	Retries int
	// RateLimit is the most bytes received per second; 0 means no limit.
	RateLimit int64
	// TLS is that of HTTPS; nil means the default.
	TLS *tls.Config
}

var (
	// ErrURL reports what is not the URL of a bucket, or of a service.
	ErrURL = errors.New("not a bucket")
	// ErrConditions reports a service that replaces files whatever the condition.
	ErrConditions = errors.New("the service does not heed If-Match and If-None-Match, so two writers could lose each other's work")
)

// Dir is a bucket, or what begins with a prefix in it.
type Dir struct {
	client  *minio.Client
	core    minio.Core
	tr      *http.Transport
	bucket  string
	prefix  string // ends in a slash if it is not empty
	name    string
	opts    Options
	limiter *rate.Limiter // nil for no limit

	trial   sync.Mutex
	heedful bool
}

// Open returns the directory at s3://BUCKET[/PREFIX]. Call [Dir.Close] when done
// with it.
func Open(rawURL string, o Options) (*Dir, error) {
	u, err := url.Parse(rawURL)
	if err != nil || u.Scheme != "s3" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("s3store: %w: the URL of one is s3://BUCKET[/PREFIX]", ErrURL)
	}
	d := &Dir{bucket: u.Host, prefix: strings.Trim(u.Path, "/"), name: strings.TrimSuffix(rawURL, "/"), opts: o}
	if d.prefix != "" {
		d.prefix += "/"
	}
	at := &url.URL{Scheme: "https", Host: "s3.amazonaws.com"}
	if o.Endpoint != "" {
		at, err = url.Parse(o.Endpoint)
		if err != nil || at.Scheme != "http" && at.Scheme != "https" || at.Host == "" || strings.Trim(at.Path, "/") != "" || at.User != nil {
			return nil, fmt.Errorf("s3store: %w: the endpoint of a service is http(s)://HOST[:PORT]", ErrURL)
		}
		o.Region = cmp.Or(o.Region, "us-east-1")
	}
	if d.tr, err = minio.DefaultTransport(at.Scheme == "https"); err != nil {
		return nil, fmt.Errorf("s3store: %w", err)
	}
	if o.TLS != nil {
		d.tr.TLSClientConfig = o.TLS.Clone()
	}
	retries := max(cmp.Or(o.Retries, 5), 0)
	d.opts.Retries = retries
	if o.RateLimit > 0 {
		d.limiter = rate.NewLimiter(rate.Limit(o.RateLimit), int(min(max(o.RateLimit/8, 1<<10), 256<<10)))
	}
	mo := &minio.Options{
		Creds: o.credentials(), Secure: at.Scheme == "https", Transport: d.tr, Region: o.Region, MaxRetries: retries + 1,
	}
	if o.PathStyle {
		mo.BucketLookup = minio.BucketLookupPath
	}
	if d.client, err = minio.New(at.Host, mo); err != nil {
		return nil, fmt.Errorf("s3store: %w", err)
	}
	d.core = minio.Core{Client: d.client}
	return d, nil
}

func (o *Options) credentials() *credentials.Credentials {
	if o.AccessKey != "" {
		return credentials.NewStaticV4(o.AccessKey, o.SecretKey, o.SessionToken)
	}
	var chain []credentials.Provider
	if o.CredentialsFile != "" {
		chain = append(chain, &credentials.FileAWSCredentials{Filename: o.CredentialsFile, Profile: o.Profile})
	}
	if o.Endpoint == "" {
		chain = append(chain, &credentials.IAM{Client: &http.Client{Timeout: 2 * time.Second}})
	}
	if len(chain) == 0 {
		return credentials.NewStaticV4("", "", "")
	}
	return credentials.NewChainCredentials(chain)
}

// Close ends idle connections.
func (d *Dir) Close() error {
	d.tr.CloseIdleConnections()
	return nil
}

// String returns the URL.
func (d *Dir) String() string { return d.name }

func (d *Dir) key(path string) string {
	if path == "." {
		return d.prefix
	}
	return d.prefix + path
}

// fail names the file in an error of the service, which becomes one of package
// store's where there is one.
func (d *Dir) fail(ctx context.Context, path string, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	e := minio.ToErrorResponse(err)
	switch {
	case e.Code == "NoSuchBucket":
		err = fmt.Errorf("%w: there is no bucket %s", store.ErrNotFound, d.bucket)
	case e.Code == "NoSuchKey":
		err = store.ErrNotFound
	case e.StatusCode == http.StatusPreconditionFailed, e.Code == "ConditionalRequestConflict":
		err = store.ErrChanged
	case e.StatusCode >= 500 || e.StatusCode == 0 && e.Code == "" || e.StatusCode == http.StatusTooManyRequests:
		err = fmt.Errorf("%w: %w", store.ErrNetwork, err)
	}
	return fmt.Errorf("s3store: %s/%s: %w", d, path, err)
}

// again calls f until it does not fail by the network, with a wait in between.
func (d *Dir) again(ctx context.Context, f func() error) error {
	for n := 0; ; n++ {
		err := f()
		if n >= d.opts.Retries || !errors.Is(err, store.ErrNetwork) {
			return err
		}
		t := time.NewTimer(min(200*time.Millisecond<<min(n, 8), 30*time.Second))
		select {
		case <-ctx.Done():
			t.Stop()
			return context.Cause(ctx)
		case <-t.C:
		}
	}
}

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

// Stat returns the entry of a file.
func (d *Dir) Stat(ctx context.Context, path string) (store.Entry, error) {
	info, err := d.client.StatObject(ctx, d.bucket, d.key(path), minio.StatObjectOptions{})
	return store.Entry{Path: path, Size: info.Size, ModTime: info.LastModified}, d.fail(ctx, path, err)
}

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

// List returns what is in a directory: with deep the files below it at any
// depth, a thousand with each request, else its files and directories.
func (d *Dir) List(ctx context.Context, dir string, deep bool) iter.Seq2[store.Entry, error] {
	prefix := d.key(dir)
	if dir != "." {
		prefix += "/"
	}
	return func(yield func(store.Entry, error) bool) {
		lctx, cancel := context.WithCancel(ctx)
		defer cancel()
		for o := range d.client.ListObjectsIter(lctx, d.bucket, minio.ListObjectsOptions{Prefix: prefix, Recursive: deep}) {
			if o.Err != nil {
				yield(store.Entry{}, d.fail(ctx, dir, o.Err))
				return
			}
			e := store.Entry{Path: strings.TrimPrefix(o.Key, d.prefix), Size: o.Size, ModTime: o.LastModified}
			if name, isDir := strings.CutSuffix(e.Path, "/"); isDir {
				e = store.Entry{Path: name, Dir: true}
				if deep || name == dir {
					continue // a directory's own object, which some tools make
				}
			}
			if !yield(e, nil) {
				return
			}
		}
		if ctx.Err() != nil {
			yield(store.Entry{}, context.Cause(ctx))
		}
	}
}
