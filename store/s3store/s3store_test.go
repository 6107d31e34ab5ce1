package s3store_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/internal/repo"
	"github.com/ociv2-sync/ociv2-sync/internal/repo/repotest"
	"github.com/ociv2-sync/ociv2-sync/internal/testutil"
	"github.com/ociv2-sync/ociv2-sync/store"
	"github.com/ociv2-sync/ociv2-sync/store/filestore"
	"github.com/ociv2-sync/ociv2-sync/store/s3store"
	"github.com/ociv2-sync/ociv2-sync/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func options(endpoint string) s3store.Options {
	return s3store.Options{Endpoint: endpoint, AccessKey: testutil.S3AccessKey, SecretKey: testutil.S3SecretKey, Retries: -1}
}

func open(t *testing.T, where string, o s3store.Options) *s3store.Dir {
	t.Helper()
	d, err := s3store.Open(where, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

func put(t *testing.T, d *s3store.Dir, path, text string) {
	t.Helper()
	if err := d.Put(t.Context(), path, strings.NewReader(text), int64(len(text))); err != nil {
		t.Fatal(err)
	}
}

// A bucket of its own, and a prefix in one.
func TestSpace(t *testing.T) {
	s3 := testutil.StartS3(t, "bucket", "files")
	repotest.Run(t, func(t *testing.T) repo.Space {
		if strings.HasSuffix(t.Name(), "Files") {
			return open(t, "s3://files", options(s3))
		}
		return open(t, "s3://bucket/some/"+strings.ToLower(filepath.Base(t.Name())), options(s3))
	})
}

func TestStore(t *testing.T) {
	d := open(t, "s3://bucket/x", options(testutil.StartS3(t, "bucket")))
	for name, first := range map[string]bool{"asking": false, "listing": true} {
		t.Run(name, func(t *testing.T) {
			storetest.Run(t, func(t *testing.T, chunks map[chunk.ID]store.Packed) store.Store {
				fill := filestore.New(d, t.Name(), filestore.Options{})
				for id, p := range chunks {
					if err := fill.Put(t.Context(), id, p); err != nil {
						t.Fatal(err)
					}
				}
				return filestore.New(d, t.Name(), filestore.Options{ListFirst: first})
			})
		})
	}
}

// proxied is an S3 server behind one that does as it is told.
type proxied struct {
	url      string
	requests sync.Map // counts, by method
	// answer, if set, changes an answer.
	answer func(*http.Response) error
}

func proxy(t *testing.T, s3 string, p *proxied) *proxied {
	t.Helper()
	to, err := url.Parse(s3)
	if err != nil {
		t.Fatal(err)
	}
	tr := &http.Transport{}
	server := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			n, _ := p.requests.LoadOrStore(r.In.Method, new(atomic.Int64))
			n.(*atomic.Int64).Add(1)
			r.SetURL(to)
			r.Out.Host = r.In.Host // which is signed
		},
		ModifyResponse: func(r *http.Response) error {
			if p.answer != nil {
				return p.answer(r)
			}
			return nil
		},
		Transport: tr,
	})
	t.Cleanup(func() {
		server.Close()
		tr.CloseIdleConnections()
	})
	p.url = server.URL
	return p
}

func (p *proxied) count(method string) int64 {
	n, ok := p.requests.Load(method)
	if !ok {
		return 0
	}
	return n.(*atomic.Int64).Load()
}

