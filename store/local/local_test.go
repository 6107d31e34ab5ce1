package local_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/store"
	"github.com/ociv2-sync/ociv2-sync/store/local"
	"github.com/ociv2-sync/ociv2-sync/store/storetest"
)

func open(t *testing.T, dir string, o local.Options) *local.Store {
	t.Helper()
	s, err := local.Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestStore(t *testing.T) {
	for i := range 4 {
		old, flat := i%2 > 0, i/2 > 0 // an old file system, without Sync; the other layout
		storetest.Run(t, func(t *testing.T, chunks map[chunk.ID]store.Packed) store.Store {
			s := open(t, filepath.Join(t.TempDir(), "x.castr"), local.Options{Create: true, Sync: !old, Flat: flat})
			if old {
				s.NameFiles()
			}
			for id, p := range chunks {
				if err := s.Put(t.Context(), id, p); err != nil {
					t.Fatal(err)
				}
			}
			if err := s.Flush(); err != nil {
				t.Fatal(err)
			}
			return s
		})
	}
}

// The flat layout has the files themselves, and nothing else is left behind.
func TestFlatLayout(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, local.Options{Flat: true})
	id := chunk.SHA512_256.Sum([]byte("x"))
	for range 2 {
		if err := s.Put(t.Context(), id, store.Packed{Data: []byte("p")}); err != nil {
			t.Fatal(err)
		}
	}
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if want := filepath.Join(dir, id.String()+".cacnk"); err != nil || len(files) != 1 || files[0] != want {
		t.Errorf("files %v, %v; want %s", files, err, want)
	}
}

func TestOpenAbsent(t *testing.T) {
	if _, err := local.Open(filepath.Join(t.TempDir(), "absent"), local.Options{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v, want os.ErrNotExist", err)
	}
}

// The layout is casync's, and nothing but chunks is left behind.
func TestLayout(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, local.Options{})
	id := chunk.SHA512_256.Sum([]byte("x"))
	raw := chunk.SHA512_256.Sum([]byte("y"))
	for id, form := range map[chunk.ID]store.Form{id: store.Compressed, raw: store.Raw} {
		if err := s.Put(t.Context(), id, store.Packed{Form: form, Data: []byte("p")}); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{
		id.String()[:4] + "/" + id.String() + ".cacnk",
		raw.String()[:4] + "/" + raw.String(),
	} {
		fi, err := os.Lstat(filepath.Join(dir, name))
		if err != nil || fi.Mode() != 0o444 {
			t.Errorf("%s: %v, %v; want mode 0444", name, fi, err)
		}
	}
	files, err := filepath.Glob(filepath.Join(dir, "*", "*"))
	if err != nil || len(files) != 2 {
		t.Errorf("files %v, %v; want 2", files, err)
	}
}

// What a crash or casync leaves at a chunk's path, and is not the chunk, counts
// as missing and is replaced.
func TestImpostors(t *testing.T) {
	id := chunk.SHA512_256.Sum([]byte("x"))
	good := store.Packed{Data: []byte("chunk")}
	for name, put := range map[string]func(path string) error{
		"empty file":       func(p string) error { return os.WriteFile(p, nil, 0o444) },
		"symlink to chunk": func(p string) error { return os.Symlink(p+".other", p) },
		"dangling symlink": func(p string) error { return os.Symlink("nowhere", p) },
		"fifo":             func(p string) error { return syscall.Mkfifo(p, 0o666) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s := open(t, dir, local.Options{})
			path := filepath.Join(dir, id.String()[:4], id.String()+".cacnk")
			if err := errors.Join(
				os.Mkdir(filepath.Dir(path), 0o755),
				os.WriteFile(path+".other", []byte("other"), 0o644),
				put(path),
			); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Get(t.Context(), id, 100); !errors.Is(err, store.ErrNotFound) {
				t.Errorf("Get: %v, want ErrNotFound", err)
			}
			if _, err := s.StoredSize(t.Context(), id); !errors.Is(err, store.ErrNotFound) {
				t.Errorf("StoredSize: %v, want ErrNotFound", err)
			}
			if m, err := s.Missing(t.Context(), []chunk.ID{id}); err != nil || len(m) != 1 {
				t.Errorf("Missing = %v, %v", m, err)
			}
			if err := s.Put(t.Context(), id, good); err != nil {
				t.Fatal(err)
			}
			p, err := s.Get(t.Context(), id, 100)
			if err != nil || !bytes.Equal(p.Data, good.Data) {
				t.Errorf("Get after Put: %q, %v", p.Data, err)
			}
			if other, err := os.ReadFile(path + ".other"); err != nil || string(other) != "other" {
				t.Errorf("the link's target changed: %q, %v", other, err)
			}
		})
	}
}

// A Put that fails leaves nothing and says what it was about.
func TestPutFails(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, local.Options{})
	id := chunk.SHA512_256.Sum([]byte("x"))
	path := filepath.Join(dir, id.String()[:4], id.String()+".cacnk")
	if err := os.MkdirAll(path, 0o755); err != nil {
		t.Fatal(err)
	}
	err := s.Put(t.Context(), id, store.Packed{Data: []byte("chunk")})
	if pe, ok := errors.AsType[*os.PathError](err); !ok || pe.Path != path {
		t.Errorf("error %v, want one about %s", err, path)
	}
	if files, _ := filepath.Glob(filepath.Join(dir, "*", "*")); len(files) != 1 {
		t.Errorf("left behind: %v", files)
	}
}
