package ocisrc

import (
	"encoding/base64"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/ociv2-sync/ociv2-sync/internal/registry"
	"github.com/ociv2-sync/ociv2-sync/internal/testutil"
	"github.com/ociv2-sync/ociv2-sync/translate"
)

// TestRegistry copies an image with skopeo into a real registry that wants a password
// and opens it there.
func TestRegistry(t *testing.T) {
	testutil.Need(t, "skopeo")
	dir := t.TempDir()
	host := testutil.StartRegistry(t, testutil.RegistryOptions{User: "me", Password: "secret"})
	made := newLayout()
	made.tag("v1", made.image(t, "amd64", "file"))
	layout := made.write(t)
	run(t, "skopeo", "copy", "--dest-tls-verify=false", "--dest-creds", "me:secret", "oci:"+layout+":v1", "docker://"+host+"/team/app:v1")
	auth := filepath.Join(dir, "auth.json")
	must(t, os.WriteFile(auth, []byte(`{"auths":{"`+host+`":{"auth":"`+base64.StdEncoding.EncodeToString([]byte("me:secret"))+`"}}}`), 0o600))
	opts := Options{Registry: registry.Options{PlainHTTP: true, AuthFiles: []string{filepath.Join(dir, "none"), auth}}}
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
	if _, err := Open(t.Context(), "docker://"+host+"/team/app:v1", Options{Registry: registry.Options{PlainHTTP: true}}); err == nil || errors.Is(err, registry.ErrNetwork) {
		t.Errorf("without a password: %v", err)
	}
	// A password is never sent in the clear unasked.
	if _, err := Open(t.Context(), "docker://"+host+"/team/app:v1", Options{Registry: registry.Options{AuthFiles: opts.Registry.AuthFiles}}); !errors.Is(err, registry.ErrNetwork) {
		t.Errorf("over TLS: %v", err)
	}
}
