package registry

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/goleak"

	"github.com/ociv2-sync/ociv2-sync/internal/testutil"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestParse(t *testing.T) {
	for ref, want := range map[string]string{
		"//debian": "docker.io/library/debian:latest", "//a/b:1": "docker.io/a/b:1", "//localhost/a": "localhost/a:latest",
		"//h.example/a/b/c:x": "h.example/a/b/c:x", "//h:5000/a": "h:5000/a:latest",
		"//h.example/a@sha256:" + strings.Repeat("0", 64): "h.example/a@sha256:" + strings.Repeat("0", 64),
	} {
		if got, err := parse(ref); err != nil || got.String() != want {
			t.Errorf("%s: %v, %v; want %s", ref, got, err, want)
		}
	}
	for _, ref := range []string{"", "//", "h/a", "//h.example/A", "//h.example/a:", "//h.example/a@sha256:0", "//h.example/../a", "//h.example/a?x"} {
		if got, err := parse(ref); !errors.Is(err, ErrReference) {
			t.Errorf("%s: %v, %v", ref, got, err)
		}
	}
	if err := CheckTarget("//h.example/a:b"); err != nil {
		t.Error(err)
	}
	if err := CheckTarget("//h.example/a@sha256:" + strings.Repeat("0", 64)); !errors.Is(err, ErrReference) {
		t.Error(err)
	}
}

func TestParseMirror(t *testing.T) {
	for s, want := range map[string]Mirror{
		"docker.io=m.example":                       {"docker.io", "m.example", false},
		"h.example:5000=http://127.0.0.1:5000/a/b/": {"h.example:5000", "127.0.0.1:5000/a/b", true},
		"h=https://m":                               {"h", "m", false},
	} {
		if got, err := ParseMirror(s); err != nil || got != want {
			t.Errorf("%s: %v, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "h", "h=", "=m", "h=m/A", "h=ftp://m", "h/a=m"} {
		if got, err := ParseMirror(s); !errors.Is(err, ErrReference) {
			t.Errorf("%s: %v, %v", s, got, err)
		}
	}
}

// tiny is a manifest of one small layer, put under the tag of a repository.
func tiny(t testing.TB, r *Repository, content string) (layer, manifest ocispec.Descriptor, err error) {
	t.Helper()
	describe := func(mediaType string, b []byte) ocispec.Descriptor {
		return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	}
	layer = describe(ocispec.MediaTypeImageLayer, []byte(content))
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: ocispec.DescriptorEmptyJSON, Layers: []ocispec.Descriptor{layer},
	}
	b, err := json.Marshal(m)
	must(t, err)
	manifest = describe(m.MediaType, b)
	if _, err := r.PutBlob(t.Context(), layer, strings.NewReader(content)); err != nil {
		return layer, manifest, err
	}
	if _, err := r.PutBlob(t.Context(), m.Config, strings.NewReader("{}")); err != nil {
		return layer, manifest, err
	}
	return layer, manifest, r.PutManifest(t.Context(), manifest, b, true)
}

// TestAuth puts and reads an image in real registries that want to know who asks.
func TestAuth(t *testing.T) {
	dir := t.TempDir()
	password := func(name, host string) string {
		path := filepath.Join(dir, name)
		must(t, os.WriteFile(path, []byte(`{"auths":{"`+host+`":{"auth":"`+base64.StdEncoding.EncodeToString([]byte("me:secret"))+`"}}}`), 0o600))
		return path
	}
	helper := func(host string) string {
		script := "#!/bin/sh\nread host\n[ \"$1 $host\" = 'get " + host + "' ] && echo '{\"ServerURL\":\"'$host'\",\"Username\":\"me\",\"Secret\":\"secret\"}'\n"
		must(t, os.WriteFile(filepath.Join(dir, "docker-credential-x"), []byte(script), 0o755))
		t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
		path := filepath.Join(dir, "helper")
		must(t, os.WriteFile(path, []byte(`{"credHelpers":{"`+host+`":"x"}}`), 0o600))
		return path
	}
	tokens := testutil.StartTokenServer(t, "me", "secret")
	cert := testutil.NewCertificate(t)
	pool := x509.NewCertPool()
	pem, err := os.ReadFile(cert.CertFile)
	must(t, err)
	pool.AppendCertsFromPEM(pem)

	basic := testutil.StartRegistry(t, testutil.RegistryOptions{User: "me", Password: "secret"})
	bearer := testutil.StartRegistry(t, testutil.RegistryOptions{Tokens: tokens})
	private := testutil.StartRegistry(t, testutil.RegistryOptions{TLS: cert})
	absent := filepath.Join(dir, "absent")
	for name, c := range map[string]struct {
		host string
		opts Options
		read bool // by whom has no credentials
	}{
		"basic":             {basic, Options{PlainHTTP: true, AuthFiles: []string{absent, password("basic", basic)}}, false},
		"credential helper": {basic, Options{PlainHTTP: true, AuthFiles: []string{helper(basic)}}, false},
		"bearer":            {bearer, Options{PlainHTTP: true, AuthFiles: []string{password("bearer", bearer)}}, true},
		"private authority": {private, Options{TLS: &tls.Config{RootCAs: pool}}, true},
	} {
		ref := "//" + c.host + "/team/app:v1"
		r, err := Open(ref, c.opts)
		must(t, err)
		layer, manifest, err := tiny(t, r, name)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		there, err := r.PutBlob(t.Context(), layer, strings.NewReader("not read"))
		if err != nil || !there {
			t.Errorf("%s: sent again: %v", name, err)
		}
		must(t, r.Close())
		nobody := c.opts
		nobody.AuthFiles = nil
		for _, opts := range []Options{c.opts, nobody} {
			r, err := Open(ref, opts)
			must(t, err)
			d, err := r.Resolve(t.Context())
			var got []byte
			if err == nil {
				var rc io.ReadCloser
				if rc, err = r.Fetch(t.Context(), layer); err == nil {
					got, err = io.ReadAll(rc)
					must(t, rc.Close())
				}
			}
			if may := c.read || opts.AuthFiles != nil; may != (err == nil) || may && (string(got) != name || d.Digest != manifest.Digest) {
				t.Errorf("%s, credentials %v: %q, %v", name, opts.AuthFiles, got, err)
			}
			if opts.AuthFiles == nil && c.host != private {
				if _, _, err := tiny(t, r, "other"); !errors.Is(err, ErrDenied) {
					t.Errorf("%s: who is nobody writes: %v", name, err)
				}
			}
			must(t, r.Close())
		}
	}
	if tokens.Given.Load() == 0 {
		t.Error("no token was asked for")
	}
	// Without its authority it is not trusted, and nothing is ever sent in the clear
	// unasked, a password least of all.
	for host, opts := range map[string]Options{
		private: {}, basic: {AuthFiles: []string{filepath.Join(dir, "basic")}},
	} {
		r, err := Open("//"+host+"/team/app:v1", opts)
		must(t, err)
		if _, err := r.Resolve(t.Context()); !errors.Is(err, ErrNetwork) {
			t.Errorf("%s: %v", host, err)
		}
		must(t, r.Close())
	}
}

// fake is a registry with one blob, which it cuts every step bytes; dead ones answer
// with an error.
type fake struct {
	blob   []byte
	step   int
	ranges bool
	dead   atomic.Bool
	sent   atomic.Int64
	asked  atomic.Int64
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.asked.Add(1)
	from := 0
	if f.dead.Load() {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	status := http.StatusOK
	first, _, _ := strings.Cut(strings.TrimPrefix(r.Header.Get("Range"), "bytes="), "-")
	if n, err := strconv.Atoi(first); err == nil && f.ranges {
		from, status = n, http.StatusPartialContent
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(f.blob)-1, len(f.blob)))
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(f.blob)-from))
	w.WriteHeader(status)
	n, _ := w.Write(f.blob[from:min(from+f.step, len(f.blob))])
	f.sent.Add(int64(n))
}

