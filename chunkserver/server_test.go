package chunkserver_test

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/chunkserver"
	"github.com/ociv2-sync/ociv2-sync/internal/testutil"
	"github.com/ociv2-sync/ociv2-sync/store"
	"github.com/ociv2-sync/ociv2-sync/store/httpstore"
	"github.com/ociv2-sync/ociv2-sync/store/local"
	"github.com/ociv2-sync/ociv2-sync/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve serves dir and returns the URL.
func serve(t *testing.T, dir string) string {
	t.Helper()
	h, err := chunkserver.New(dir, chunkserver.Options{})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(h)
	t.Cleanup(func() {
		server.Close()
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return server.URL
}

// get makes a request and returns the response with its body.
func get(t *testing.T, method, url string, header ...string) (*http.Response, string) {
	t.Helper()
	resp := open(t, method, url, header...)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(b)
}

// open is get with the body left to be read.
func open(t *testing.T, method, url string, header ...string) *http.Response {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	tr := &http.Transport{DisableKeepAlives: true}
	resp, err := tr.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

const hex64 = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// repository makes a directory with what a repository has and what may lie
// beside it.
func repository(t *testing.T) string {
	t.Helper()
	top := t.TempDir()
	dir := filepath.Join(top, "repo")
	for _, name := range []string{
		"../secret.json", "catalog.json", "default.castr/0123/" + hex64 + ".cacnk", "default.castr/0123/" + hex64,
		"team/app/latest.json", "team/app/latest.caidx", "team/app/oci-layout", "team/app/index.json", "team/app/blobs/sha256/" + hex64,
		".hidden.json", ".git/x.json", "team/app/.lock", "team/app/latest.json.tmp", "default.castr/0123/" + hex64 + ".Q.tmp",
		"default.castr/4567/" + hex64 + ".cacnk", "other/" + hex64, "id_rsa", "notes.txt",
	} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte("content of "+name), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(
		os.Symlink("../secret.json", filepath.Join(dir, "out.json")),
		os.Symlink(filepath.Join(top, "secret.json"), filepath.Join(dir, "abs.json")),
		os.Symlink("..", filepath.Join(dir, "up")),
		os.Symlink("loop.json", filepath.Join(dir, "loop.json")),
		os.Symlink("catalog.json", filepath.Join(dir, "in.json")),
		os.Mkdir(filepath.Join(dir, "dir.json"), 0o755),
		syscall.Mkfifo(filepath.Join(dir, "fifo.json"), 0o644),
	); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestFiles(t *testing.T) {
	base := serve(t, repository(t))
	for name, want := range map[string]string{
		"catalog.json":                           "no-cache",
		"in.json":                                "no-cache",
		"team/app/latest.json":                   "no-cache",
		"team/app/latest.caidx":                  "no-cache",
		"team/app/oci-layout":                    "no-cache",
		"team/app/index.json":                    "no-cache",
		"team/app/blobs/sha256/" + hex64:         "public, max-age=31536000, immutable",
		"default.castr/0123/" + hex64:            "public, max-age=31536000, immutable",
		"default.castr/0123/" + hex64 + ".cacnk": "public, max-age=31536000, immutable",
	} {
		content := "content of " + strings.Replace(name, "in.json", "catalog.json", 1)
		resp, body := get(t, "GET", base+"/"+name, "Accept-Encoding", "gzip")
		if resp.StatusCode != 200 || body != content || resp.Header.Get("Cache-Control") != want ||
			resp.ContentLength != int64(len(content)) || resp.Header.Get("Content-Encoding") != "" {
			t.Errorf("%s: %v %q %v", name, resp.Status, body, resp.Header)
		}
		etag := resp.Header.Get("ETag")
		if resp, body = get(t, "HEAD", base+"/"+name); resp.StatusCode != 200 || body != "" || resp.ContentLength != int64(len(content)) {
			t.Errorf("HEAD %s: %v with %d bytes announced", name, resp.Status, resp.ContentLength)
		}
		if resp, body = get(t, "GET", base+"/"+name, "If-None-Match", etag); resp.StatusCode != 304 || body != "" {
			t.Errorf("%s, If-None-Match: %v %q", name, resp.Status, body)
		}
		if resp, body = get(t, "GET", base+"/"+name, "Range", "bytes=3-5", "If-Range", etag); resp.StatusCode != 206 || body != content[3:6] {
			t.Errorf("%s, Range: %v %q", name, resp.Status, body)
		}
		if resp, body = get(t, "GET", base+"/"+name, "Range", "bytes=3-5", "If-Range", `"other"`); resp.StatusCode != 200 || body != content {
			t.Errorf("%s, Range of another version: %v %q", name, resp.Status, body)
		}
		if resp, _ = get(t, "GET", base+"/"+name, "Range", "bytes=9999-"); resp.StatusCode != 416 {
			t.Errorf("%s, Range beyond the end: %v", name, resp.Status)
		}
		if resp, _ = get(t, "PUT", base+"/"+name); resp.StatusCode != 405 || resp.Header.Get("Allow") != "GET, HEAD" {
			t.Errorf("PUT %s: %v", name, resp.Status)
		}
	}
}

// Every kind of file has the headers that caches and clients need, the same from a
// directory, from a proxy that fetches it and from its cache, to GET and to HEAD.
func TestHeaders(t *testing.T) {
	dir := t.TempDir()
	plain := bytes.Repeat([]byte("a chunk "), 1000)
	packed, content := chunkFile(plain)
	unpacked := strings.TrimSuffix(packed, ".cacnk")
	other, _ := chunkFile([]byte("raw"))
	made := map[string]string{} // by casync
	for _, name := range []string{"chunks/small.caibx", "catar/unix.catar"} {
		b, err := os.ReadFile(filepath.Join("..", "testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		made[path.Ext(name)] = string(b)
	}
	files := map[string]string{
		packed: content, strings.TrimSuffix(other, ".cacnk"): "raw", blobFile("blob"): "blob",
		"app/1.json": "{}", "app/index.json": "{}", "catalog.json": "{}", "app/oci-layout": "{}",
		"app/1.caidx": made[".caibx"], "x.caibx": made[".caibx"], "x.catar": made[".catar"],
	}
	for name, content := range files {
		p := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, []byte(content), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	files[unpacked] = string(plain) // which is not there like this
	servers := both(t, dir)
	for name, content := range files {
		want := map[string]string{
			"Content-Type": "application/octet-stream", "Content-Length": strconv.Itoa(len(content)), "Accept-Ranges": "bytes",
			"X-Content-Type-Options": "nosniff", "Cache-Control": "public, max-age=31536000, immutable", "Content-Encoding": "", "Vary": "",
		}
		base := path.Base(name)
		if strings.HasSuffix(name, ".json") || base == "oci-layout" {
			want["Content-Type"] = "application/json"
		}
		if len(strings.TrimSuffix(base, ".cacnk")) != 64 {
			want["Cache-Control"] = "no-cache"
		}
		for _, from := range []string{"server", "proxy", "proxy"} {
			tag := ""
			for _, method := range []string{"GET", "HEAD", "GET"} {
				resp, body := get(t, method, servers[from].URL+"/"+name, "Accept-Encoding", "gzip, br, zstd")
				if resp.StatusCode != 200 || method == "GET" && body != content || method == "HEAD" && body != "" {
					t.Errorf("%s, %s %s: %s, %d bytes", from, method, name, resp.Status, len(body))
				}
				for header, value := range want {
					if got := resp.Header.Get(header); got != value {
						t.Errorf("%s, %s %s: %s is %q, want %q", from, method, name, header, got, value)
					}
				}
				now := resp.Header.Get("ETag")
				if len(now) < 3 || now[0] != '"' || tag != "" && now != tag {
					t.Errorf("%s, %s %s: entity tag %q, before %q", from, method, name, now, tag)
				}
				tag = now
			}
		}
	}
}

// What is no file of a repository, or lies outside, does not exist.
func TestNotServed(t *testing.T) {
	base := serve(t, repository(t))
	for _, name := range []string{
		"", "team", "team/", "team/app/", "absent.json", "catalog.json/", "catalog.json/x.json", "dir.json", "fifo.json",
		".hidden.json", ".git/x.json", "team/app/.lock", "team/app/latest.json.tmp", "default.castr/0123/" + hex64 + ".Q.tmp",
		"default.castr/4567/" + hex64 + ".cacnk", "other/" + hex64, "id_rsa", "notes.txt",
		"out.json", "abs.json", "up/secret.json", "loop.json", "../secret.json", "team/../catalog.json", "./catalog.json", "team//app/latest.json",
		"..%2fsecret.json", "%2e%2e/secret.json", "team%5C..%5Ccatalog.json", "catalog.json%00", "/catalog.json",
		strings.Repeat("x", 300) + ".json", strings.Repeat("x/", 3000) + ".json",
	} {
		u, err := url.Parse(base)
		if err != nil {
			t.Fatal(err)
		}
		resp, body := get(t, "GET", u.String()+"/"+name)
		if resp.StatusCode != 404 || strings.Contains(body, "content") || resp.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%.60s: %v %q", name, resp.Status, body)
		}
	}
}

// A mutable file that is replaced, by one of the same size and time, has another tag.
func TestReplaced(t *testing.T) {
	dir := repository(t)
	base := serve(t, dir)
	path := filepath.Join(dir, "catalog.json")
	before, _ := get(t, "GET", base+"/catalog.json")
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(
		os.WriteFile(path+".new", bytes.Repeat([]byte("x"), int(fi.Size())), 0o644),
		os.Chtimes(path+".new", fi.ModTime(), fi.ModTime()),
		os.Rename(path+".new", path),
	); err != nil {
		t.Fatal(err)
	}
	resp, body := get(t, "GET", base+"/catalog.json", "If-None-Match", before.Header.Get("ETag"))
	if resp.StatusCode != 200 || !strings.HasPrefix(body, "xxx") {
		t.Errorf("%v %q", resp.Status, body)
	}
}

// Our own client finds a whole store behind the server.
func TestStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T, chunks map[chunk.ID]store.Packed) store.Store {
		dir := t.TempDir()
		files, err := local.Open(dir, local.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer files.Close()
		for id, p := range chunks {
			if err := files.Put(t.Context(), id, p); err != nil {
				t.Fatal(err)
			}
		}
		c := httpstore.NewClient(httpstore.Options{})
		t.Cleanup(c.Close)
		s, err := httpstore.New(c, serve(t, dir))
		if err != nil {
			t.Fatal(err)
		}
		return s
	})
}

// Stock casync extracts from the server.
func TestCasync(t *testing.T) {
	casync := testutil.Tool(t, "casync")
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	data := bytes.Repeat([]byte("some content, more than a chunk of it\n"), 20_000)
	if err := os.WriteFile(path("in"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	base := serve(t, dir)
	for _, args := range [][]string{
		{"make", "--store=" + path("default.castr"), path("x.caibx"), path("in")},
		{"extract", "--store=" + base + "/default.castr", base + "/x.caibx", path("out")},
	} {
		if out, err := exec.CommandContext(t.Context(), casync, args...).CombinedOutput(); err != nil {
			t.Fatalf("casync %v: %v\n%s", args, err, out)
		}
	}
	if out, err := os.ReadFile(path("out")); err != nil || !bytes.Equal(out, data) {
		t.Errorf("%d bytes, %v", len(out), err)
	}
}

func TestNewAbsent(t *testing.T) {
	if _, err := chunkserver.New(filepath.Join(t.TempDir(), "absent"), chunkserver.Options{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v", err)
	}
}
