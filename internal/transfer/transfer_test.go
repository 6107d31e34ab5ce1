package transfer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/ociv2-sync/ociv2-sync/internal/assemble"
	"github.com/ociv2-sync/ociv2-sync/internal/repo"
	"github.com/ociv2-sync/ociv2-sync/internal/testutil"
	"github.com/ociv2-sync/ociv2-sync/seed"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// files is how many files of 100 KiB a test's image has.
const files = 20

// noise is the content of file i of a generation.
func noise(generation, i int) []byte {
	r := rand.NewChaCha8([32]byte{byte(generation), byte(i)})
	b := make([]byte, 100<<10)
	_, _ = r.Read(b)
	return b
}

// pushTree makes a tree and pushes it.
func pushTree(t *testing.T, dir string, generation int) (tree string, ref repo.Ref) {
	t.Helper()
	tree = filepath.Join(t.TempDir(), "tree")
	must(t, os.Mkdir(tree, 0o755))
	for i := range files {
		must(t, os.WriteFile(filepath.Join(tree, fmt.Sprint("file", i)), noise(generation, i), 0o644))
	}
	ref, err := repo.ParseRef(fmt.Sprintf("%s/app:%d", dir, generation))
	must(t, err)
	_, err = Push(t.Context(), "rootfs:"+tree, ref, PushOptions{})
	must(t, err)
	return tree, ref
}

func newOptions(t *testing.T) PullOptions {
	t.Helper()
	return PullOptions{Root: filepath.Join(t.TempDir(), "root"), MaxBytes: -1}
}

func TestSeedsThatChange(t *testing.T) {
	tree, ref := pushTree(t, t.TempDir(), 1)
	for name, c := range map[string]struct {
		change func(path string) error
		loss   assemble.Loss
	}{
		"other bytes":   {func(path string) error { return os.WriteFile(path, noise(2, 0), 0o644) }, assemble.Changed},
		"shorter":       {func(path string) error { return os.Truncate(path, 100) }, assemble.Resized},
		"longer":        {func(path string) error { return os.Truncate(path, 1<<20) }, assemble.Resized},
		"gone":          {os.Remove, assemble.Gone},
		"a directory":   {func(path string) error { return errors.Join(os.Remove(path), os.Mkdir(path, 0o755)) }, assemble.Unreadable},
		"a symlink":     {func(path string) error { return errors.Join(os.Remove(path), os.Symlink("file0", path)) }, assemble.Unreadable},
		"a loop":        {func(path string) error { return errors.Join(os.Remove(path), os.Symlink(path, path)) }, assemble.Unreadable},
		"a FIFO":        {func(path string) error { return errors.Join(os.Remove(path), unix.Mkfifo(path, 0o644)) }, assemble.Unreadable},
		"nothing in it": {func(path string) error { return os.Truncate(path, 0) }, assemble.Resized},
	} {
		t.Run(name, func(t *testing.T) {
			seed := filepath.Join(t.TempDir(), "seed")
			must(t, os.CopyFS(seed, os.DirFS(tree)))
			opts := newOptions(t)
			opts.Seeds = []string{seed}
			opts.Dest = Dest{Kind: RootFS, Path: filepath.Join(t.TempDir(), "dest")}
			p, err := Pull(t.Context(), ref, opts, func(p *Prepared) {
				if len(p.Plan.Missing) != 0 {
					t.Errorf("%d contents are not in the seed", len(p.Plan.Missing))
				}
				must(t, c.change(filepath.Join(seed, "file3")))
				must(t, c.change(filepath.Join(seed, "file9")))
			})
			must(t, err)
			if p.Stats.Lost[c.loss] != 2 || len(p.Stats.Lost) != 1 || p.Stats.Copied != files-2 || p.Stats.Fetched == 0 {
				t.Errorf("stats %+v, want two contents lost and fetched", p.Stats)
			}
			testutil.CompareTrees(t, tree, opts.Dest.Path)
		})
	}
}

// cutPull pulls until half of the image has arrived.
func cutPull(t *testing.T, ref repo.Ref, opts PullOptions) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var sum atomic.Int64
	opts.Progress = func(received, _ int64) {
		if sum.Add(received) > files*100<<10/2 {
			cancel()
		}
	}
	if _, err := Pull(ctx, ref, opts, nil); !errors.Is(err, context.Canceled) {
		t.Fatalf("error %v, want context.Canceled", err)
	}
}

func TestCutPullResumes(t *testing.T) {
	dir := t.TempDir()
	_, ref := pushTree(t, dir, 1)
	opts := newOptions(t)
	_, err := Pull(t.Context(), ref, opts, nil)
	must(t, err)
	tree, next := pushTree(t, dir, 2)
	cutPull(t, next, opts)
	cached := func(p *Prepared) int { return p.Plan.PerOrigin(seed.Cached).Chunks }

	p, err := Prepare(t.Context(), next, opts)
	must(t, err)
	if n := cached(p); n < files/2 {
		t.Errorf("the plan counts on %d chunks that were fetched before", n)
	}
	must(t, p.Close())

	var planned int
	out, err := Pull(t.Context(), next, opts, func(p *Prepared) { planned = p.Plan.PerOrigin(seed.Fetched).Chunks })
	must(t, err)
	if out.Stats.Fetched != planned {
		t.Errorf("%d chunks fetched, the plan said %d", out.Stats.Fetched, planned)
	}
	testutil.CompareTrees(t, tree, currentTree(t, out.Path))
}

