package assemble

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ociv2-sync/ociv2-sync/internal/testutil"
	"github.com/ociv2-sync/ociv2-sync/internal/tree"
)

// sparseTree fills a directory with a file of 4 MB, the same again, and one of 24 MB that
// is a hole but for some bytes in the middle.
func sparseTree(t *testing.T, dir string) {
	t.Helper()
	must(t, os.MkdirAll(dir, 0o755))
	full := bytes.Repeat([]byte("0123456789abcde\n"), 4<<20/16)
	must(t, os.WriteFile(filepath.Join(dir, "full"), full, 0o644))
	must(t, os.WriteFile(filepath.Join(dir, "again"), full, 0o600))
	f, err := os.Create(filepath.Join(dir, "sparse"))
	must(t, err)
	defer f.Close()
	_, err = f.WriteAt([]byte("in the middle"), 12<<20)
	must(t, err)
	must(t, f.Truncate(24<<20))
	must(t, f.Sync())
}

// used returns the bytes in use on the filesystem of a directory, everything written.
func used(t *testing.T, dir string) int64 {
	t.Helper()
	d, err := tree.OpenDir(dir)
	must(t, err)
	defer d.Close()
	must(t, d.Sync())
	var st unix.Statfs_t
	must(t, unix.Statfs(dir, &st))
	return int64(st.Blocks-st.Bfree) * st.Bsize
}

// Copies from a seed share blocks on filesystems that can, are copied on others and when
// asked to be, and have holes where the seed has.
func TestLocalCopies(t *testing.T) {
	for _, fs := range []struct {
		name   string
		shares bool
		args   []string
	}{
		{"xfs", true, []string{"-q"}},
		{"btrfs", true, []string{"-q"}},
		{"ext4", false, []string{"-q"}},
	} {
		t.Run(fs.name, func(t *testing.T) {
			mount := testutil.LoopMount(t, fs.name, fs.args...)
			if tree.CanClone(mount) != fs.shares {
				t.Errorf("CanClone says %v", !fs.shares)
			}
			source := filepath.Join(mount, "source")
			sparseTree(t, source)
			p := publishDir(t, source)
			for _, noClone := range []bool{false, true} {
				before := used(t, mount)
				dir := filepath.Join(mount, map[bool]string{false: "cloned", true: "copied"}[noClone])
				must(t, os.Mkdir(dir, 0o755))
				dest, err := tree.OpenDir(dir)
				must(t, err)
				defer dest.Close()
				stats, err := Run(t.Context(), p.job(p.plan(t, nothing, dirSeed(t, source)), &p.store, newCache(t)), dest, Options{NoClone: noClone})
				must(t, err)
				testutil.CompareTrees(t, source, dir)
				var want int64
				if noClone || !fs.shares {
					want = 8 << 20
				}
				if grown := used(t, mount) - before; grown < want || grown > want+2<<20 || stats.Copied != 2 {
					t.Errorf("noClone %v: %d bytes more, want %d; %+v", noClone, grown, want, stats)
				}
			}
		})
	}
}

// Zeros from chunks become holes.
func TestRunLeavesHoles(t *testing.T) {
	source := filepath.Join(t.TempDir(), "source")
	sparseTree(t, source)
	p := publishDir(t, source)
	dest := emptyDir(t)
	_, err := Run(t.Context(), p.job(p.plan(t, nothing), &p.store, newCache(t)), dest, Options{})
	must(t, err)
	testutil.CompareTrees(t, source, dest.Path())
	must(t, dest.Sync())
	if st := stamps(t, dest.Path())["/sparse"]; st.Size != 24<<20 {
		t.Errorf("size %d", st.Size)
	}
	var st unix.Stat_t
	must(t, unix.Stat(filepath.Join(dest.Path(), "sparse"), &st))
	if st.Blocks*512 > 1<<20 {
		t.Errorf("a hole takes %d bytes", st.Blocks*512)
	}
}

// What a filesystem cannot hold is named, and the rest is there: on xfs the targets of
// symbolic links have at most 1023 bytes.
func TestLacksWhatFilesystemCannotHold(t *testing.T) {
	source := filepath.Join(t.TempDir(), "source")
	must(t, os.Mkdir(source, 0o755))
	must(t, os.WriteFile(filepath.Join(source, "file"), []byte("file"), 0o644))
	must(t, os.Symlink(strings.Repeat("t", 1500), filepath.Join(source, "link")))
	p := publishDir(t, source)
	dir := filepath.Join(testutil.LoopMount(t, "xfs"), "dest")
	must(t, os.Mkdir(dir, 0o755))
	dest, err := tree.OpenDir(dir)
	must(t, err)
	defer dest.Close()
	for _, run := range []func(context.Context, Job, *tree.Dir, Options) (*Stats, error){Run, Update} {
		stats, err := run(t.Context(), p.job(p.plan(t, nothing), &p.store, newCache(t)), dest, Options{})
		must(t, err)
		un := stats.Unrestored
		if len(un) != 1 || un[0].Path != "link" || un[0].What != "node" || !strings.Contains(un[0].Error(), "a target of 1500 bytes") {
			t.Errorf("not restored is %v", un)
		}
		names, err := dest.Names()
		must(t, err)
		if b, err := os.ReadFile(filepath.Join(dir, "file")); string(b) != "file" || len(names) != 1 {
			t.Errorf("%q, %v; there is %q", b, err, names)
		}
	}
}
