package transfer

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/ociv2-sync/ociv2-sync/internal/registry"
	"github.com/ociv2-sync/ociv2-sync/internal/repo"
	"github.com/ociv2-sync/ociv2-sync/internal/stores"
	"github.com/ociv2-sync/ociv2-sync/internal/testutil"
	"github.com/ociv2-sync/ociv2-sync/store"
	"github.com/ociv2-sync/ociv2-sync/store/httpstore"
	"github.com/ociv2-sync/ociv2-sync/translate"
)

// listing makes of the registry at host, which knows nothing of referrers, one that
// lists them, in which nobody asks for the tag that else stands for them.
func listing(t *testing.T, host string) string {
	transport := &http.Transport{}
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: host})
	proxy.Transport = transport
	var mu sync.Mutex
	referrers := map[digest.Digest][]ocispec.Descriptor{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		dir, name := path.Split(r.URL.Path)
		switch {
		case strings.HasSuffix(dir, "/referrers/"):
			w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
			_ = json.NewEncoder(w).Encode(ocispec.Index{
				Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex,
				Manifests: append([]ocispec.Descriptor{}, referrers[digest.Digest(name)]...),
			})
			return
		case strings.HasPrefix(name, "sha256-"):
			t.Errorf("%s %s", r.Method, r.URL)
		case r.Method == http.MethodPut && strings.HasSuffix(dir, "/manifests/"):
			b, err := io.ReadAll(r.Body)
			must(t, err)
			r.Body = io.NopCloser(bytes.NewReader(b))
			var m ocispec.Manifest
			if json.Unmarshal(b, &m) == nil && m.Subject != nil {
				w.Header().Set("OCI-Subject", m.Subject.Digest.String())
				referrers[m.Subject.Digest] = append(referrers[m.Subject.Digest], ocispec.Descriptor{
					MediaType: m.MediaType, Digest: digest.FromBytes(b), Size: int64(len(b)), ArtifactType: m.ArtifactType,
				})
			}
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(transport.CloseIdleConnections)
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

// TestAttached attaches images in registries that list referrers and that do not, and
// has others say that they are attached too.
func TestAttached(t *testing.T) {
	host := testutil.StartRegistry(t, testutil.RegistryOptions{})
	dir := t.TempDir()
	tree, ref := pushTree(t, dir, 1)
	web := httptest.NewServer(http.FileServer(http.Dir(dir)))
	defer web.Close()
	client := httpstore.NewClient(httpstore.Options{})
	defer client.Close()
	at := web.URL + "/" + repo.StoreName
	for name, host := range map[string]string{"tag": host, "list": listing(t, host)} {
		t.Run(name, func(t *testing.T) {
			push := PushOptions{Registry: registry.Options{PlainHTTP: true}}
			source := "docker://" + host + "/team/" + name + ":v1"
			_, err := Convert(t.Context(), "rootfs:"+tree, mustDest(t, source), ConvertOptions{Pull: PullOptions{Registry: push.Registry}})
			must(t, err)
			image, err := ParseImage(source, push.Registry)
			must(t, err)
			var log bytes.Buffer
			prepare := func() (*repo.Image, error) {
				log.Reset()
				opts := newOptions(t)
				opts.Registry, opts.AllowStore, opts.Logger = push.Registry, true, slog.New(slog.NewTextHandler(&log, nil))
				p, err := Prepare(t.Context(), image, opts)
				if err != nil {
					return nil, err
				}
				return p.Image, p.Close()
			}
			pushed, err := Push(t.Context(), source, ref, push)
			must(t, err)
			to, err := registry.Open("//"+host+"/team/"+name, push.Registry)
			must(t, err)
			defer to.Close()
			clients := stores.Clients{}
			im, closer, err := openImage(t.Context(), ref, clients)
			must(t, err)
			defer closer.Close()
			subject, err := to.Describe(t.Context(), im.Manifest.Source)
			must(t, err)
			good := *im.Manifest
			good.Subject, good.Store = &subject, at
			text, err := good.Encode()
			must(t, err)
			other := digest.FromString("other").String()
			for _, blob := range []string{"{}", noConfig} {
				_, err := to.PutBlob(t.Context(), ocispec.Descriptor{Digest: digest.FromString(blob), Size: int64(len(blob))}, strings.NewReader(blob))
				must(t, err)
			}
			for _, d := range good.Blobs() { // a registry wants them to be there
				b, err := im.Files().ReadFile(t.Context(), im.BlobPath(d.Digest), d.Size)
				must(t, err)
				_, err = to.PutBlob(t.Context(), d, bytes.NewReader(b))
				must(t, err)
			}
			forge := func(old, new string) {
				t.Helper()
				bad := strings.Replace(string(text), old, new, 1)
				if bad == string(text) {
					t.Fatalf("no %s", old)
				}
				d := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString(bad), Size: int64(len(bad))}
				must(t, to.PutManifest(t.Context(), d, []byte(bad), false))
			}
			forgeries := func() (n int) {
				for _, c := range [][2]string{
					{`"io.github.ociv2-sync.source.digest":"` + subject.Digest.String(), `"io.github.ociv2-sync.source.digest":"` + other},
					{`"io.github.ociv2-sync.source.digest"`, `"source"`},
					{at, "../default.castr/"},
					{at, "file:///etc/"},
					{`"io.github.ociv2-sync.toc.size":"`, `"io.github.ociv2-sync.toc.size":"x`},
					{good.Config.Digest.String(), digest.FromString(noConfig).String()},
					{`"layers":[`, `"layers":[],"x":[`},
				} {
					forge(c[0], c[1])
					n++
				}
				return n
			}
			n := forgeries()
			if _, err := prepare(); !errors.Is(err, ErrNotAttached) || strings.Count(log.String(), "of no use") != n {
				t.Errorf("forgeries alone: %v, %s", err, log.String())
			}
			done, err := Attach(t.Context(), source, pushed, at, push)
			must(t, err)
			if got, err := prepare(); err != nil || got.Digest != done.Digest || got.Manifest.Subject.Digest != subject.Digest || log.Len() > 0 {
				t.Errorf("%v, %s", err, log.String())
			}
			forge(at, web.URL+"/none.castr")
			opts := newOptions(t)
			opts.Registry, opts.AllowStore, opts.Lenient = push.Registry, true, true
			opts.Clients = stores.Clients{HTTP: client}
			if _, err := Pull(t.Context(), image, opts, nil); !errors.Is(err, store.ErrNotFound) {
				t.Errorf("chunks that are not there: %v", err)
			}
			again, err := Attach(t.Context(), source, pushed, at+"/", push)
			must(t, err)
			got, err := Pull(t.Context(), image, opts, nil)
			must(t, err)
			if got.Digest != again.Digest || filepath.Base(got.Path) != "v1" {
				t.Errorf("pulled %+v", got)
			}
			built, err := filepath.EvalSymlinks(got.Path)
			must(t, err)
			testutil.CompareTrees(t, tree, built)
		})
	}
}

// noConfig is a config of no image.
const noConfig = `{"os":"linux"}`

func mustDest(t *testing.T, s string) Dest {
	t.Helper()
	d, err := ParseDest(s)
	must(t, err)
	return d
}

// TestCheckAttached compares manifests with the image that they are said to be of.
func TestCheckAttached(t *testing.T) {
	d, other := digest.FromString("image"), digest.FromString("other")
	info := &translate.ImageInfo{Config: []byte("{}"), ManifestDigest: d}
	good := translate.Manifest{
		Subject: &ocispec.Descriptor{Digest: d}, Source: d, Store: "https://cdn.example/x",
		Config: ocispec.Descriptor{Digest: digest.FromBytes(info.Config)},
	}
	must(t, checkAttached(&good, info))
	for name, change := range map[string]func(*translate.Manifest){
		"no subject":       func(m *translate.Manifest) { m.Subject = nil },
		"another subject":  func(m *translate.Manifest) { m.Subject = &ocispec.Descriptor{Digest: other} },
		"another source":   func(m *translate.Manifest) { m.Source = other },
		"another config":   func(m *translate.Manifest) { m.Config.Digest = other },
		"a relative store": func(m *translate.Manifest) { m.Store = "../default.castr" },
		"a store of ssh":   func(m *translate.Manifest) { m.Store = "ssh://h/x" },
	} {
		bad := good
		change(&bad)
		if err := checkAttached(&bad, info); !errors.Is(err, repo.ErrMismatch) && !errors.Is(err, repo.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