// A service that does not heed conditions is found out before anything depends on
// it, and accepted if there is nobody else.
func TestConditions(t *testing.T) {
	s3 := testutil.StartS3(t, "bucket")
	// Conditions are signed and cannot be taken out: it is the refusal that is.
	heedless := proxy(t, s3, &proxied{answer: func(r *http.Response) error {
		if r.StatusCode == http.StatusPreconditionFailed { // it says it has done it all the same
			r.StatusCode, r.Status = http.StatusOK, "200 OK"
			r.Body.Close()
			r.Body, r.ContentLength = http.NoBody, 0
			r.Header.Set("Content-Length", "0")
			r.Header.Set("ETag", `"00000000000000000000000000000001"`)
		}
		return nil
	}})
	d := open(t, "s3://bucket/r", options(heedless.url))
	for name, f := range map[string]func() error{
		"create": func() error { return d.Create(t.Context(), "x", []byte("x")) },
		"swap":   func() error { return d.Swap(t.Context(), "x", []byte("x"), "") },
	} {
		if err := f(); !errors.Is(err, s3store.ErrConditions) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for e, err := range d.List(t.Context(), ".", true) {
		t.Errorf("left %+v, %v", e, err)
	}
	o := options(heedless.url)
	o.SingleWriter = true
	alone := open(t, "s3://bucket/r", o)
	for i, want := range []error{nil, store.ErrExists} {
		if err := alone.Create(t.Context(), "x", []byte("x")); !errors.Is(err, want) {
			t.Errorf("create %d: %v", i, err)
		}
	}
	if err := alone.Swap(t.Context(), "x", []byte("y"), "whatever"); err != nil {
		t.Error(err)
	}
	if err := repotest.Push(t.Context(), alone, "app:1", repotest.Publication(t, alone, "x")); err != nil {
		t.Error(err)
	}
}

// What an answer lacks is requested; what is never complete is an error.
func TestCuts(t *testing.T) {
	s3 := testutil.StartS3(t, "bucket")
	want := strings.Repeat("0123456789", 10_000)
	put(t, open(t, "s3://bucket", options(s3)), "file", want)
	var always atomic.Bool
	var n atomic.Int64
	cutting := proxy(t, s3, &proxied{answer: func(r *http.Response) error {
		if r.Request.Method == http.MethodGet && (always.Load() || n.Add(1)%3 != 0) {
			limit := int64(30_000)
			if always.Load() {
				limit = 0
			}
			r.Body = struct {
				io.Reader
				io.Closer
			}{io.LimitReader(r.Body, limit), r.Body}
		}
		return nil
	}})
	o := options(cutting.url)
	o.Retries = 4
	d := open(t, "s3://bucket", o)
	if b, err := d.ReadFile(t.Context(), "file", 1<<20); err != nil || string(b) != want {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	r, err := d.OpenAt(t.Context(), "file", 5, int64(len(want))-5)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(r)
	if err = errors.Join(err, r.Close()); err != nil || string(b) != want[5:] {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	always.Store(true)
	o.Retries = 1
	d = open(t, "s3://bucket", o)
	if b, err := d.ReadFile(t.Context(), "file", 1<<20); !errors.Is(err, store.ErrNetwork) {
		t.Errorf("%d bytes, %v", len(b), err)
	}
}

// Over a link that lets little through at a time a file comes nevertheless, no byte of
// it twice; one that is replaced meanwhile comes as it is then.
func TestResume(t *testing.T) {
	s3 := testutil.StartS3(t, "bucket")
	want, next := strings.Repeat("0123456789", 10_000), strings.Repeat("abcdefghij", 9_000)
	direct := open(t, "s3://bucket", options(s3))
	put(t, direct, "file", want)
	var moved, gets, replaceAt atomic.Int64
	cutting := proxy(t, s3, &proxied{answer: func(r *http.Response) error {
		if r.Request.Method != http.MethodGet || r.StatusCode >= 300 {
			return nil
		}
		if gets.Add(1) == replaceAt.Load() {
			put(t, direct, "file", next)
		}
		moved.Add(min(r.ContentLength, 16_000))
		r.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(r.Body, 16_000), r.Body}
		return nil
	}})
	o := options(cutting.url)
	o.Retries = 1
	d := open(t, "s3://bucket", o)
	if b, err := d.ReadFile(t.Context(), "file", 1<<20); err != nil || string(b) != want || moved.Load() != int64(len(want)) {
		t.Errorf("%d bytes of %d that came, %v", len(b), moved.Load(), err)
	}
	gets.Store(0)
	replaceAt.Store(3)
	if b, err := d.ReadFile(t.Context(), "file", 1<<20); err != nil || string(b) != next {
		t.Errorf("%d bytes of a file that is replaced, %v", len(b), err)
	}
}

// A service that does not answer, or stops, is asked again.
func TestStall(t *testing.T) {
	s3 := testutil.StartS3(t, "bucket")
	put(t, open(t, "s3://bucket", options(s3)), "file", "contents")
	var n atomic.Int64
	slow := proxy(t, s3, &proxied{answer: func(r *http.Response) error {
		if n.Add(1) == 1 {
			r.Body = struct {
				io.Reader
				io.Closer
			}{io.MultiReader(io.LimitReader(r.Body, 3), stuck{r.Request.Context()}), r.Body}
		}
		return nil
	}})
	o := options(slow.url)
	o.Retries, o.StallTimeout = 1, 200*time.Millisecond
	if b, err := open(t, "s3://bucket", o).ReadFile(t.Context(), "file", 1<<20); err != nil || string(b) != "contents" || n.Load() < 2 {
		t.Errorf("%q after %d requests, %v", b, n.Load(), err)
	}
}

// stuck brings nothing until whoever waits for it has gone.
type stuck struct{ ctx context.Context } //nolint:containedctx // of the request that waits

func (s stuck) Read([]byte) (int, error) {
	<-s.ctx.Done()
	return 0, s.ctx.Err()
}

// A push asks once for what is there, not for each chunk.
func TestListedOnce(t *testing.T) {
	p := proxy(t, testutil.StartS3(t, "bucket"), &proxied{})
	s := filestore.New(open(t, "s3://bucket", options(p.url)), "x.castr", filestore.Options{ListFirst: true})
	chunks := storetest.Chunks(30)
	var ids []chunk.ID
	for id := range chunks {
		ids = append(ids, id)
	}
	missing, err := s.Missing(t.Context(), ids)
	if err != nil || len(missing) != len(ids) {
		t.Fatalf("%d of %d are missing, %v", len(missing), len(ids), err)
	}
	for id, c := range chunks {
		if err := s.Put(t.Context(), id, c); err != nil {
			t.Fatal(err)
		}
		if n, err := s.StoredSize(t.Context(), id); err != nil || n != int64(len(c.Data)) {
			t.Errorf("%d bytes, %v", n, err)
		}
	}
	if gets, heads := p.count("GET"), p.count("HEAD"); gets != 1 || heads != 0 {
		t.Errorf("%d GET, %d HEAD", gets, heads)
	}
	if puts := p.count("PUT"); puts != int64(len(ids))+3 { // three of the trial
		t.Errorf("%d PUT for %d chunks", puts, len(ids))
	}
}

// Credentials come from where they are to be had; what is wrong with them is told.
func TestCredentials(t *testing.T) {
	s3 := testutil.StartS3(t, "bucket")
	put(t, open(t, "s3://bucket", options(s3)), "file", "x")
	file := filepath.Join(t.TempDir(), "credentials")
	text := fmt.Sprintf("[default]\naws_access_key_id = %[1]s\naws_secret_access_key = wrong\n[ok]\naws_access_key_id = %[1]s\naws_secret_access_key = %[2]s\n", testutil.S3AccessKey, testutil.S3SecretKey)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	// What a machine at Amazon asks for the role that it has.
	metadata := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch path := "/latest/meta-data/iam/security-credentials/"; r.URL.Path {
		case path:
			fmt.Fprint(w, "role")
		case path + "role":
			fmt.Fprintf(w, `{"Code":"Success","AccessKeyId":%q,"SecretAccessKey":%q,"Expiration":"2100-01-01T00:00:00Z"}`, testutil.S3AccessKey, testutil.S3SecretKey)
		default:
			fmt.Fprint(w, "token")
		}
	}))
	t.Cleanup(metadata.Close)
	with := func(change func(*s3store.Options)) s3store.Options {
		o := options(s3)
		change(&o)
		return o
	}
	for name, c := range map[string]struct {
		o         s3store.Options
		code, key string // of the refusal
	}{
		"file":      {s3store.Options{CredentialsFile: file, Profile: "ok"}, "", ""},
		"role":      {s3store.Options{CredentialsFile: file + "x", Role: true, Metadata: metadata.URL}, "", ""},
		"wrong":     {s3store.Options{CredentialsFile: file}, "SignatureDoesNotMatch", testutil.S3AccessKey},
		"anonymous": {s3store.Options{}, "AccessDenied", ""},
		"half":      {s3store.Options{AccessKey: testutil.S3AccessKey}, "AccessDenied", ""},
		"secret":    {s3store.Options{AccessKey: testutil.S3AccessKey, SecretKey: "wrong"}, "SignatureDoesNotMatch", testutil.S3AccessKey},
		"region":    {with(func(o *s3store.Options) { o.Region = "eu-west-7" }), "AuthorizationHeaderMalformed", testutil.S3AccessKey},
	} {
		c.o.Endpoint, c.o.Retries = s3, 3
		start := time.Now()
		_, err := open(t, "s3://bucket", c.o).ReadFile(t.Context(), "file", 1)
		e, refused := errors.AsType[*s3store.RefusedError](err)
		if err != nil && !refused || refused && (e.Code != c.code || e.AccessKey != c.key) || !refused && c.code != "" {
			t.Errorf("%s: %v (%+v)", name, err, e)
		}
		if d := time.Since(start); d > 3*time.Second {
			t.Errorf("%s: it was tried for %v", name, d)
		}
	}
}

