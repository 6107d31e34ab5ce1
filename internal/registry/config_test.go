package registry

import (
	"encoding/base64"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ociv2-sync/ociv2-sync/internal/testutil"
)

const sampleConfig = `
unqualified-search-registries = ["docker.io"]
short-name-mode = "permissive"
[[registry]]
location = "docker.io"
[[registry.mirror]]
location = "mirror.example:5000/hub/"
insecure = true
[[registry.mirror]]
location = "digests.example"
pull-from-mirror = "digest-only"
[[registry.mirror]]
location = "tags.example"
pull-from-mirror = "tag-only"
[[registry]]
prefix = "docker.io/library"
location = "internal.example/base"
mirror-by-digest-only = true
[[registry.mirror]]
location = "near.example/base"
[[registry]]
prefix = "*.bad.example"
blocked = true
[[registry]]
prefix = "*.good.example"
insecure = true
[[registry]]
location = "port.example:5000/a/b"
`

func writeConfig(t testing.TB, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	must(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

func TestConfigEndpoints(t *testing.T) {
	c, err := readConfig([]string{"/nonexistent", writeConfig(t, "r.conf", sampleConfig)})
	must(t, err)
	const digest = "@sha256:0000000000000000000000000000000000000000000000000000000000000000"
	for ref, want := range map[string]string{
		"//a/b:1":                   "mirror.example:5000/hub/a/b! tags.example/a/b docker.io/a/b",
		"//a/b" + digest:            "mirror.example:5000/hub/a/b! digests.example/a/b docker.io/a/b",
		"//debian":                  "internal.example/base/debian",
		"//debian" + digest:         "near.example/base/debian internal.example/base/debian",
		"//libraryx/a":              "mirror.example:5000/hub/libraryx/a! tags.example/libraryx/a docker.io/libraryx/a",
		"//a.good.example/x":        "a.good.example/x!",
		"//good.example/x":          "good.example/x",
		"//other.example/x":         "other.example/x",
		"//x.bad.example.nz/x":      "x.bad.example.nz/x",
		"//a.bad.example/x":         "blocked",
		"//b.bad.example:1/x":       "blocked",
		"//port.example:5000/a/b/c": "port.example:5000/a/b/c",
	} {
		r, err := parse(ref)
		must(t, err)
		list, _, err := c.endpoints(r)
		if want == "blocked" {
			if !errors.Is(err, ErrDenied) || !strings.Contains(err.Error(), "r.conf blocks *.bad.example") {
				t.Errorf("%s: %v, %v", ref, list, err)
			}
			continue
		}
		must(t, err)
		var got []string
		for _, e := range list {
			name := e.Registry + "/" + e.Repository
			if e.insecure {
				name += "!"
			}
			got = append(got, name)
		}
		if !slices.Equal(got, strings.Fields(want)) {
			t.Errorf("%s: %q, want %q", ref, got, want)
		}
	}
	// What a later file says of a prefix counts, and its directory is read in order.
	dir := t.TempDir()
	must(t, os.WriteFile(dir+"/1.conf", []byte("[[registry]]\nlocation='docker.io'\nblocked=true"), 0o600))
	must(t, os.WriteFile(dir+"/2.conf", []byte("[[registry]]\nprefix='docker.io'\nlocation='second.example'"), 0o600))
	must(t, os.WriteFile(dir+"/3.other", []byte("no toml"), 0o600))
	c, err = readConfig([]string{writeConfig(t, "r.conf", sampleConfig), dir})
	must(t, err)
	r, err := parse("//a/b")
	must(t, err)
	if list, _, err := c.endpoints(r); err != nil || len(list) != 1 || list[0].Registry != "second.example" {
		t.Errorf("%v, %v", list, err)
	}
}

func TestConfigRefuses(t *testing.T) {
	for text, says := range map[string]string{
		"[[registry":                                        "r.conf",
		"[[registry]]\nblocked = true":                      "without prefix",
		"[[registry]]\nlocation = 'http://h.example'":       "no HOST",
		"[[registry]]\nlocation = 'h'\n[[registry.mirror]]": "mirror without location",
		"[registries.search]\nregistries = ['docker.io']":   "version 1",
		"[[registry]]\nlocation = 7":                        "r.conf",
		"[[registry]]\nlocation='h'\n[[registry.mirror]]\nlocation='m'\npull-from-mirror='x'": `pull-from-mirror = "x"`,
	} {
		_, err := Open("//h.example/a", Options{ConfigFiles: []string{writeConfig(t, "r.conf", text)}})
		if err == nil || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), "r.conf") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func FuzzConfig(f *testing.F) {
	f.Add(sampleConfig, "//a/b:1")
	f.Add("[[registry]]\nprefix='*.x'\nlocation='y/z'", "//a.x/b")
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text, ref string) {
		r, err := parse(ref)
		if err != nil {
			return
		}
		path := filepath.Join(dir, "r.conf")
		must(t, os.WriteFile(path, []byte(text), 0o600))
		c, err := readConfig([]string{path})
		if err != nil {
			return
		}
		if list, _, err := c.endpoints(r); err == nil && len(list) == 0 || err != nil && !errors.Is(err, ErrDenied) {
			t.Errorf("%v, %v", list, err)
		}
	})
}

