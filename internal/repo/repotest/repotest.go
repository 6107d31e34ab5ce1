// Package repotest is the suite that every place for a repository must pass, and
// places that fail on purpose.
package repotest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/internal/ingest"
	"github.com/ociv2-sync/ociv2-sync/internal/repo"
	"github.com/ociv2-sync/ociv2-sync/internal/tree"
	"github.com/ociv2-sync/ociv2-sync/store"
	"github.com/ociv2-sync/ociv2-sync/toc"
	"github.com/ociv2-sync/ociv2-sync/translate"
)

// Publication makes an image whose one file has the given content. Its chunks are
// put into the store of s.
func Publication(t testing.TB, s repo.Space, content string) repo.Publication {
	t.Helper()
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "file"), []byte(content), 0o600))
	for _, name := range []string{"file", "."} { // the same content makes the same image
		must(t, os.Chtimes(filepath.Join(dir, name), time.Time{}, time.Unix(1e9, 0)))
	}
	src, err := tree.Scan(t.Context(), dir)
	must(t, err)
	defer func() { must(t, src.Close()) }()
	var catar bytes.Buffer
	must(t, toc.WriteCatar(t.Context(), src, &catar))
	st := &chunks{space: s}
	r, err := ingest.Stream(t.Context(), &catar, ingest.Options{Params: chunk.DefaultParams(), FeatureFlags: uint64(toc.ProjectionFlags), Store: st})
	must(t, err)
	p := repo.Publication{
		Info: &translate.ImageInfo{
			Config: []byte(`{"architecture":"amd64","os":"linux"}`), ConfigMediaType: ocispec.MediaTypeImageConfig,
			Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"},
		},
		Catar: repo.Chunks{Index: r.Index, Sizes: r.Stored},
		Now:   time.Now,
	}
	p.TOC, err = toc.Marshal(&toc.TOC{Nodes: src.Nodes})
	must(t, err)
	return p
}

// chunks is the chunk store of a Space.
type chunks struct {
	space repo.Space
	sizes sync.Map
}

func (c *chunks) Get(context.Context, chunk.ID, int64) (store.Packed, error) {
	return store.Packed{}, store.ErrNotFound
}
func (c *chunks) String() string { return "chunks" }

func (c *chunks) Put(ctx context.Context, id chunk.ID, p store.Packed) error {
	c.sizes.Store(id, int64(len(p.Data)))
	err := c.space.Create(ctx, ChunkPath(id), p.Data)
	if errors.Is(err, store.ErrExists) {
		return nil
	}
	return err
}

func (c *chunks) StoredSize(_ context.Context, id chunk.ID) (int64, error) {
	n, _ := c.sizes.Load(id)
	return n.(int64), nil
}

// ChunkPath is where a chunk lies in a repository.
func ChunkPath(id chunk.ID) string {
	return repo.StoreName + "/" + id.String()[:4] + "/" + id.String() + ".cacnk"
}

// Run checks that a place keeps the contract of [repo.Space], and that a
// repository is well there. open returns an empty one; called again with the same
// test it returns the same place as another writer sees it.
func Run(t *testing.T, open func(t *testing.T) repo.Space) {
	t.Run("Files", func(t *testing.T) { testFiles(t, open(t)) })
	t.Run("Publish", func(t *testing.T) { testPublish(t, open(t)) })
	t.Run("AtOnce", func(t *testing.T) { testAtOnce(t, open(t)) })
	t.Run("SameTag", func(t *testing.T) { testSameTag(t, open(t)) })
	t.Run("Stopped", func(t *testing.T) { testStopped(t, open(t)) })
	t.Run("Collect", func(t *testing.T) { testCollect(t, open(t)) })
	t.Run("CollectBeside", func(t *testing.T) { testCollectBeside(t, open(t)) })
}

