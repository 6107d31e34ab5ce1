package transfer

import (
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/ociv2-sync/ociv2-sync/internal/stores"
	"github.com/ociv2-sync/ociv2-sync/store/httpstore"
)

// A pull from two places of a repository goes on when the first one breaks down, at
// whatever moment, and does not notice one that lies.
func TestPullMirrors(t *testing.T) {
	work := t.TempDir()
	tree := filepath.Join(work, "tree")
	if err := os.Mkdir(tree, 0o755); err != nil {
		t.Fatal(err)
	}
	content := make([]byte, 4<<20)
	rand.NewChaCha8([32]byte{}).Read(content)
	if err := os.WriteFile(filepath.Join(tree, "file"), content, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Push(t.Context(), "rootfs:"+tree, parseRef(t, filepath.Join(work, "repo", "app:1")), PushOptions{}); err != nil {
		t.Fatal(err)
	}
	files := http.FileServer(http.Dir(filepath.Join(work, "repo")))
	good := httptest.NewServer(files)
	defer good.Close()
	for name, breaks := range map[string]func(w http.ResponseWriter, r *http.Request, n int64) bool{
		"at once": func(w http.ResponseWriter, _ *http.Request, _ int64) bool {
			w.WriteHeader(http.StatusServiceUnavailable)
			return true
		},
		"after some chunks": func(_ http.ResponseWriter, _ *http.Request, n int64) bool {
			if n > 10 {
				panic(http.ErrAbortHandler)
			}
			return false
		},
		"by lies": func(w http.ResponseWriter, r *http.Request, _ int64) bool {
			if filepath.Ext(r.URL.Path) == ".json" {
				return false
			}
			_, _ = w.Write([]byte("<html>"))
			return true
		},
	} {
		t.Run(name, func(t *testing.T) {
			var n atomic.Int64
			bad := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if !breaks(w, r, n.Add(1)) {
					files.ServeHTTP(w, r)
				}
			}))
			defer bad.Close()
			client := httpstore.NewClient(httpstore.Options{})
			defer client.Close()
			pulled, err := Pull(t.Context(), parseRef(t, bad.URL+"/app:1"), PullOptions{
				Root: t.TempDir(), MaxBytes: -1, Mirrors: []string{good.URL + "/"}, Clients: stores.Clients{HTTP: client}, Lenient: true,
			}, nil)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := os.ReadFile(filepath.Join(pulled.Path, "file")); err != nil || string(got) != string(content) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		})
	}
}