func currentTree(t *testing.T, path string) string {
	t.Helper()
	path, err := filepath.EvalSymlinks(path)
	must(t, err)
	return path
}

// TestCacheOfACrash has the chunks that an interrupted pull left be damaged, as a
// power failure may leave them.
func TestCacheOfACrash(t *testing.T) {
	tree, ref := pushTree(t, t.TempDir(), 1)
	opts := newOptions(t)
	cutPull(t, ref, opts)
	n := 0
	must(t, filepath.WalkDir(filepath.Join(opts.Root, "chunks.castr"), func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		must(t, err)
		must(t, os.Remove(path))
		switch n++; n % 4 {
		case 0:
			b = nil
		case 1:
			b = b[:len(b)/2]
		case 2:
			b = make([]byte, len(b))
		case 3:
			b[len(b)/2]++
		}
		return os.WriteFile(path, b, 0o444)
	}))
	if n < 4 {
		t.Fatalf("%d chunks are kept", n)
	}
	out, err := Pull(t.Context(), ref, opts, nil)
	must(t, err)
	testutil.CompareTrees(t, tree, currentTree(t, out.Path))
}

// TestDamagedRoot has parts of the root be lost: the next pull makes them again,
// and what is left serves as a seed.
func TestDamagedRoot(t *testing.T) {
	for _, what := range []string{"trees/*/tree.json", "trees/*/rootfs", "trees/*", "blobs/*/*", "images/*", "refs/*"} {
		t.Run(what, func(t *testing.T) {
			tree, ref := pushTree(t, t.TempDir(), 1)
			opts := newOptions(t)
			_, err := Pull(t.Context(), ref, opts, nil)
			must(t, err)
			paths, err := filepath.Glob(filepath.Join(opts.Root, what))
			must(t, err)
			if len(paths) == 0 {
				t.Fatalf("nothing is at %s", what)
			}
			for _, path := range paths {
				must(t, os.RemoveAll(path))
			}
			out, err := Pull(t.Context(), ref, opts, nil)
			must(t, err)
			testutil.CompareTrees(t, tree, currentTree(t, out.Path))
		})
	}
}

// TestDamagedPredecessor has an image that is kept for rollback be damaged, which
// does not stand in the way of the next.
func TestDamagedPredecessor(t *testing.T) {
	dir := t.TempDir()
	_, ref := pushTree(t, dir, 1)
	opts := newOptions(t)
	out, err := Pull(t.Context(), ref, opts, nil)
	must(t, err)
	old := currentTree(t, out.Path)
	tree, _ := pushTree(t, dir, 2)
	_, err = Push(t.Context(), "rootfs:"+tree, ref, PushOptions{})
	must(t, err)
	must(t, os.RemoveAll(old))
	out, err = Pull(t.Context(), ref, opts, nil)
	must(t, err)
	testutil.CompareTrees(t, tree, currentTree(t, out.Path))
}

func TestPrepareChangesNothing(t *testing.T) {
	_, ref := pushTree(t, t.TempDir(), 1)
	opts := newOptions(t)
	p, err := Prepare(t.Context(), ref, opts)
	must(t, err)
	must(t, p.Close())
	if _, err := os.Lstat(opts.Root); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the root: %v", err)
	}
}

func TestCheckSpace(t *testing.T) {
	dir := t.TempDir()
	absent := filepath.Join(dir, "not", "there", "yet")
	must(t, checkSpace(absent, 1, 0))
	if err := checkSpace(absent, 1<<62+1, 0); !errors.Is(err, ErrSpace) {
		t.Errorf("error %v, want ErrSpace", err)
	}
	if _, err := freeSpace(filepath.Join(dir, "x\x00y")); err == nil {
		t.Error("an impossible path has free space")
	}
	must(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o644))
	if !sameFilesystem(dir, filepath.Join(dir, "file")) || sameFilesystem(dir, "/proc") {
		t.Error("filesystems are confused")
	}
}

func TestPushRefuses(t *testing.T) {
	for _, s := range []string{"http://h/app:1", "/repo/app@sha256:" + string(bytes.Repeat([]byte("0"), 64))} {
		ref, err := repo.ParseRef(s)
		must(t, err)
		if _, err := Push(t.Context(), "rootfs:"+t.TempDir(), ref, PushOptions{}); !errors.Is(err, ErrUsage) {
			t.Errorf("%s: error %v, want ErrUsage", s, err)
		}
	}
}
