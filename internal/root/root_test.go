package root

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

func TestDefaultPath(t *testing.T) {
	for _, c := range []struct {
		name string
		uid  int
		env  map[string]string
		want string // "" means an error
	}{
		{"root", 0, map[string]string{"HOME": "/root", "XDG_DATA_HOME": "/x"}, "/var/lib/images"},
		{"data home", 1000, map[string]string{"HOME": "/home/u", "XDG_DATA_HOME": "/data"}, "/data/ociv2-sync/images"},
		{"home", 1000, map[string]string{"HOME": "/home/u"}, "/home/u/.local/share/ociv2-sync/images"},
		{"relative data home", 1000, map[string]string{"HOME": "/home/u", "XDG_DATA_HOME": "data"}, "/home/u/.local/share/ociv2-sync/images"},
		{"nothing", 1000, nil, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := DefaultPath(c.uid, func(name string) string { return c.env[name] })
			if got != c.want || (err == nil) != (c.want != "") {
				t.Errorf("DefaultPath = %q, %v, want %q", got, err, c.want)
			}
		})
	}
}

func TestOpen(t *testing.T) {
	t.Run("makes and finds again", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "above", "root")
		if _, err := Open(path, Options{ReadOnly: true}); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("read-only: %v, want fs.ErrNotExist", err)
		}
		for range 2 {
			r, err := Open(path, Options{})
			if err != nil {
				t.Fatal(err)
			}
			if images, err := r.Images(); err != nil || len(images) != 0 {
				t.Errorf("Images = %v, %v", images, err)
			}
		}
		if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o700 {
			t.Errorf("mode %v, %v, want 0700", st.Mode(), err)
		}
	})
	t.Run("version file of something else", func(t *testing.T) {
		for _, content := range []string{"12", "", strings.Repeat("x", 1000)} {
			dir := t.TempDir()
			overwrite(t, filepath.Join(dir, versionFile), content)
			overwrite(t, filepath.Join(dir, "other"), content)
			for _, readOnly := range []bool{true, false} {
				if _, err := Open(dir, Options{ReadOnly: readOnly}); !errors.Is(err, ErrNotRoot) {
					t.Errorf("%.20q: Open = %v, want ErrNotRoot", content, err)
				}
			}
			if entries, err := os.ReadDir(dir); err != nil || len(entries) != 2 {
				t.Errorf("%.20q: Open has changed the directory: %v, %v", content, entries, err)
			}
		}
	})
	t.Run("file", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "file")
		overwrite(t, file, "x")
		if _, err := Open(file, Options{ReadOnly: true}); !errors.Is(err, ErrNotRoot) {
			t.Errorf("Open = %v, want ErrNotRoot", err)
		}
	})
	for name, c := range map[string]struct {
		file, content string
		want          error
	}{
		"foreign directory":                 {"somebody's", "x", ErrNotRoot},
		"foreign version file":              {versionFile, "12", ErrNotRoot},
		"newer version":                     {versionFile, "ociv2-sync root 2\n", ErrVersion},
		"empty version file of a cut Open":  {versionFile, "", nil},
		"half a version file of a cut Open": {versionFile, versionText[:9], nil},
		"new file system":                   {"lost+found", "", nil},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, c.file), []byte(c.content), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := Open(dir, Options{}); !errors.Is(err, c.want) {
				t.Errorf("Open = %v, want %v", err, c.want)
			}
			_, err := Open(dir, Options{ReadOnly: true})
			if c.want != nil && !errors.Is(err, c.want) || c.want == nil && err != nil {
				t.Errorf("read-only: %v, want %v", err, c.want)
			}
		})
	}
}

