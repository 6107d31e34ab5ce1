package archive_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ociv2-sync/ociv2-sync/internal/archive"
	"github.com/ociv2-sync/ociv2-sync/internal/testutil"
	disk "github.com/ociv2-sync/ociv2-sync/internal/tree"
	"github.com/ociv2-sync/ociv2-sync/store"
)

// seedable builds a tree with files of all sizes, all of one time, and an index
// of it; at gives paths beside them.
func seedable(t *testing.T, dir string) (source, index string) {
	t.Helper()
	source = filepath.Join(dir, "source")
	for d := range 6 {
		sub := filepath.Join(source, fmt.Sprint("d", d), "sub")
		must(t, os.MkdirAll(sub, 0o755))
		for i := range 20 {
			write(t, filepath.Join(sub, fmt.Sprint("f", i)), blob(100+i*i*i*7, uint64(100*d+i)))
		}
	}
	write(t, filepath.Join(source, "large"), blob(3<<20, 1))
	write(t, filepath.Join(source, "empty"), nil)
	must(t, os.Symlink("large", filepath.Join(source, "link")))
	settle(t, source)
	index = filepath.Join(dir, "x.caidx")
	makeOf(t, source, index, nil)
	return source, index
}

// settle gives all of a tree one time.
func settle(t *testing.T, dir string) {
	t.Helper()
	when := time.Unix(1_600_000_000, 7)
	must(t, filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		return errors.Join(err, lutimes(path, when))
	}))
}

// copyOf copies a tree with all its metadata.
func copyOf(t *testing.T, from, to string) string {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), "cp", "-a", from, to).CombinedOutput(); err != nil {
		t.Fatalf("%s", out)
	}
	return to
}

// restore extracts with options and returns what came from where.
func restore(t *testing.T, index, dest string, change func(*archive.ExtractOptions)) *archive.Restored {
	t.Helper()
	opts := everything(t)
	if change != nil {
		change(&opts)
	}
	done, err := archive.Extract(t.Context(), open(t, index), dest, opts)
	if err != nil {
		t.Fatal(err)
	}
	return done
}

// TestSeeds extracts with all kinds of seeds, and without a store for what they
// have.
func TestSeeds(t *testing.T) {
	dir := t.TempDir()
	source, index := seedable(t, dir)
	at := func(name string) string { return filepath.Join(dir, name) }
	total := len(open(t, index).Index.Chunks)
	makeOf(t, source, at("x.catar"), nil)
	must(t, os.Mkdir(at("other"), 0o755))
	makeOf(t, source, at("other/y.caidx"), nil)
	changed := copyOf(t, source, at("changed"))
	write(t, filepath.Join(changed, "d3/sub/new"), blob(10_000, 9))
	parent := at("parent")
	must(t, os.Mkdir(parent, 0o755))
	copyOf(t, source, filepath.Join(parent, "inner"))
	must(t, os.Mkdir(at("nothing.castr"), 0o755))
	for name, tt := range map[string]struct {
		seeds  []string
		seeded int // at least
	}{
		"a directory":        {[]string{source}, total},
		"an archive":         {[]string{at("x.catar")}, total},
		"an index":           {[]string{at("other/y.caidx")}, total},
		"a parent directory": {[]string{parent}, total * 9 / 10},
		"an older directory": {[]string{changed}, total - 5},
		"two":                {[]string{changed, at("x.catar")}, total},
		"something else":     {[]string{at("default.castr")}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			dest := filepath.Join(t.TempDir(), "dest")
			done := restore(t, index, dest, func(o *archive.ExtractOptions) { o.Seeds = tt.seeds })
			if done.Seeded < tt.seeded || done.Seeded+done.Fetched != total {
				t.Errorf("%+v of %d chunks", *done, total)
			}
			testutil.CompareTrees(t, source, dest)
			if tt.seeded < total {
				return
			}
			in, err := archive.Open(t.Context(), index, archive.OpenOptions{Stores: []string{at("nothing.castr")}})
			must(t, err)
			defer in.Close()
			opts := everything(t)
			opts.Seeds = tt.seeds
			dry := opts
			dry.DryRun = true
			if done, err := archive.Extract(t.Context(), in, dest, dry); err != nil || done.Seeded != total {
				t.Errorf("dry run: %+v, %v", done, err)
			}
			if _, err := archive.Extract(t.Context(), in, filepath.Join(t.TempDir(), "alone"), opts); err != nil {
				t.Errorf("without a store: %v", err)
			}
		})
	}
	for _, bad := range []string{at("nowhere"), "https://host/x", "host:x.caidx"} {
		opts := everything(t)
		opts.Seeds = []string{bad}
		if _, err := archive.Extract(t.Context(), open(t, index), at("never"), opts); err == nil {
			t.Errorf("the seed %s: no error", bad)
		}
	}
	dry := everything(t)
	dry.DryRun = true
	if done, err := archive.Extract(t.Context(), open(t, index), at("never"), dry); err != nil || done.Fetched != total {
		t.Errorf("dry run: %+v, %v", done, err)
	}
	if _, err := os.Lstat(at("never")); err == nil {
		t.Error("a dry run made something")
	}
}

