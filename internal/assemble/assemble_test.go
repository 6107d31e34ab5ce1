package assemble

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/ociv2-sync/ociv2-sync/caibx"
	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/internal/testutil"
	"github.com/ociv2-sync/ociv2-sync/internal/tree"
	"github.com/ociv2-sync/ociv2-sync/seed"
	"github.com/ociv2-sync/ociv2-sync/store"
	"github.com/ociv2-sync/ociv2-sync/store/local"
	"github.com/ociv2-sync/ociv2-sync/store/storetest"
	"github.com/ociv2-sync/ociv2-sync/toc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// published is a tree as a repository has it.
type published struct {
	dir    string // the tree it was made from
	nodes  []toc.Node
	layout *toc.Layout
	space  *seed.Space
	store  storetest.Memory
	index  *caibx.Index
	stream []byte
}

// publish makes chunks of everything that testutil can put into a tree.
func publish(t *testing.T) *published {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "source")
	testutil.BuildTree(t, dir)
	testutil.BuildBeyondCasync(t, dir)
	return publishDir(t, dir)
}

func publishDir(t *testing.T, dir string) *published {
	t.Helper()
	p := &published{dir: dir}
	src, err := tree.Scan(t.Context(), p.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	var catar, extra bytes.Buffer
	if err := toc.WriteCatar(t.Context(), src, &catar); err != nil {
		t.Fatal(err)
	}
	if err := toc.WriteExtra(t.Context(), src, &extra); err != nil {
		t.Fatal(err)
	}
	p.nodes = src.Nodes
	if p.layout, err = toc.NewLayout(p.nodes); err != nil {
		t.Fatal(err)
	}
	var stored []int64
	p.index = p.cut(t, catar.Bytes(), &stored)
	more := p.cut(t, extra.Bytes(), &stored)
	if p.space, err = seed.NewSpace(p.index, more, stored); err != nil {
		t.Fatal(err)
	}
	p.stream = catar.Bytes()
	return p
}

// cut chunks a stream into the store.
func (p *published) cut(t *testing.T, b []byte, stored *[]int64) *caibx.Index {
	t.Helper()
	x := &caibx.Index{FeatureFlags: uint64(toc.ProjectionFlags), Params: chunk.Params{Min: 1 << 10, Avg: 4 << 10, Max: 16 << 10}}
	c, err := chunk.NewChunker(bytes.NewReader(b), x.Params)
	if err != nil {
		t.Fatal(err)
	}
	packer := store.NewPacker(0, x.Params.Max)
	for {
		data, err := c.Next()
		if err == io.EOF {
			return x
		}
		if err != nil {
			t.Fatal(err)
		}
		id := chunk.SHA512_256.Sum(data)
		if err := p.store.Put(t.Context(), id, packer.Pack(nil, data)); err != nil {
			t.Fatal(err)
		}
		n, err := p.store.StoredSize(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		*stored = append(*stored, n)
		x.Chunks = append(x.Chunks, caibx.Chunk{End: x.Size() + uint64(len(data)), ID: id})
	}
}

// plan makes a plan for the tree.
func (p *published) plan(t *testing.T, cached func(chunk.ID) bool, seeds ...seed.Seed) *seed.Plan {
	t.Helper()
	plan, err := seed.Match(t.Context(), p.nodes, seeds, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := plan.Cover(p.nodes, p.layout, p.space, cached); err != nil {
		t.Fatal(err)
	}
	return plan
}

// job is what builds the tree from the published chunks.
func (p *published) job(plan *seed.Plan, from store.Store, cache Cache) Job {
	return Job{
		Nodes: p.nodes, Plan: plan, Algorithm: p.space.Algorithm,
		Space: func(context.Context) (*seed.Space, error) { return p.space, nil },
		Store: from, Cache: cache,
	}
}

func nothing(chunk.ID) bool { return false }

// emptyDir makes a directory to build in.
func emptyDir(t *testing.T) *tree.Dir {
	t.Helper()
	d, err := tree.OpenDir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func dirSeed(t *testing.T, dir string) seed.Seed {
	t.Helper()
	s, err := seed.OpenDir(dir, seed.DirOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// newCache is the store in a directory that keeps fetched chunks.
func newCache(t *testing.T) *local.Store {
	t.Helper()
	s, err := local.Open(t.TempDir(), local.Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// From chunks alone, the tree is the one that was published, and what is
// fetched is what the plan says.
func TestRunFromChunks(t *testing.T) {
	p := publish(t)
	plan := p.plan(t, nothing)
	from := &storetest.Counting{Store: &p.store}
	dest := emptyDir(t)
	stats, err := Run(t.Context(), p.job(plan, from, newCache(t)), dest, Options{})
	if err != nil {
		t.Fatal(err)
	}
	testutil.CompareTrees(t, p.dir, dest.Path())
	n, size := from.Gets()
	want := plan.PerOrigin(seed.Fetched)
	if int(n) != want.Chunks || size != want.Wire || stats.Fetched != want.Chunks || stats.FetchedBytes != want.Wire {
		t.Errorf("fetched %d chunks, %d bytes (stats %+v), the plan says %+v", n, size, stats, want)
	}
	if len(stats.Unrestored) > 0 && unix.Geteuid() == 0 {
		t.Errorf("not restored: %v", stats.Unrestored)
	}
}

// With the contents in a seed, under whatever names, nothing is fetched.
// ContentsOnly makes a file for each content, from chunks and from seeds.
func TestRunContentsOnly(t *testing.T) {
	p := publish(t)
	for _, seeds := range [][]seed.Seed{nil, {dirSeed(t, p.dir)}} {
		dest := emptyDir(t)
		plan := p.plan(t, nothing, seeds...)
		if _, err := Run(t.Context(), p.job(plan, &p.store, newCache(t)), dest, Options{ContentsOnly: true}); err != nil {
			t.Fatal(err)
		}
		names, err := dest.Names()
		if err != nil || len(names) != len(plan.Contents) {
			t.Errorf("%d files for %d contents, %v", len(names), len(plan.Contents), err)
		}
		for _, c := range plan.Contents {
			b, err := os.ReadFile(filepath.Join(dest.Path(), ContentName(*c.Digest)))
			if err != nil || sha256.Sum256(b) != *c.Digest {
				t.Errorf("%x: wrong content, %v", c.Digest, err)
			}
		}
	}
}

func TestRunFromSeed(t *testing.T) {
	p := publish(t)
	from := &storetest.Counting{Store: &p.store}
	dest := emptyDir(t)
	plan := p.plan(t, nothing, dirSeed(t, p.dir))
	stats, err := Run(t.Context(), p.job(plan, from, newCache(t)), dest, Options{})
	if err != nil {
		t.Fatal(err)
	}
	testutil.CompareTrees(t, p.dir, dest.Path())
	if n, _ := from.Gets(); n != 0 || stats.Copied == 0 {
		t.Errorf("fetched %d chunks, copied %d contents", n, stats.Copied)
	}
}

// liar is a seed that claims every content and has other bytes, or none.
type liar struct{ seed.Seed }

func (l liar) Open(_ context.Context, path string) (io.ReadCloser, error) {
	if len(path)%2 == 0 {
		return nil, os.ErrNotExist
	}
	return io.NopCloser(bytes.NewReader(make([]byte, 1<<20))), nil
}

// A seed that changed since the plan was made costs a fetch, never a wrong
// file.
func TestRunSurvivesLyingSeed(t *testing.T) {
	p := publish(t)
	dest := emptyDir(t)
	plan := p.plan(t, nothing, liar{dirSeed(t, p.dir)})
	if len(plan.Missing) != 0 {
		t.Fatal("the plan does not count on the seed")
	}
	stats, err := Run(t.Context(), p.job(plan, &p.store, newCache(t)), dest, Options{})
	if err != nil {
		t.Fatal(err)
	}
	testutil.CompareTrees(t, p.dir, dest.Path())
	if len(stats.Lost) == 0 || stats.Fetched == 0 {
		t.Errorf("stats %+v", stats)
	}
}

// A run that was cut off leaves its chunks in the cache; the next one fetches
// only the rest.
func TestRunResumes(t *testing.T) {
	p := publish(t)
	cache := newCache(t)
	plan := p.plan(t, nothing)
	broken := errors.New("link broke")
	half := plan.PerOrigin(seed.Fetched).Chunks / 2
	faulty := &cutOff{Store: &p.store, left: int64(half), err: broken}
	_, err := Run(t.Context(), p.job(plan, faulty, cache), emptyDir(t), Options{Jobs: 1})
	if !errors.Is(err, broken) {
		t.Fatalf("error %v, want %v", err, broken)
	}
	has := func(id chunk.ID) bool {
		_, err := cache.StoredSize(t.Context(), id)
		return err == nil
	}
	plan = p.plan(t, has)
	rest := plan.PerOrigin(seed.Fetched).Chunks
	if kept := plan.PerOrigin(seed.Cached).Chunks; kept != half || rest == 0 {
		t.Errorf("%d chunks were kept, want %d; %d are to be fetched", kept, half, rest)
	}
	from := &storetest.Counting{Store: &p.store}
	dest := emptyDir(t)
	if _, err := Run(t.Context(), p.job(plan, from, cache), dest, Options{}); err != nil {
		t.Fatal(err)
	}
	testutil.CompareTrees(t, p.dir, dest.Path())
	if n, _ := from.Gets(); int(n) != rest {
		t.Errorf("fetched %d chunks, the plan says %d", n, rest)
	}
}

// cutOff is a store whose link breaks after a number of chunks.
type cutOff struct {
	store.Store
	left int64
	err  error
}

func (c *cutOff) Get(ctx context.Context, id chunk.ID, limit int64) (store.Packed, error) {
	if c.left == 0 {
		return store.Packed{}, c.err
	}
	c.left--
	return c.Store.Get(ctx, id, limit)
}

// A cache that a crash left with wrong bytes costs a fetch.
func TestRunMistrustsCache(t *testing.T) {
	p := publish(t)
	cache := newCache(t)
	plan := p.plan(t, func(chunk.ID) bool { return true })
	for i, c := range plan.Chunks {
		bad := store.Packed{Data: []byte("\x28\xb5\x2f\xfd garbage")}
		if i%2 == 0 {
			if err := cache.Put(t.Context(), c.ID, bad); err != nil {
				t.Fatal(err)
			}
		}
	}
	dest := emptyDir(t)
	stats, err := Run(t.Context(), p.job(plan, &p.store, cache), dest, Options{})
	if err != nil {
		t.Fatal(err)
	}
	testutil.CompareTrees(t, p.dir, dest.Path())
	if stats.Fetched == 0 {
		t.Error("nothing was fetched")
	}
}

// Chunks that are not those of the index, and indexes that are not those of
// the table of contents, are told from each other.
func TestRunRefusesForgery(t *testing.T) {
	p := publish(t)
	t.Run("chunk", func(t *testing.T) {
		forged := &forger{Store: &p.store}
		_, err := Run(t.Context(), p.job(p.plan(t, nothing), forged, newCache(t)), emptyDir(t), Options{})
		if !errors.Is(err, store.ErrCorrupt) {
			t.Errorf("error %v, want %v", err, store.ErrCorrupt)
		}
	})
	t.Run("content", func(t *testing.T) {
		for i := range p.nodes {
			if p.nodes[i].Size > 0 && p.nodes[i].Link < 0 {
				p.nodes[i].Digest[0] ^= 1
				break
			}
		}
		_, err := Run(t.Context(), p.job(p.plan(t, nothing), &p.store, newCache(t)), emptyDir(t), Options{})
		if !errors.Is(err, ErrContent) {
			t.Errorf("error %v, want %v", err, ErrContent)
		}
	})
}

// forger gives every chunk the packed bytes of one chunk.
type forger struct {
	store.Store
}

func (f *forger) Get(context.Context, chunk.ID, int64) (store.Packed, error) {
	return store.NewPacker(0, 16).Pack(nil, []byte("forged")), nil
}

func TestRunStopsWhenCancelled(t *testing.T) {
	p := publish(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := Run(ctx, p.job(p.plan(t, nothing), &p.store, newCache(t)), emptyDir(t), Options{})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want %v", err, context.Canceled)
	}
}

// Copy gives back the stream that was cut, whatever the number of jobs.
func TestCopy(t *testing.T) {
	p := publish(t)
	for _, jobs := range []int{0, 1, 3, 64} {
		for _, near := range []bool{false, true} {
			var got bytes.Buffer
			if err := Copy(t.Context(), &got, p.index, &p.store, jobs, near); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got.Bytes(), p.stream) {
				t.Errorf("with %d jobs, near %v, the stream differs", jobs, near)
			}
		}
	}
	p.index.Chunks[3].ID[0] ^= 1
	if err := Copy(t.Context(), io.Discard, p.index, &p.store, 0, false); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("error %v, want %v", err, store.ErrNotFound)
	}
}

// A changed file costs the chunks that changed; a seed that changes after it
// was planned with costs the chunks that it was to give.
func TestRunCutsChunksOutOfSeeds(t *testing.T) {
	content := make([]byte, 512<<10)
	rand.NewChaCha8([32]byte{1}).Read(content)
	source, old := filepath.Join(t.TempDir(), "source"), t.TempDir()
	if err := os.Mkdir(source, 0o755); err != nil {
		t.Fatal(err)
	}
	write := func(path string, b []byte) {
		t.Helper()
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(filepath.Join(source, "lib.so.2"), content)
	before := slices.Concat([]byte("inserted"), content[8:])
	before[300<<10] ^= 1
	write(filepath.Join(old, "lib.so.1"), before)
	p := publishDir(t, source)

	for name, change := range map[string]func() error{
		"unchanged": func() error { return nil },
		"changed":   func() error { return os.WriteFile(filepath.Join(old, "lib.so.1"), make([]byte, len(before)), 0o644) },
		"shrunk":    func() error { return os.Truncate(filepath.Join(old, "lib.so.1"), 10) },
		"vanished":  func() error { return os.Remove(filepath.Join(old, "lib.so.1")) },
	} {
		t.Run(name, func(t *testing.T) {
			write(filepath.Join(old, "lib.so.1"), before)
			plan := p.plan(t, nothing, dirSeed(t, old))
			if err := plan.Recut(t.Context(), p.nodes, p.space, nil); err != nil {
				t.Fatal(err)
			}
			use, fetch := plan.PerSeed()[0], plan.PerOrigin(seed.Fetched)
			if use.Chunks < 50 || fetch.Bytes > 64<<10 {
				t.Fatalf("%d chunks are in the seed, %d bytes are to be fetched", use.Chunks, fetch.Bytes)
			}
			if err := change(); err != nil {
				t.Fatal(err)
			}
			dest := t.TempDir()
			d, err := tree.OpenDir(dest)
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			stats, err := Run(t.Context(), p.job(plan, &p.store, &storetest.Memory{}), d, Options{})
			if err != nil {
				t.Fatal(err)
			}
			testutil.CompareTrees(t, source, dest)
			want := fetch.Chunks
			if name != "unchanged" {
				want += use.Chunks
			}
			if stats.Fetched != want || stats.Lost[Changed]+stats.Lost[Resized]+stats.Lost[Gone] != want-fetch.Chunks {
				t.Errorf("%d chunks were fetched and %v lost, want %d fetched", stats.Fetched, stats.Lost, want)
			}
		})
	}
}
