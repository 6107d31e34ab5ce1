package chunkserver_test

import (
	"bytes"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/chunkserver"
	"github.com/ociv2-sync/ociv2-sync/store"
)

// Chunks that are what they are called are taken, once; nothing else is, and nothing
// else is left behind.
func TestPut(t *testing.T) {
	dir := t.TempDir()
	s, err := chunkserver.New(dir, chunkserver.Options{Write: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	server := httptest.NewServer(s)
	defer server.Close()
	plain := bytes.Repeat([]byte("a chunk "), 1000)
	id := chunk.SHA512_256.Sum(plain).String()
	packed := store.NewPacker(0, 1<<20).Pack(nil, plain).Data
	other := store.NewPacker(store.Gzip, 1<<20).Pack(nil, plain).Data
	put := func(name string, body []byte) int {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPut, server.URL+"/"+name, bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	name := id[:4] + "/" + id + ".cacnk"
	raw := strings.TrimSuffix(name, ".cacnk")
	wrong := strings.Replace(id, id[60:], "0000", 1)
	long := make([]byte, 17<<20) // more than a chunk may have, and few bytes compressed
	longID := chunk.SHA512_256.Sum(long).String()
	long = store.NewPacker(store.Zstd, 17<<20).Pack(nil, long).Data
	for what, c := range map[string]struct {
		name string
		body []byte
		want int
	}{
		"nothing":             {name, nil, http.StatusUnprocessableEntity},
		"not compressed":      {name, plain, http.StatusUnprocessableEntity},
		"compressed":          {raw, packed, http.StatusUnprocessableEntity},
		"cut":                 {name, packed[:len(packed)-1], http.StatusUnprocessableEntity},
		"longer":              {name, append(packed[:len(packed):len(packed)], 0), http.StatusUnprocessableEntity},
		"another chunk":       {wrong[:4] + "/" + wrong + ".cacnk", packed, http.StatusUnprocessableEntity},
		"in another place":    {"0000/" + id + ".cacnk", packed, http.StatusForbidden},
		"expands too far":     {longID[:4] + "/" + longID + ".cacnk", long, http.StatusUnprocessableEntity},
		"an index":            {"app/1.caidx", packed, http.StatusForbidden},
		"a tag":               {"app/1.json", []byte("{}"), http.StatusForbidden},
		"hidden":              {".x/" + name, packed, http.StatusForbidden},
		"out of it":           {"%2e%2e/" + name, packed, http.StatusForbidden},
		"out of it, encoded":  {"x%2f..%2f..%2f" + name, packed, http.StatusForbidden},
		"more than one chunk": {name, make([]byte, 20<<20), http.StatusRequestEntityTooLarge},
	} {
		if got := put(c.name, c.body); got != c.want {
			t.Errorf("%s: status %d, want %d", what, got, c.want)
		}
	}
	err = filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			t.Errorf("%s was stored", p)
		}
		if err == nil && p == filepath.Join(dir, wrong[:4]) {
			t.Errorf("%s was made", p)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if a, b := put(name, packed), put(name, other); a != http.StatusCreated || b != http.StatusOK {
		t.Errorf("status %d, then %d", a, b)
	}
	if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || !bytes.Equal(got, packed) {
		t.Errorf("%d bytes are stored, %v", len(got), err)
	}
	for _, d := range []string{dir, filepath.Join(dir, id[:4])} {
		if left, err := os.ReadDir(d); err != nil || len(left) != 1 {
			t.Errorf("%d files in %s, %v", len(left), d, err)
		}
	}
	// The same chunk, uncompressed, for those who ask for that.
	resp, err := http.Get(server.URL + "/" + raw)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if got, err := io.ReadAll(resp.Body); err != nil || !bytes.Equal(got, plain) || resp.Header.Get("ETag") == "" {
		t.Errorf("%s: %d bytes, %v", resp.Status, len(got), err)
	}
}

// Without the option nothing is taken.
func TestPutRefused(t *testing.T) {
	s, err := chunkserver.New(t.TempDir(), chunkserver.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	w := httptest.NewRecorder()
	id := chunk.SHA256.Sum([]byte("x")).String()
	s.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodPut, "/"+id[:4]+"/"+id, strings.NewReader("x")))
	if w.Code != http.StatusMethodNotAllowed {
		t.Errorf("status %d", w.Code)
	}
}