// TestSeedOutput changes a directory in place: what is right in it stays, and
// is not fetched.
func TestSeedOutput(t *testing.T) {
	dir := t.TempDir()
	source, index := seedable(t, dir)
	total := len(open(t, index).Index.Chunks)
	dest := copyOf(t, source, filepath.Join(dir, "dest"))
	ino := func(name string) uint64 { return stat(t, filepath.Join(dest, name)).Ino }
	large, small := ino("large"), ino("d1/sub/f5")

	// Damaged behind its time; changed openly; too many; too few.
	b := read(t, filepath.Join(dest, "d2/sub/f19"))
	b[len(b)-1]++
	write(t, filepath.Join(dest, "d2/sub/f19"), b)
	must(t, lutimes(filepath.Join(dest, "d2/sub/f19"), time.Unix(1_600_000_000, 7)))
	write(t, filepath.Join(dest, "d3/sub/f3"), []byte("changed"))
	write(t, filepath.Join(dest, "extra"), nil)
	must(t, os.Remove(filepath.Join(dest, "d4/sub/f4")))
	must(t, os.Chmod(filepath.Join(dest, "d5/sub/f5"), 0o777))
	for _, d := range []string{"d2/sub", "d3/sub", "d4/sub", "d5/sub", "."} {
		must(t, lutimes(filepath.Join(dest, d), time.Unix(1_600_000_000, 7)))
	}
	mode := ino("d5/sub/f5")
	done := restore(t, index, dest, nil)
	if done.Fetched > 12 || done.Seeded+done.Fetched != total {
		t.Errorf("%+v of %d chunks", *done, total)
	}
	testutil.CompareTrees(t, source, dest)
	if ino("large") != large || ino("d1/sub/f5") != small || ino("d5/sub/f5") != mode {
		t.Error("files that were right were written again")
	}
	if done := restore(t, index, dest, nil); done.Fetched != 0 {
		t.Errorf("again: %+v", *done)
	}
	if done := restore(t, index, dest, func(o *archive.ExtractOptions) { o.SeedOutput = false }); done.Seeded != 0 {
		t.Errorf("without the output as a seed: %+v", *done)
	}
	testutil.CompareTrees(t, source, dest)
}

// TestSeedShift finds chunks in an output whose owners were shifted.
func TestSeedShift(t *testing.T) {
	testutil.NeedRoot(t)
	dir := t.TempDir()
	source, _ := seedable(t, dir)
	index := filepath.Join(dir, "n.caidx")
	makeOf(t, source, index, func(o *archive.MakeOptions) { o.Flags &^= 4 }) // names of owners
	dest := filepath.Join(dir, "dest")
	shift := func(o *archive.ExtractOptions) { o.Tree.Shift = disk.IDShift{Base: 100_000, Range: 65_536} }
	restore(t, index, dest, shift)
	if done := restore(t, index, dest, shift); done.Fetched != 0 {
		t.Errorf("its own output: %+v", *done)
	}
	done := restore(t, index, filepath.Join(dir, "another"), func(o *archive.ExtractOptions) {
		shift(o)
		o.Seeds = []string{source}
	})
	if done.Fetched != 0 {
		t.Errorf("a seed that is not shifted: %+v", *done)
	}
}

// TestSeedChanges has a seed change after it was read.
func TestSeedChanges(t *testing.T) {
	dir := t.TempDir()
	source, index := seedable(t, dir)
	seed := copyOf(t, source, filepath.Join(dir, "seed"))
	dest := filepath.Join(dir, "dest")
	fifo := filepath.Join(dir, "fifo")
	must(t, syscall.Mkfifo(fifo, 0o600))
	changed := make(chan error, 1)
	go func() {
		f, err := os.OpenFile(fifo, os.O_WRONLY, 0) // waits for who reads it
		if err == nil {
			err = errors.Join(
				os.WriteFile(filepath.Join(seed, "large"), blob(3<<20, 77), 0o600), os.Remove(filepath.Join(seed, "d2/sub/f18")),
				os.RemoveAll(filepath.Join(seed, "d4")), os.Symlink("/", filepath.Join(seed, "d4")), f.Close())
		}
		changed <- err
	}()
	done := restore(t, index, dest, func(o *archive.ExtractOptions) {
		o.Seeds = []string{seed, fifo} // read one after the other
		o.Reflink = true
		o.Hardlink = true
	})
	must(t, <-changed)
	if done.Fetched == 0 || done.Seeded == 0 {
		t.Errorf("%+v", *done)
	}
	testutil.CompareTrees(t, source, dest, testutil.Without(testutil.HardLinks))
}