func (f *fake) start(t testing.TB) (host string) {
	s := httptest.NewServer(f)
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

func TestFetchGoesOn(t *testing.T) {
	blob := bytes.Repeat([]byte("0123456789"), 20000)
	d := ocispec.Descriptor{MediaType: "application/octet-stream", Digest: digest.FromBytes(blob), Size: int64(len(blob))}
	read := func(host string, opts Options) ([]byte, error) {
		opts.PlainHTTP = true
		r, err := Open("//"+host+"/a:1", opts)
		must(t, err)
		defer r.Close()
		rc, err := r.Fetch(t.Context(), d)
		if err != nil {
			return nil, err
		}
		defer rc.Close()
		return io.ReadAll(rc)
	}
	cut := &fake{blob: blob, step: 90000, ranges: true}
	got, err := read(cut.start(t), Options{Retries: 1})
	if err != nil || !bytes.Equal(got, blob) || cut.sent.Load() != d.Size || cut.asked.Load() != 3 {
		t.Errorf("%d bytes, %v, after %d bytes in %d requests", len(got), err, cut.sent.Load(), cut.asked.Load())
	}
	// One that knows no ranges never gets further.
	if _, err := read((&fake{blob: blob, step: 90000}).start(t), Options{Retries: 1}); !errors.Is(err, ErrNetwork) {
		t.Errorf("error %v", err)
	}
	// A mirror that dies on the way, and one that is dead from the start.
	whole := &fake{blob: blob, step: len(blob), ranges: true}
	dying, dead := &fake{blob: blob, step: 90000}, &fake{}
	dead.dead.Store(true)
	host := whole.start(t)
	mirrors := []Mirror{{Host: host, At: dead.start(t)}, {Host: host, At: dying.start(t) + "/copies"}}
	r, err := Open("//"+host+"/a:1", Options{PlainHTTP: true, Mirrors: mirrors, Retries: 2})
	must(t, err)
	defer r.Close()
	rc, err := r.Fetch(t.Context(), d)
	must(t, err)
	defer rc.Close()
	dying.dead.Store(true)
	got, err = io.ReadAll(rc)
	if err != nil || !bytes.Equal(got, blob) || whole.sent.Load() != d.Size-90000 {
		t.Errorf("%d bytes, %v, %d of them from the registry", len(got), err, whole.sent.Load())
	}
}

// TestFetchAt reads a part of a blob, also where that is cut and where there are no ranges.
func TestFetchAt(t *testing.T) {
	blob := bytes.Repeat([]byte("0123456789"), 20000)
	var traffic Traffic
	for name, f := range map[string]*fake{
		"ranges": {blob: blob, step: 90000, ranges: true}, "none": {blob: blob, step: len(blob)},
	} {
		r, err := Open("//"+f.start(t)+"/a:1", Options{PlainHTTP: true, Retries: 1, Traffic: &traffic})
		must(t, err)
		defer r.Close()
		for _, part := range [][2]int64{{0, 5}, {7, 100}, {33, 150000}, {199990, 10}} {
			rc, err := r.FetchAt(t.Context(), digest.FromBytes(blob), part[0], part[1])
			must(t, err)
			got, err := io.ReadAll(rc)
			must(t, errors.Join(err, rc.Close()))
			if !bytes.Equal(got, blob[part[0]:part[0]+part[1]]) {
				t.Errorf("%s: %d bytes from %d", name, len(got), part[0])
			}
		}
	}
	if n := traffic.Requests.Load(); n != 9 || traffic.Bytes.Load() < 300000 {
		t.Errorf("counted %d requests, %d bytes", n, traffic.Bytes.Load())
	}
}

func TestRateLimit(t *testing.T) {
	f := &fake{blob: make([]byte, 60000), step: 60000}
	r, err := Open("//"+f.start(t)+"/a:1", Options{PlainHTTP: true, RateLimit: 100000})
	must(t, err)
	defer r.Close()
	start := time.Now()
	rc, err := r.Fetch(t.Context(), ocispec.Descriptor{Digest: digest.FromBytes(f.blob), Size: 60000})
	must(t, err)
	_, err = io.Copy(io.Discard, rc)
	must(t, errors.Join(err, rc.Close()))
	if took := time.Since(start); took < 400*time.Millisecond {
		t.Errorf("it took %v", took)
	}
}

func TestFails(t *testing.T) {
	f := &fake{}
	f.dead.Store(true)
	s := httptest.NewServer(f)
	open := func(retries int) error {
		r, err := Open("//"+strings.TrimPrefix(s.URL, "http://")+"/a:1", Options{PlainHTTP: true, Retries: retries})
		must(t, err)
		defer r.Close()
		_, err = r.Resolve(t.Context())
		return err
	}
	if err := open(1); !errors.Is(err, ErrNetwork) || f.asked.Load() != 2 {
		t.Errorf("after %d requests: %v", f.asked.Load(), err)
	}
	s.Close()
	if err := open(0); !errors.Is(err, ErrNetwork) {
		t.Errorf("error %v", err)
	}
}

// TestNoRealm meets registries that ask for a token and do not say where to get one: they
// are asked once.
func TestNoRealm(t *testing.T) {
	for challenge, want := range map[string]string{
		`Bearer service="x"`: errNoRealm.Error(), `Bearer realm="",service="x"`: errNoRealm.Error(),
		`Bearer realm="/token"`: `realm "/token"`, `Bearer realm="file:///etc/passwd"`: `realm "file:///etc/passwd"`,
	} {
		var asked atomic.Int64
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			asked.Add(1)
			w.Header().Set("WWW-Authenticate", challenge)
			w.WriteHeader(http.StatusUnauthorized)
		}))
		r, err := Open("//"+strings.TrimPrefix(s.URL, "http://")+"/a:1", Options{PlainHTTP: true, Retries: 3})
		must(t, err)
		if _, err := r.Resolve(t.Context()); err == nil || !strings.Contains(err.Error(), want) || errors.Is(err, ErrNetwork) || asked.Load() != 1 {
			t.Errorf("%s: after %d requests: %v", challenge, asked.Load(), err)
		}
		must(t, r.Close())
		s.Close()
	}
}