// A refusal to write names the directory, not the file that the trial would make.
func TestReadOnly(t *testing.T) {
	s3 := testutil.StartS3(t, "bucket")
	p := proxy(t, s3, &proxied{answer: func(r *http.Response) error {
		if r.Request.Method == http.MethodPut {
			r.StatusCode = http.StatusForbidden
			r.Body.Close()
			r.Body, r.ContentLength = http.NoBody, 0
			r.Header.Set("Content-Length", "0")
		}
		return nil
	}})
	d := open(t, "s3://bucket/r", options(p.url))
	for name, f := range map[string]func() error{
		"create": func() error { return d.Create(t.Context(), "x", []byte("x")) },
		"swap":   func() error { return d.Swap(t.Context(), "x", []byte("x"), "") },
	} {
		err := f()
		if e, ok := errors.AsType[*s3store.RefusedError](err); !ok || e.AccessKey != testutil.S3AccessKey || strings.Contains(err.Error(), "trial") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The bucket is named in the host, too.
func TestVirtualHost(t *testing.T) {
	s3 := testutil.StartS3(t, "bucket")
	at, err := url.Parse(s3)
	if err != nil {
		t.Fatal(err)
	}
	o := options("http://" + testutil.S3Domain + ":" + at.Port())
	o.VirtualHost = true
	d := open(t, "s3://bucket/a", o)
	d.DialAt(at.Host)
	put(t, d, "file", "x")
	if err := d.Create(t.Context(), "new", []byte("x")); err != nil {
		t.Error(err)
	}
	// As another sees it, who asks by the path.
	var got []string
	for e, err := range open(t, "s3://bucket", options(s3)).List(t.Context(), ".", true) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, e.Path)
	}
	if !slices.Equal(got, []string{"a/file", "a/new"}) {
		t.Errorf("there is %q", got)
	}
}