func testFiles(t *testing.T, s repo.Space) {
	ctx := t.Context()
	read := func(path, want string) {
		t.Helper()
		b, err := s.ReadFile(ctx, path, int64(len(want)))
		if err != nil || string(b) != want {
			t.Errorf("%s: %q, %v, want %q", path, b, err, want)
		}
	}
	for _, path := range []string{"file", "a/b/c", "a/b/d", "a/e+f g%41"} {
		if _, err := s.ReadFile(ctx, path, 10); !errors.Is(err, store.ErrNotFound) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s is not there: %v", path, err)
		}
		must(t, s.Create(ctx, path, []byte("first")))
		if err := s.Create(ctx, path, []byte("second")); !errors.Is(err, store.ErrExists) {
			t.Errorf("made twice: %v", err)
		}
		read(path, "first")
		must(t, s.Put(ctx, path, strings.NewReader("third!"), 6))
		read(path, "third!")
		if _, err := s.ReadFile(ctx, path, 5); !errors.Is(err, store.ErrTooLarge) {
			t.Errorf("6 bytes where 5 are allowed: %v", err)
		}
	}
	must(t, s.Put(ctx, "empty", strings.NewReader(""), 0))
	read("empty", "")
	if err := s.Put(ctx, "short", strings.NewReader("abc"), 4); err == nil {
		t.Error("a file of 4 bytes was made of 3")
	}
	if _, err := s.ReadFile(ctx, "short", 10); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("something was made of too few bytes: %v", err)
	}
	testOpenAt(t, s)
	testList(t, s)

	gone, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := s.ReadFile(gone, "file", 10); !errors.Is(err, context.Canceled) {
		t.Errorf("read for nobody: %v", err)
	}
	if err := s.Create(gone, "new", nil); !errors.Is(err, context.Canceled) {
		t.Errorf("made for nobody: %v", err)
	}
	read("file", "third!")
	if w, ok := s.(repo.Swapper); ok {
		testSwap(t, s, w)
	}
}

func testOpenAt(t *testing.T, s repo.Space) {
	ctx := t.Context()
	// Large enough for several requests.
	large := bytes.Repeat([]byte("0123456789abcdef"), 17<<16) // 17 MiB
	must(t, s.Put(ctx, "large", bytes.NewReader(large), int64(len(large))))
	for _, part := range [][2]int64{{0, 5}, {1_000_003, 9_000_001}, {int64(len(large)) - 1, 1}} {
		r, err := s.OpenAt(ctx, "large", part[0], part[1])
		must(t, err)
		b, err := io.ReadAll(r)
		if err = errors.Join(err, r.Close()); err != nil || !bytes.Equal(b, large[part[0]:part[0]+part[1]]) {
			t.Errorf("%d bytes from %d on: %d, %v", part[1], part[0], len(b), err)
		}
	}
	r, err := s.OpenAt(ctx, "large", int64(len(large))-1, 2)
	if err == nil {
		_, err = io.Copy(io.Discard, r)
		r.Close()
	}
	if err == nil {
		t.Error("a byte after the end was read")
	}
	if _, err := s.OpenAt(ctx, "none", 0, 1); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("opened what is not there: %v", err)
	}
}

// testList lists what testFiles and testOpenAt have made, and removes some of it.
func testList(t *testing.T, s repo.Space) {
	ctx := t.Context()
	list := func(dir string, deep bool, want ...string) {
		t.Helper()
		var got []string
		for e, err := range s.List(ctx, dir, deep) {
			must(t, err)
			if !e.Dir && (e.ModTime.IsZero() || e.Size == 0 && e.Path != "empty") {
				t.Errorf("%+v", e)
			}
			if e.Dir {
				e.Path += "/"
			}
			got = append(got, e.Path)
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%s, %t: %q, want %q", dir, deep, got, want)
		}
	}
	list(".", false, "a/", "empty", "file", "large")
	list("a", false, "a/b/", "a/e+f g%41")
	list("a", true, "a/b/c", "a/b/d", "a/e+f g%41")
	list("none", true)
	for range 2 {
		must(t, s.Remove(ctx, "a/b/c"))
		must(t, s.Remove(ctx, "a/b/d"))
	}
	if tidy, ok := s.(repo.Tidier); ok {
		must(t, tidy.Tidy(ctx, "a", "none"))
	}
	list("a", false, "a/e+f g%41")
}

