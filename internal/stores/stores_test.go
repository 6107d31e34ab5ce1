package stores

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/internal/testutil"
	"github.com/ociv2-sync/ociv2-sync/store"
	"github.com/ociv2-sync/ociv2-sync/store/httpstore"
	"github.com/ociv2-sync/ociv2-sync/store/local"
)

// filled makes a store with one chunk.
func filled(t *testing.T, content string) (dir string, id chunk.ID) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "x.castr")
	s, err := local.Open(dir, local.Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	id = chunk.SHA512_256.Sum([]byte(content))
	if err := errors.Join(s.Put(t.Context(), id, store.Packed{Data: []byte(content)}), s.Close()); err != nil {
		t.Fatal(err)
	}
	return dir, id
}

func TestOpenAsksInOrder(t *testing.T) {
	a, first := filled(t, "first")
	b, second := filled(t, "second")
	nginx := testutil.StartNginx(t, b)
	client := httpstore.NewClient(httpstore.Options{Retries: -1})
	defer client.Close()
	s, closer, err := Open([]string{a, nginx.URL}, Clients{HTTP: client})
	if err != nil {
		t.Fatal(err)
	}
	for id, want := range map[chunk.ID]string{first: "first", second: "second"} {
		p, err := s.Get(t.Context(), id, 100)
		if err != nil || string(p.Data) != want {
			t.Errorf("Get: %q, %v, want %q", p.Data, err, want)
		}
	}
	if requests := nginx.Requests(); len(requests) != 1 {
		t.Errorf("requests %+v, want one: the directory has the other chunk", requests)
	}
	if _, err := s.Get(t.Context(), chunk.SHA512_256.Sum([]byte("third")), 100); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Get of what no store has: %v", err)
	}
	if err := closer.Close(); err != nil {
		t.Error(err)
	}
}

func TestOpenFails(t *testing.T) {
	a, _ := filled(t, "first")
	if _, _, err := Open([]string{a, filepath.Join(a, "absent")}, Clients{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v, want os.ErrNotExist", err)
	}
}

func TestIsURL(t *testing.T) {
	for name, want := range map[string]bool{
		"http://h/x": true, "https://h/x": true, "http:/h": false, "ftp://h/x": false, "/http://x": false, "": false,
	} {
		if IsURL(name) != want {
			t.Errorf("IsURL(%q) is %v", name, !want)
		}
	}
}