func TestRefuses(t *testing.T) {
	for _, where := range []string{"s3://", "s3:///x", "http://bucket", "s3://key:secret@bucket/x", "s3://bucket/x?y"} {
		if _, err := s3store.Open(where, s3store.Options{}); !errors.Is(err, s3store.ErrURL) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", where, err)
		}
	}
	for _, endpoint := range []string{"host:9000", "ftp://host", "http://host/path", "http://me:secret@host"} {
		if _, err := s3store.Open("s3://bucket", s3store.Options{Endpoint: endpoint}); !errors.Is(err, s3store.ErrURL) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", endpoint, err)
		}
	}
	s3 := testutil.StartS3(t, "bucket")
	_, err := open(t, "s3://nobucket", options(s3)).ReadFile(t.Context(), "x", 1)
	if !errors.Is(err, store.ErrNotFound) || !strings.Contains(err.Error(), "no bucket nobucket") {
		t.Errorf("no bucket: %v", err)
	}
	for e, err := range open(t, "s3://nobucket", options(s3)).List(t.Context(), ".", true) {
		if !errors.Is(err, store.ErrNotFound) {
			t.Errorf("no bucket: %+v, %v", e, err)
		}
	}
	l := httptest.NewServer(nil)
	l.Close()
	if _, err := open(t, "s3://bucket", options(l.URL)).ReadFile(t.Context(), "x", 1); !errors.Is(err, store.ErrNetwork) {
		t.Errorf("no server: %v", err)
	}
}
