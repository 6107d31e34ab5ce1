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
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/minio/minio-go/v7/pkg/s3utils"
	"golang.org/x/time/rate"

	"github.com/ociv2-sync/ociv2-sync/internal/flow"
	"github.com/ociv2-sync/ociv2-sync/store"
)

// Options say how a bucket is reached. The zero value is Amazon's service,
// without credentials.
type Options struct {
	// Endpoint is the URL of the service; "" means Amazon's.
	Endpoint string
	// Region of the bucket; "" has it asked for, at Amazon.
	Region string
	// PathStyle puts the bucket's name into the path of a URL, and VirtualHost before
	// the name of the host. Without either the large services get it there, and all
	// others in the path.
	PathStyle, VirtualHost bool
	// AccessKey, SecretKey and SessionToken are the credentials.
	AccessKey, SecretKey, SessionToken string
	// CredentialsFile, of the format of ~/.aws/credentials, and Profile in it, ""
	// for default, are used where there is no AccessKey.
	CredentialsFile, Profile string
	// Role has the machine, container or pod asked for the credentials of its role
	// where there are no others. What Amazon's variables of the environment say of
	// containers and pods holds.
	Role bool
	// Metadata is the URL of the service that is asked for the role of a machine; ""
	// means Amazon's.
	Metadata string
	// SingleWriter accepts a service that does not heed conditions.
	SingleWriter bool
	// Retries is how often a request is repeated; 0 means 5, negative never.
	Retries int
	// StallTimeout ends a request for a file in which nothing has moved for as long. 0
	// means 30 s.
	StallTimeout time.Duration
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
	tr      *http.Transport
	core    minio.Core      // reads files
	reads   *http.Transport // its own
	flow    *flow.Window    // what is read of whole files
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
		if !s3utils.IsAmazonEndpoint(*at) { // where the region follows from the name, or is asked for
			o.Region = cmp.Or(o.Region, "us-east-1")
		}
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
		Creds: o.credentials(d.tr), Secure: at.Scheme == "https", Transport: d.tr, Region: o.Region, MaxRetries: retries + 1,
	}
	switch {
	case o.PathStyle:
		mo.BucketLookup = minio.BucketLookupPath
	case o.VirtualHost:
		mo.BucketLookup = minio.BucketLookupDNS
	}
	if d.client, err = minio.New(at.Host, mo); err != nil {
		return nil, fmt.Errorf("s3store: %w", err)
	}
	stall := cmp.Or(o.StallTimeout, 30*time.Second)
	d.flow, d.reads = flow.New(mostFiles), d.tr.Clone()
	dialer := &net.Dialer{Timeout: stall}
	d.reads.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dialer.DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return flow.Stalling(conn, stall), nil
	}
	d.reads.MaxIdleConnsPerHost = d.reads.MaxIdleConns // or most are made for one request
	d.reads.MaxResponseHeaderBytes = maxHeaders
	once := *mo
	once.Transport, once.MaxRetries = d.reads, 2 // the second where the first tells the region
	reader, err := minio.New(at.Host, &once)
	if err != nil {
		return nil, fmt.Errorf("s3store: %w", err)
	}
	d.core = minio.Core{Client: reader}
	return d, nil
}

const (
	// mostFiles is how many files are read at a time: callers bound them before.
	mostFiles = 1024
	// maxHeaders is the most bytes of headers that an answer may have.
	maxHeaders   = 128 << 10
	firstWait    = 500 * time.Millisecond
	maxRetryWait = time.Minute
	// worthAsking is how much an attempt that is cut must have brought for the next to
	// follow at once.
	worthAsking = 1 << 10
)

func (o *Options) credentials(tr http.RoundTripper) *credentials.Credentials {
	if o.AccessKey != "" {
		return credentials.NewStaticV4(o.AccessKey, o.SecretKey, o.SessionToken)
	}
	var chain []credentials.Provider
	if o.CredentialsFile != "" {
		chain = append(chain, &credentials.FileAWSCredentials{Filename: o.CredentialsFile, Profile: o.Profile})
	}
	if o.Role {
		chain = append(chain, &credentials.IAM{Client: &http.Client{Transport: tr, Timeout: 2 * time.Second}, Endpoint: o.Metadata})
	}
	if len(chain) == 0 {
		return credentials.NewStaticV4("", "", "")
	}
	return credentials.NewChainCredentials(chain)
}

// Close ends idle connections.
func (d *Dir) Close() error {
	d.tr.CloseIdleConnections()
	d.reads.CloseIdleConnections()
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

// again calls f until it does not fail by the network. It waits in between, longer each
// time, but for what brought something: there, as each attempt brings more, it goes on
// at once, and begins to count anew.
func (d *Dir) again(ctx context.Context, f func() (brought int64, err error)) error {
	for n := 0; ; n++ {
		brought, err := f()
		if brought > 0 {
			n = 0
		}
		if n >= d.opts.Retries || !errors.Is(err, store.ErrNetwork) {
			return err
		}
		if brought >= worthAsking {
			continue
		}
		wait := min(firstWait<<min(n, 8), maxRetryWait)
		t := time.NewTimer(wait/2 + rand.N(wait/2))
		select {
		case <-ctx.Done():
			t.Stop()
			return context.Cause(ctx)
		case <-t.C:
		}
	}
}

// Stat returns the entry of a file.
func (d *Dir) Stat(ctx context.Context, path string) (store.Entry, error) {
	info, err := d.client.StatObject(ctx, d.bucket, d.key(path), minio.StatObjectOptions{})
	return store.Entry{Path: path, Size: info.Size, ModTime: info.LastModified}, d.fail(ctx, path, err)
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