func testSwap(t *testing.T, s repo.Space, w repo.Swapper) {
	ctx := t.Context()
	must(t, w.Swap(ctx, "swap", []byte("a"), ""))
	if err := w.Swap(ctx, "swap", []byte("b"), ""); !errors.Is(err, store.ErrChanged) {
		t.Errorf("made over another: %v", err)
	}
	_, version, err := w.Load(ctx, "swap", 10)
	must(t, err)
	must(t, w.Swap(ctx, "swap", []byte("c"), version))
	if err := w.Swap(ctx, "swap", []byte("d"), version); !errors.Is(err, store.ErrChanged) {
		t.Errorf("replaced another version: %v", err)
	}
	must(t, s.Remove(ctx, "swap"))
	if err := w.Swap(ctx, "swap", []byte("e"), version); !errors.Is(err, store.ErrChanged) {
		t.Errorf("replaced what is gone: %v", err)
	}
	if _, _, err := w.Load(ctx, "swap", 10); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("it is not there: %v", err)
	}
}

func ref(s string) repo.Ref {
	name, tag, _ := strings.Cut(s, ":")
	return repo.Ref{Repo: "repo", Name: name, Tag: tag}
}

// Push publishes as a push does.
func Push(ctx context.Context, s repo.Space, name string, p repo.Publication) error {
	return repo.Reserve(ctx, s, time.Now, func(ctx context.Context) error {
		_, err := repo.Publish(ctx, s, ref(name), p)
		return err
	})
}

// Check reads all of an image, and says whether it is that of p.
func Check(t testing.TB, s repo.Space, name string, p repo.Publication) bool {
	t.Helper()
	im, err := repo.Open(t.Context(), s, ref(name))
	must(t, err)
	tr, err := im.Tree(t.Context())
	must(t, err)
	c, err := im.Catar(t.Context())
	must(t, err)
	for i, x := range c.Index.Chunks {
		b, err := s.ReadFile(t.Context(), ChunkPath(x.ID), 1<<20)
		if err != nil || int64(len(b)) != c.Sizes[i] {
			t.Errorf("%s: chunk of %d bytes, %v", name, len(b), err)
		}
	}
	return bytes.Equal(tr.Canonical, p.TOC)
}

func testPublish(t *testing.T, s repo.Space) {
	one, two := Publication(t, s, "one"), Publication(t, s, "two")
	for _, name := range []string{"app:1", "team/app:1", "app:2"} {
		must(t, Push(t.Context(), s, name, one))
	}
	must(t, Push(t.Context(), s, "app:2", two))
	if !Check(t, s, "app:1", one) || !Check(t, s, "app:2", two) || !Check(t, s, "team/app:1", one) {
		t.Error("the images are others")
	}
	names, err := repo.Catalog(t.Context(), s)
	if want := "[{app [1 2]} {team/app [1]}]"; err != nil || fmt.Sprint(names) != want {
		t.Errorf("catalog %v, %v, want %s", names, err, want)
	}
	for e, err := range s.List(t.Context(), ".", true) {
		if must(t, err); strings.HasPrefix(filepath.Base(e.Path), ".") {
			t.Errorf("left %s", e.Path)
		}
	}
}

