package ocisrc

import (
	"encoding/base64"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ociv2-sync/ociv2-sync/internal/testutil"
	"github.com/ociv2-sync/ociv2-sync/translate"
)

func TestParseDocker(t *testing.T) {
	for ref, want := range map[string]string{
		"//debian": "docker.io/library/debian:latest", "//a/b:1": "docker.io/a/b:1", "//localhost/a": "localhost/a:latest",
		"//h.example/a/b/c:x": "h.example/a/b/c:x", "//h:5000/a": "h:5000/a:latest",
		"//h.example/a@sha256:" + strings.Repeat("0", 64): "h.example/a@sha256:" + strings.Repeat("0", 64),
	} {
		if got, err := parseDocker(ref); err != nil || got.String() != want {
			t.Errorf("%s: %v, %v; want %s", ref, got, err, want)
		}
	}
	for _, ref := range []string{"", "//", "h/a", "//h.example/A", "//h.example/a:", "//h.example/a@sha256:0", "//h.example/../a", "//h.example/a?x"} {
		if got, err := parseDocker(ref); !errors.Is(err, ErrReference) {
			t.Errorf("%s: %v, %v", ref, got, err)
		}
	}
}

// TestRegistry copies an image with skopeo into a real registry that wants a password
// and opens it there.
func TestRegistry(t *testing.T) {
	testutil.Need(t, "skopeo")
	dir := t.TempDir()
	host := testutil.StartRegistry(t, "me", "secret")
	made := newLayout()
	made.tag("v1", made.image(t, "amd64", "file"))
	layout := made.write(t)
	run(t, "skopeo", "copy", "--dest-tls-verify=false", "--dest-creds", "me:secret", "oci:"+layout+":v1", "docker://"+host+"/team/app:v1")
	auth := filepath.Join(dir, "auth.json")
	must(t, os.WriteFile(auth, []byte(`{"auths":{"`+host+`":{"auth":"`+base64.StdEncoding.EncodeToString([]byte("me:secret"))+`"}}}`), 0o600))
	opts := Options{Registry: Registry{PlainHTTP: true, AuthFiles: []string{filepath.Join(dir, "none"), auth}}}
	local, err := Open(t.Context(), "oci:"+layout+":v1", Options{})
	must(t, err)
	defer local.Close()
	for _, ref := range []string{":v1", "@" + local.Info().ManifestDigest.String()} {
		img, err := Open(t.Context(), "docker://"+host+"/team/app"+ref, opts)
		must(t, err)
		src, err := translate.Merge(t.Context(), img, translate.MergeOptions{TempDir: dir})
		must(t, err)
		if string(img.Info().Config) != string(local.Info().Config) || img.Info().ManifestDigest != local.Info().ManifestDigest {
			t.Errorf("%s: another image, %s", ref, img.Info().ManifestDigest)
		}
		must(t, errors.Join(src.Close(), img.Close()))
	}
	if _, err := Open(t.Context(), "docker://"+host+"/team/app:v2", opts); !errors.Is(err, ErrNotFound) {
		t.Errorf("error %v", err)
	}
	if _, err := Open(t.Context(), "docker://"+host+"/team/app:v1", Options{Registry: Registry{PlainHTTP: true}}); err == nil || errors.Is(err, ErrNetwork) {
		t.Errorf("without a password: %v", err)
	}
	// A password is never sent in the clear unasked.
	if _, err := Open(t.Context(), "docker://"+host+"/team/app:v1", Options{Registry: Registry{AuthFiles: opts.Registry.AuthFiles}}); !errors.Is(err, ErrNetwork) {
		t.Errorf("over TLS: %v", err)
	}
}

func TestRegistryFails(t *testing.T) {
	requests := 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		requests++
		w.WriteHeader(http.StatusInternalServerError)
	}))
	ref := "docker://" + strings.TrimPrefix(s.URL, "http://") + "/a:1"
	opts := Options{Registry: Registry{PlainHTTP: true, Retries: 1}}
	if _, err := Open(t.Context(), ref, opts); !errors.Is(err, ErrNetwork) || requests != 2 {
		t.Errorf("after %d requests: %v", requests, err)
	}
	s.Close()
	if _, err := Open(t.Context(), ref, Options{Registry: Registry{PlainHTTP: true}}); !errors.Is(err, ErrNetwork) {
		t.Errorf("error %v", err)
	}
}
