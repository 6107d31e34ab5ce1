package chunkserver_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/folbricht/desync"

	"github.com/ociv2-sync/ociv2-sync/chunkserver"
	"github.com/ociv2-sync/ociv2-sync/internal/testutil"
	"github.com/ociv2-sync/ociv2-sync/store/httpstore"
)

// desync's client writes and reads, compressed and not.
func TestDesync(t *testing.T) {
	s, err := chunkserver.New(t.TempDir(), chunkserver.Options{Write: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	const header = "Bearer secret"
	server := httptest.NewServer(chunkserver.NewMonitor(s, chunkserver.MonitorOptions{Token: func(s string) bool { return s == "secret" }}))
	defer server.Close()
	u, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	client := func(o desync.StoreOptions) *desync.RemoteHTTP {
		c, err := desync.NewRemoteHTTPStore(u, o)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	packed, plain := client(desync.StoreOptions{HTTPAuth: header}), client(desync.StoreOptions{HTTPAuth: header, Uncompressed: true})
	for i, writer := range []*desync.RemoteHTTP{packed, plain} {
		want := bytes.Repeat([]byte{'a', byte(i)}, 10_000)
		c := desync.NewChunk(want)
		if err := client(desync.StoreOptions{}).StoreChunk(c); err == nil {
			t.Error("a chunk is taken from anybody")
		}
		for range 2 {
			if err := writer.StoreChunk(c); err != nil {
				t.Errorf("store %d: %v", i, err)
			}
		}
		readers := []*desync.RemoteHTTP{packed, plain}
		if writer == plain {
			readers = readers[1:] // what is there uncompressed is served so
		}
		for _, r := range readers {
			got, err := r.GetChunk(c.ID())
			if err != nil {
				t.Errorf("get %d: %v", i, err)
				continue
			}
			if b, err := got.Data(); err != nil || !bytes.Equal(b, want) {
				t.Errorf("get %d: %d bytes, %v", i, len(b), err)
			}
		}
	}
}

// desync, the program, writes a file in chunks, compressed and not, and reads it, from
// this server and through a proxy; and it serves what this proxy and our client read.
func TestDesyncProgram(t *testing.T) {
	program, dir := testutil.Desync(t), t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	run := func(args ...string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), program, args...)
		cmd.Env = append(os.Environ(), "HOME="+dir)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("desync %q: %v\n%s", args, err, out)
		}
	}
	data := make([]byte, 1_000_000)
	_, _ = rand.NewChaCha8([32]byte{7}).Read(data)
	if err := errors.Join(os.WriteFile(path("file"), data, 0o600), os.Mkdir(path("store"), 0o755), os.Mkdir(path("cache"), 0o755), os.Mkdir(path("cache2"), 0o755)); err != nil {
		t.Fatal(err)
	}
	s, err := chunkserver.New(path("store"), chunkserver.Options{Write: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	server := httptest.NewServer(chunkserver.NewMonitor(s, chunkserver.MonitorOptions{Token: func(s string) bool { return s == "secret" }}))
	defer server.Close()
	client := httpstore.NewClient(httpstore.Options{Credentials: func(*url.URL) http.Header {
		return http.Header{"Authorization": {"Bearer secret"}}
	}})
	t.Cleanup(client.Close)
	upstream := func(u string) chunkserver.Upstream {
		d, err := client.Dir(u)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	proxied := proxy(t, upstream(server.URL), path("cache"), chunkserver.ProxyOptions{})
	config := func(uncompressed bool) {
		t.Helper()
		text := fmt.Sprintf(`{"store-options": {%q: {"http-auth": "Bearer secret", "uncompressed": %v}, %q: {"uncompressed": %[2]v}}}`, server.URL, uncompressed, proxied)
		if err := os.WriteFile(path("config"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	extract := func(from string) {
		t.Helper()
		run("--config", path("config"), "extract", "--store", from, path("index.caibx"), path("out"))
		if got, err := os.ReadFile(path("out")); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s: %d bytes, %v", from, len(got), err)
		}
		if err := os.Remove(path("out")); err != nil {
			t.Fatal(err)
		}
	}
	// What is there compressed is there uncompressed, too, but not the other way round.
	for _, uncompressed := range []bool{true, false} {
		config(uncompressed)
		for range 2 { // the second time all is there
			run("--config", path("config"), "make", "--store", server.URL, path("index.caibx"), path("file"))
		}
		extract(server.URL)
		extract(proxied)
	}
	index, err := os.ReadFile(path("index.caibx"))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]int{}
	err = filepath.WalkDir(path("store"), func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			files[filepath.Ext(p)]++
			if filepath.Ext(p) == "" {
				err = os.Remove(p)
			}
		}
		return err
	})
	if n := (len(index) - 104) / 40; err != nil || n == 0 || files[".cacnk"] != n || files[""] != n || len(files) != 2 {
		t.Errorf("%d chunks, and the files %v, %v", n, files, err)
	}
	config(true)
	extract(server.URL)
	config(false)

	// And the other way: desync serves, we read.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "chunk-server", "--store", path("store"), "--listen", addr)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(stderr.String())
		}
	}()
	extract(proxy(t, upstream("http://"+addr), path("cache2"), chunkserver.ProxyOptions{}))
}