// TestConfiguredRegistries reads from and writes to real registries that files alone
// say how to reach.
func TestConfiguredRegistries(t *testing.T) {
	cert := testutil.NewCertificate(t)
	plain := testutil.StartRegistry(t, testutil.RegistryOptions{User: "me", Password: "secret"})
	private := testutil.StartRegistry(t, testutil.RegistryOptions{TLS: cert})
	pem, err := os.ReadFile(cert.CertFile)
	must(t, err)
	certs := t.TempDir()
	must(t, os.Mkdir(filepath.Join(certs, private), 0o755))
	must(t, os.WriteFile(filepath.Join(certs, private, "ca.crt"), pem, 0o600))
	// Podman keeps what is for a part of a registry under the name of that part.
	login := func(password string) string { return base64.StdEncoding.EncodeToString([]byte("me:" + password)) }
	authFile := writeConfig(t, "auth.json", `{"auths":{"`+plain+`":{"auth":"`+login("wrong")+`"},"`+plain+`/team":{"auth":"`+login("secret")+`"}}}`)
	conf := writeConfig(t, "r.conf", `
[[registry]]
location = "`+plain+`"
insecure = true
[[registry]]
location = "hub.invalid"
[[registry.mirror]]
location = "127.0.0.1:1"
[[registry.mirror]]
location = "`+private+`/team"
[[registry]]
prefix = "unverified.invalid"
location = "`+private+`"
insecure = true
`)
	opts := Options{ConfigFiles: []string{conf}, CertDirs: []string{"/nonexistent", certs}, AuthFiles: []string{authFile}}
	unverified := opts
	unverified.CertDirs = nil
	for _, c := range []struct {
		put, get string
		opts     Options
	}{
		{"//" + plain + "/team/app:v1", "//" + plain + "/team/app:v1", opts},
		{"//" + private + "/team/app:v1", "//hub.invalid/app:v1", opts},
		{"", "//unverified.invalid/team/app:v1", unverified},
	} {
		if c.put != "" {
			r, err := Open(c.put, c.opts)
			must(t, err)
			if _, _, err := tiny(t, r, "content"); err != nil {
				t.Errorf("%s: %v", c.put, err)
			}
			must(t, r.Close())
		}
		r, err := Open(c.get, c.opts)
		must(t, err)
		if _, err := r.Resolve(t.Context()); err != nil {
			t.Errorf("%s: %v", c.get, err)
		}
		must(t, r.Close())
	}
	// A registry that is not said to be insecure is not trusted, nor spoken to in the clear.
	for _, ref := range []string{"//" + private + "/team/app:v1", "//" + plain + "/team/app:v1"} {
		o := unverified
		o.ConfigFiles = nil
		r, err := Open(ref, o)
		must(t, err)
		if _, err := r.Resolve(t.Context()); !errors.Is(err, ErrNetwork) {
			t.Errorf("%s: error %v", ref, err)
		}
		must(t, r.Close())
	}
	broken := t.TempDir()
	must(t, os.Mkdir(filepath.Join(broken, private), 0o755))
	must(t, os.WriteFile(filepath.Join(broken, private, "ca.crt"), []byte("none"), 0o600))
	o := opts
	o.CertDirs = []string{broken}
	r, err := Open("//"+private+"/team/app:v1", o)
	must(t, err)
	if _, err := r.Resolve(t.Context()); err == nil || !strings.Contains(err.Error(), "ca.crt has no certificate") {
		t.Errorf("error %v", err)
	}
	must(t, r.Close())
}