// TestHardlink links what is the same in a seed.
func TestHardlink(t *testing.T) {
	dir := t.TempDir()
	source, index := seedable(t, dir)
	seed := copyOf(t, source, filepath.Join(dir, "seed"))
	must(t, os.Chmod(filepath.Join(seed, "d1/sub/f19"), 0o604))
	for _, there := range []bool{false, true} {
		dest := filepath.Join(dir, fmt.Sprint("dest", there))
		if there {
			must(t, os.Mkdir(dest, 0o755))
		}
		restore(t, index, dest, func(o *archive.ExtractOptions) {
			o.Seeds = []string{seed}
			o.Hardlink = true
		})
		testutil.CompareTrees(t, source, dest, testutil.Without(testutil.HardLinks))
		linked := 0
		must(t, filepath.WalkDir(dest, func(path string, e fs.DirEntry, err error) error {
			if err == nil && e.Type().IsRegular() && stat(t, path).Nlink > 1 {
				linked++
			}
			return err
		}))
		if linked < 100 {
			t.Errorf("%d files are linked", linked)
		}
		if n := stat(t, filepath.Join(dest, "d1/sub/f19")).Nlink; n != 1 {
			t.Error("a file of another mode is linked")
		}
	}
}

// reflinkTree shares blocks with a seed of a tree.
func reflinkTree(t *testing.T, dir string) {
	source, index := seedable(t, dir)
	for reflink, shared := range map[bool]bool{true: true, false: false} {
		dest := filepath.Join(dir, fmt.Sprint("dest", reflink))
		restore(t, index, dest, func(o *archive.ExtractOptions) {
			o.Seeds = []string{source}
			o.Reflink = reflink
		})
		testutil.CompareTrees(t, source, dest)
		out, err := exec.CommandContext(t.Context(), "filefrag", "-sv", filepath.Join(dest, "large")).Output()
		must(t, err)
		if strings.Contains(string(out), "shared") != shared {
			t.Errorf("reflink %v:\n%s", reflink, out)
		}
	}
}

// TestPartial names what a failed extraction in place has changed, and finds
// before it what can be found before.
func TestPartial(t *testing.T) {
	dir := t.TempDir()
	source, index := seedable(t, dir)
	dest := copyOf(t, source, filepath.Join(dir, "dest"))
	write(t, filepath.Join(dest, "d1/sub/f1"), []byte("old"))
	write(t, filepath.Join(dest, "d1/sub/gone"), nil)
	must(t, os.RemoveAll(filepath.Join(dest, "d3")))
	write(t, filepath.Join(dest, "d2/sub/f7"), []byte("old"))
	must(t, unix.Setxattr(filepath.Join(dest, "d1/sub/f2"), "user.more", []byte("1"), 0))

	// A store without some chunk is found out before anything changes.
	ids := open(t, index).Index.Chunks
	last := ids[len(ids)-1].ID.String()
	path := filepath.Join(dir, "default.castr", last[:4], last+".cacnk")
	must(t, os.Rename(path, path+".away"))
	_, err := archive.Extract(t.Context(), open(t, index), dest, everything(t))
	var partial *disk.PartialError
	if !errors.Is(err, store.ErrNotFound) || errors.As(err, &partial) {
		t.Errorf("a missing chunk: %v", err)
	}
	if string(read(t, filepath.Join(dest, "d1/sub/f1"))) != "old" {
		t.Error("something was changed")
	}
	must(t, os.Rename(path+".away", path))

	// A stream that breaks off is found out when it does.
	makeOf(t, source, filepath.Join(dir, "x.catar"), nil)
	whole := read(t, filepath.Join(dir, "x.catar"))
	cut := write(t, filepath.Join(dir, "cut.catar"), whole[:len(whole)-100])
	_, err = archive.Extract(t.Context(), open(t, cut), dest, everything(t))
	if err == nil || errors.As(err, &partial) {
		t.Errorf("a file that ends early: %v", err)
	}
	f, err := os.Open(cut)
	must(t, err)
	defer f.Close()
	in, err := archive.Open(t.Context(), "-", archive.OpenOptions{Stdin: f})
	must(t, err)
	defer in.Close()
	_, err = archive.Extract(t.Context(), in, dest, everything(t))
	if !errors.As(err, &partial) {
		t.Fatalf("a stream that ends early: %v", err)
	}
	want := []string{"d1/sub/f1", "d1/sub/f2", "d1/sub/gone", "d1/sub", "d2/sub/f7", "d3"}
	if !slices.Equal(partial.Changed, want) {
		t.Errorf("changed %q, want %q", partial.Changed, want)
	}
}

// loop mounts a new filesystem and returns where.
func loop(t *testing.T, kind string) string {
	t.Helper()
	testutil.NeedRoot(t)
	testutil.Need(t, "mkfs."+kind, "mount", "filefrag")
	base := t.TempDir()
	image, dir := filepath.Join(base, "image"), filepath.Join(base, "mnt")
	must(t, errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, 400<<20), os.Mkdir(dir, 0o755)))
	for _, c := range [][]string{{"mkfs." + kind, "-q", image}, {"mount", "-o", "loop", image, dir}} {
		if out, err := exec.CommandContext(t.Context(), c[0], c[1:]...).CombinedOutput(); err != nil {
			t.Skipf("%v: %s", c, out)
		}
	}
	t.Cleanup(func() { // after the inputs there are closed
		if out, err := exec.CommandContext(context.WithoutCancel(t.Context()), "umount", dir).CombinedOutput(); err != nil {
			t.Errorf("%s", out)
		}
	})
	return dir
}