// Pushes to several tags at once lose none of them.
func testAtOnce(t *testing.T, s repo.Space) {
	var wg sync.WaitGroup
	for i := range 4 {
		p := Publication(t, s, fmt.Sprint(i))
		wg.Go(func() {
			if err := Push(t.Context(), s, fmt.Sprintf("app%d:t%d", i%2, i), p); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	names, err := repo.Catalog(t.Context(), s)
	if want := "[{app0 [t0 t2]} {app1 [t1 t3]}]"; err != nil || fmt.Sprint(names) != want {
		t.Errorf("catalog %v, %v, want %s", names, err, want)
	}
}

// Of pushes to one tag at once one is the last, with all of its files.
func testSameTag(t *testing.T, s repo.Space) {
	pubs := []repo.Publication{Publication(t, s, "0"), Publication(t, s, "1"), Publication(t, s, "2")}
	var wg sync.WaitGroup
	for _, p := range pubs {
		wg.Go(func() {
			if err := Push(t.Context(), s, "app:1", p); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	i := slices.IndexFunc(pubs, func(p repo.Publication) bool { return Check(t, s, "app:1", p) })
	if i < 0 {
		t.Fatal("the tag has no image that was pushed")
	}
	im, err := repo.Open(t.Context(), s, ref("app:1"))
	must(t, err)
	var index bytes.Buffer
	_, err = pubs[i].Catar.Index.WriteTo(&index)
	must(t, err)
	caidx, err := s.ReadFile(t.Context(), "app/1.caidx", 1<<20)
	if err != nil || !bytes.Equal(caidx, index.Bytes()) {
		t.Errorf("1.caidx is of another image: %v", err)
	}
	b, err := s.ReadFile(t.Context(), "app/index.json", 1<<20)
	if err != nil || !bytes.Contains(b, []byte(im.Digest)) {
		t.Errorf("index.json: %s, %v", b, err)
	}
}

// A push that stops at any of its writes leaves the old image or the new one.
func testStopped(t *testing.T, s repo.Space) {
	old, new := Publication(t, s, "old"), Publication(t, s, "new")
	must(t, Push(t.Context(), s, "app:1", old))
	stops, step := 0, int64(3)
	if _, ok := s.(*repo.Dir); ok { // which is fast
		step = 1
	}
	for n := int64(0); ; n += step {
		stopped := Stopping(s, n)
		err := Push(t.Context(), stopped, "app:1", new)
		if err != nil && !errors.Is(err, ErrStopped) {
			t.Fatalf("stopped at write %d: %v", n, err)
		}
		isNew := Check(t, s, "app:1", new)
		if !isNew && !Check(t, s, "app:1", old) {
			t.Fatalf("stopped at write %d: neither the old nor the new image", n)
		}
		if !isNew {
			stops++
		}
		unlock(t, s)
		if err == nil {
			break
		}
		if isNew {
			must(t, Push(t.Context(), s, "app:1", old))
		}
	}
	if stops < 2 {
		t.Errorf("it was stopped %d times before the tag changed", stops)
	}
}

// unlock removes what a writer that has died has left, which others wait for.
func unlock(t *testing.T, s repo.Space) {
	for e, err := range s.List(t.Context(), ".", false) {
		if must(t, err); strings.HasPrefix(e.Path, ".") {
			must(t, s.Remove(t.Context(), e.Path))
		}
	}
}

// ErrStopped is the error of a place that writes no more.
var ErrStopped = errors.New("stopped")

// Stopping returns s for a writer that dies before its write number n: nothing
// is written after that. What s knows beyond its interface is hidden, but for
// swapping.
func Stopping(s repo.Space, n int64) repo.Space {
	c := &stopping{Space: s}
	c.left.Store(n)
	if w, ok := s.(repo.Swapper); ok {
		return &stoppingSwapper{c, w}
	}
	return c
}

type stopping struct {
	repo.Space
	left atomic.Int64
}

func (s *stopping) write(f func() error) error {
	if s.left.Add(-1) < 0 {
		return ErrStopped
	}
	return f()
}

func (s *stopping) Put(ctx context.Context, path string, data io.ReaderAt, size int64) error {
	return s.write(func() error { return s.Space.Put(ctx, path, data, size) })
}

func (s *stopping) Create(ctx context.Context, path string, data []byte) error {
	return s.write(func() error { return s.Space.Create(ctx, path, data) })
}

func (s *stopping) Remove(ctx context.Context, path string) error {
	return s.write(func() error { return s.Space.Remove(ctx, path) })
}

type stoppingSwapper struct {
	*stopping
	swap repo.Swapper
}

func (s *stoppingSwapper) Load(ctx context.Context, path string, limit int64) ([]byte, string, error) {
	return s.swap.Load(ctx, path, limit)
}

func (s *stoppingSwapper) Swap(ctx context.Context, path string, data []byte, version string) error {
	return s.write(func() error { return s.swap.Swap(ctx, path, data, version) })
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