func TestOpenByManyAtOnce(t *testing.T) {
	for range 50 {
		path := filepath.Join(t.TempDir(), "root")
		var wg sync.WaitGroup
		for range 6 {
			wg.Go(func() {
				if _, err := Open(path, Options{}); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	}
}

func TestLock(t *testing.T) {
	r := newRoot(t, Options{})
	w := lock(t, r)
	_, err := r.Lock("second")
	locked, ok := errors.AsType[*LockedError](err)
	if !ok || !strings.Contains(locked.Holder, "(test)") || !strings.Contains(err.Error(), "pid ") {
		t.Fatalf("Lock = %v, want an error that names the holder", err)
	}
	tree, err := w.TempTree()
	if err != nil {
		t.Fatal(err)
	}
	// A directory that its owner may not change, and below it something.
	closed := filepath.Join(tree.Path, "closed")
	if err := errors.Join(os.MkdirAll(filepath.Join(closed, "inside"), 0o755), os.Chmod(filepath.Join(closed, "inside"), 0), os.Chmod(closed, 0o500)); err != nil {
		t.Fatal(err)
	}
	if err := w.Unlock(); err != nil {
		t.Fatal(err)
	}
	// The tree was never committed or removed: its writer is dead.
	w = lock(t, r)
	if left, err := os.ReadDir(r.join(tmpDir)); err != nil || len(left) != 0 {
		t.Errorf("tmp/ holds %v, %v", left, err)
	}
	if err := w.Unlock(); err != nil {
		t.Fatal(err)
	}
}

func TestCommitRollbackPrune(t *testing.T) {
	r := newRoot(t, Options{})
	w := lock(t, r)
	a, b, c, d := commit(t, w, "app", "1", "a"), commit(t, w, "app", "1", "b"), commit(t, w, "app", "1", "c"), commit(t, w, "app", "1", "d")
	expect(t, r, "app", "1", d, c, b)
	if gone, err := w.Prune(t.Context()); err != nil || len(gone) != 1 || gone[0] != a {
		t.Errorf("Prune = %v, %v, want %v gone", gone, err, a)
	}
	if _, err := r.Blob(a); !errors.Is(err, ErrNotFound) {
		t.Errorf("blob of a pruned tree: %v", err)
	}

	for _, want := range []digest.Digest{c, b} {
		img, err := w.Rollback("app", "1")
		if err != nil || img.Current.Manifest != want {
			t.Fatalf("Rollback = %+v, %v, want %v", img, err, want)
		}
	}
	expect(t, r, "app", "1", b)
	if _, err := w.Rollback("app", "1"); !errors.Is(err, ErrNoPredecessor) {
		t.Errorf("Rollback = %v, want ErrNoPredecessor", err)
	}
	if gone, err := w.Prune(t.Context()); err != nil || len(gone) != 0 {
		t.Errorf("Prune after rollback = %v, %v, want nothing gone", gone, err)
	}
	// What was rolled back from goes with the next commit.
	e := commit(t, w, "app", "1", "e")
	expect(t, r, "app", "1", e, b)
	if gone, err := w.Prune(t.Context()); err != nil || len(gone) != 2 {
		t.Errorf("Prune = %v, %v, want c and d gone", gone, err)
	}
	// The same image again, and one that another tag has.
	commit(t, w, "app", "1", "e")
	expect(t, r, "app", "1", e, b)
	if err := w.Tag("team/app", "stable", e, "somewhere"); err != nil {
		t.Fatal(err)
	}
	expect(t, r, "team/app", "stable", e)
	if err := w.Tag("app", "1", a, ""); !errors.Is(err, ErrNotFound) {
		t.Errorf("Tag of a tree that is gone: %v", err)
	}

	trees, err := r.Trees()
	if err != nil || len(trees) != 2 {
		t.Fatalf("Trees = %v, %v, want 2", trees, err)
	}
	for _, tree := range trees {
		toc, err := os.ReadFile(tree.TOCPath)
		if err != nil || digest.FromBytes(toc) != tree.TOC {
			t.Errorf("table of contents at %s: %v", tree.TOCPath, err)
		}
		if config, err := r.Blob(tree.Config); err != nil || !strings.HasPrefix(string(config), "config") {
			t.Errorf("config %q, %v", config, err)
		}
	}
	images, err := r.Images()
	if err != nil || len(images) != 2 || images[0].Name != "app" || images[1].Name != "team/app" {
		t.Errorf("Images = %v, %v", images, err)
	}
	if got := images[1].Current; got.Source != "somewhere" || !got.Time.Equal(testTime) {
		t.Errorf("version %+v", got)
	}
}

func TestKeepNone(t *testing.T) {
	r := newRoot(t, Options{Keep: -1})
	w := lock(t, r)
	commit(t, w, "app", "1", "a")
	b := commit(t, w, "app", "1", "b")
	expect(t, r, "app", "1", b)
	if gone, err := w.Prune(t.Context()); err != nil || len(gone) != 1 {
		t.Errorf("Prune = %v, %v", gone, err)
	}
}

func TestCommitReplacesTreeOfSameManifest(t *testing.T) {
	r := newRoot(t, Options{})
	w := lock(t, r)
	d := commit(t, w, "app", "1", "a")
	tree, err := r.Tree(d)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(tree.RootFS, "content"), []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	commit(t, w, "app", "1", "a")
	expect(t, r, "app", "1", d)
	if left, err := os.ReadDir(r.join(tmpDir)); err != nil || len(left) != 0 {
		t.Errorf("tmp/ holds %v, %v", left, err)
	}
}

func TestNames(t *testing.T) {
	r := newRoot(t, Options{})
	w := lock(t, r)
	commit(t, w, "team", "app", "a")
	commit(t, w, "deep/name", "1", "b")
	for _, c := range [][2]string{
		{"", "1"},
		{".", "1"},
		{"..", "1"},
		{"../x", "1"},
		{"/abs", "1"},
		{"a//b", "1"},
		{"a/", "1"},
		{".hidden", "1"},
		{"a\x00", "1"},
		{"a", ""},
		{"a", ".."},
		{"a", "x/y"},
		{"a", "-rf"},
		{"a", strings.Repeat("t", 129)},
		{strings.Repeat("a/", 100) + "a", "1"},
		{"team/app", "1"}, // would lie in the tree that team:app shows
		{"deep", "name"},  // is a directory
	} {
		tree, err := w.TempTree()
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Commit(tree, testBlobs("x"), c[0], c[1], ""); !errors.Is(err, ErrName) {
			t.Errorf("Commit %q:%q = %v, want ErrName", c[0], c[1], err)
		}
		if err := tree.Remove(); err != nil {
			t.Fatal(err)
		}
	}
	if images, err := r.Images(); err != nil || len(images) != 2 {
		t.Errorf("Images = %v, %v", images, err)
	}
}

func TestCorruptStateStopsPruneAndHidesNothingElse(t *testing.T) {
	for name, damage := range map[string]func(t *testing.T, r *Root){
		"record": func(t *testing.T, r *Root) { overwrite(t, r.refPath("bad", "1"), `{"versions":[`) },
		"record without versions": func(t *testing.T, r *Root) {
			overwrite(t, r.refPath("bad", "1"), `{"versions":[]}`)
		},
		"digest in the record": func(t *testing.T, r *Root) {
			overwrite(t, r.refPath("bad", "1"), `{"versions":[{"manifest":"../../etc","source":"","time":"2026-01-01T00:00:00Z"}]}`)
		},
		"symlink": func(t *testing.T, r *Root) {
			if err := errors.Join(os.Remove(r.linkPath("bad", "1")), os.Symlink("/etc", r.linkPath("bad", "1"))); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRoot(t, Options{})
			w := lock(t, r)
			good := commit(t, w, "good", "1", "a")
			commit(t, w, "bad", "1", "b")
			damage(t, r)
			images, err := r.Images()
			if !errors.Is(err, ErrCorrupt) || len(images) != 1 || images[0].Current.Manifest != good {
				t.Errorf("Images = %v, %v, want the good one and ErrCorrupt", images, err)
			}
			if gone, err := w.Prune(t.Context()); !errors.Is(err, ErrCorrupt) || len(gone) != 0 {
				t.Errorf("Prune = %v, %v, want ErrCorrupt and nothing gone", gone, err)
			}
			// The next pull puts it right.
			c := commit(t, w, "bad", "1", "c")
			expect(t, r, "bad", "1", c)
		})
	}
	t.Run("blob", func(t *testing.T) {
		r := newRoot(t, Options{})
		d := commit(t, lock(t, r), "app", "1", "a")
		overwrite(t, r.blobPath(d), "changed")
		if _, err := r.Blob(d); !errors.Is(err, ErrCorrupt) {
			t.Errorf("Blob = %v, want ErrCorrupt", err)
		}
	})
}

func TestClearChunkCache(t *testing.T) {
	r := newRoot(t, Options{})
	w := lock(t, r)
	overwrite(t, filepath.Join(r.ChunkCache(), "chunk"), "x")
	if err := w.ClearChunkCache(); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(r.ChunkCache()); err != nil || len(left) != 0 {
		t.Errorf("the cache holds %v, %v", left, err)
	}
}

// TestReadersSeeWholeImages has readers look while a writer commits, rolls back and prunes.
func TestReadersSeeWholeImages(t *testing.T) {
	for _, keep := range []int{-1, 1} {
		r := newRoot(t, Options{Keep: keep})
		w := lock(t, r)
		commit(t, w, "app", "1", "0")
		done := make(chan struct{})
		finished := make(chan error)
		go func() {
			var errs []error
			for {
				images, err := r.Images()
				if err != nil || len(images) != 1 {
					errs = append(errs, errors.New("no image"), err)
				}
				if _, err := r.Trees(); err != nil {
					errs = append(errs, err)
				}
				select {
				case <-done:
					finished <- errors.Join(errs...)
					return
				default:
				}
			}
		}()
		for i := range 40 {
			commit(t, w, "app", "1", strings.Repeat("x", i%3))
			if _, err := w.Prune(t.Context()); err != nil {
				t.Error(err)
			}
			if _, err := w.Rollback("app", "1"); err != nil && !errors.Is(err, ErrNoPredecessor) {
				t.Error(err)
			}
		}
		close(done)
		if err := <-finished; err != nil {
			t.Error(err)
		}
	}
}

func FuzzState(f *testing.F) {
	f.Add([]byte(`{"versions":[{"manifest":"sha256:` + strings.Repeat("0", 64) + `","source":"s","time":"2026-01-01T00:00:00Z"}]}`))
	f.Add([]byte(`{"config":"sha256:` + strings.Repeat("a", 64) + `","toc":"sha256:` + strings.Repeat("b", 64) + `"}`))
	f.Add([]byte(`../../trees/sha256-` + strings.Repeat("c", 64) + `/rootfs`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var tree treeFile
		if err := decodeState(data, &tree); err == nil {
			if err := errors.Join(checkDigest(tree.Config), checkDigest(tree.TOC)); err != nil {
				t.Error(err)
			}
		}
		var ref refFile
		if err := decodeState(data, &ref); err == nil {
			for _, v := range ref.Versions {
				if err := checkDigest(v.Manifest); err != nil {
					t.Error(err)
				}
			}
		}
		if d, err := parseTarget("a/b", string(data)); err == nil && linkTarget("a/b", d) != string(data) {
			t.Errorf("target %q is read as %s", data, d)
		}
	})
}

var testTime = time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)

func newRoot(t *testing.T, o Options) *Root {
	t.Helper()
	o.Now = func() time.Time { return testTime }
	r, err := Open(filepath.Join(t.TempDir(), "root"), o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func lock(t *testing.T, r *Root) *Writer {
	t.Helper()
	w, err := r.Lock("test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Unlock() })
	return w
}

func testBlobs(content string) Blobs {
	return Blobs{Manifest: []byte("manifest " + content), Config: []byte("config " + content), TOC: []byte("toc " + content)}
}

// tryCommit commits a tree of one file, "content".
func tryCommit(w *Writer, name, tag, content string) (err error) {
	tree, err := w.TempTree()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tree.Remove()) }()
	if err := os.WriteFile(filepath.Join(tree.Path, "content"), []byte(content), 0o600); err != nil {
		return err
	}
	return w.Commit(tree, testBlobs(content), name, tag, "test")
}

func commit(t *testing.T, w *Writer, name, tag, content string) digest.Digest {
	t.Helper()
	if err := tryCommit(w, name, tag, content); err != nil {
		t.Fatal(err)
	}
	return digest.FromBytes(testBlobs(content).Manifest)
}

// expect checks what a tag shows and what it keeps, and that every tree of it is whole.
func expect(t *testing.T, r *Root, name, tag string, versions ...digest.Digest) {
	t.Helper()
	img, err := r.Image(name, tag)
	if err != nil {
		t.Fatal(err)
	}
	got := []digest.Digest{img.Current.Manifest}
	for _, v := range img.Predecessors {
		got = append(got, v.Manifest)
	}
	if len(got) != len(versions) {
		t.Fatalf("%s:%s has %v, want %v", name, tag, got, versions)
	}
	for i := range got {
		if got[i] != versions[i] {
			t.Errorf("version %d is %s, want %s", i, got[i], versions[i])
		}
		checkTree(t, r, got[i])
	}
	shown, err := os.ReadFile(filepath.Join(img.Path, "content"))
	if err != nil || digest.FromBytes(testBlobs(string(shown)).Manifest) != versions[0] {
		t.Errorf("%s shows %q, %v", img.Path, shown, err)
	}
}

func checkTree(t *testing.T, r *Root, manifest digest.Digest) {
	t.Helper()
	tree, err := r.Tree(manifest)
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(filepath.Join(tree.RootFS, "content"))
	if err != nil || digest.FromBytes(testBlobs(string(content)).Manifest) != manifest {
		t.Errorf("tree %s holds %q, %v", manifest, content, err)
	}
	for _, d := range []digest.Digest{manifest, tree.Config, tree.TOC} {
		if _, err := r.Blob(d); err != nil {
			t.Error(err)
		}
	}
}

func overwrite(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}
