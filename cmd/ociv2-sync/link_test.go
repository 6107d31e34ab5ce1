package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ociv2-sync/ociv2-sync/internal/testutil"
)

// files returns inodes of all regular files with bytes in a directory, by path.
func files(t testing.TB, dir string) map[string]uint64 {
	t.Helper()
	inodes := map[string]uint64{}
	must(t, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		if st.Size > 0 {
			inodes[value(filepath.Rel(dir, path))] = st.Ino
		}
		return nil
	}))
	return inodes
}

// TestImagesShareFiles pulls two releases that share inodes, and damages one of them.
func TestImagesShareFiles(t *testing.T) {
	t.Parallel()
	testutil.NeedRoot(t) // others cannot give files their owners
	p := publish(t)
	d := newDevice(t)
	objects := filepath.Join(d.root, "objects")
	d.must("pull", "--link=hard", p.ref(1))
	disk := d.plan(p.ref(2), "--link=hard").Disk
	if whole := d.plan(p.ref(2), "--link=copy").Disk; disk > whole/2 {
		t.Errorf("plan needs %d bytes for an image that shares most of its files, %d for one that does not", disk, whole)
	}
	d.must("pull", "--link=hard", p.ref(2))
	for i, tag := range []string{"app:1", "app:2"} {
		testutil.CompareTrees(t, p.releases[i], d.tree(tag))
	}
	one, two := files(t, d.tree("app:1")), files(t, d.tree("app:2"))
	shared := 0
	for path, inode := range one {
		if two[path] == inode {
			shared++
		}
	}
	if want := releaseFiles - 12; shared < want {
		t.Errorf("%d of %d files are shared, want %d", shared, len(one), want)
	}

	// Other bytes, with the size and the time that they had.
	name := "usr/lib/lib05.so"
	path := filepath.Join(d.tree("app:1"), name)
	st := value(os.Stat(path))
	b := value(os.ReadFile(path))
	b[5000] ^= 1
	must(t, os.WriteFile(path, b, 0o644))
	must(t, os.Chtimes(path, st.ModTime(), st.ModTime()))
	d.must("rm", "app:2")
	if got := d.pull("--link=hard", p.ref(2)); got.Lost != 1 {
		t.Errorf("pull with a damaged object: %+v", got)
	}
	testutil.CompareTrees(t, p.releases[1], d.tree("app:2"))
	if files(t, d.tree("app:1"))[name] == files(t, d.tree("app:2"))[name] {
		t.Error("the damaged file is shared")
	}

	// No link leads out of the root, and what no image has is removed.
	dest := filepath.Join(t.TempDir(), "dest")
	d.fails(exitUsage, []string{"not in a directory of their own"}, "pull", "--link=hard", p.ref(2), "rootfs:"+dest)
	d.must("pull", p.ref(2), "rootfs:"+dest)
	inside := map[uint64]bool{}
	for _, inode := range files(t, d.root) {
		inside[inode] = true
	}
	for path, inode := range files(t, dest) {
		if inside[inode] {
			t.Errorf("%s is a file of the root", path)
		}
	}
	// Nor to a seed, and none into it.
	other := newDevice(t)
	other.must("pull", "--link=hard", "--seed", dest, p.ref(2))
	testutil.CompareTrees(t, p.releases[1], other.tree("app:2"))
	seeds := map[uint64]bool{}
	for _, inode := range files(t, dest) {
		seeds[inode] = true
	}
	for path, inode := range files(t, other.root) {
		if seeds[inode] {
			t.Errorf("%s is a file of the seed", path)
		}
	}
	d.must("rm", "app:1")
	kept := len(files(t, objects))
	d.must("rm", "app:2")
	if left := len(files(t, objects)); left != 0 || kept == 0 {
		t.Errorf("%d objects of one image, %d of none", kept, left)
	}
}

// TestSharedBlocks pulls two releases where files can share blocks: a little of the disk is
// used, as the plan says, and by default no inode is shared.
func TestSharedBlocks(t *testing.T) {
	t.Parallel()
	p := &publication{repo: filepath.Join(t.TempDir(), "repo")}
	for i := range p.releases { // without what xfs cannot hold
		p.releases[i] = t.TempDir()
		for k := range 60 {
			content := uint64(k)
			if k < 6 {
				content += uint64(i) << 32
			}
			writeNoise(t, filepath.Join(p.releases[i], "file"+decimal(int64(k))), content, fileSize)
		}
		newDevice(t).must("push", "--deltas=0", "rootfs:"+p.releases[i], p.ref(i+1))
	}
	for _, kind := range []string{"xfs", "btrfs"} {
		t.Run(kind, func(t *testing.T) {
			mount := testutil.LoopMount(t, kind, "-q")
			d := &device{t: t, root: filepath.Join(mount, "root")}
			d.must("pull", p.ref(1))
			need := d.plan(p.ref(2)).Disk
			before := usage(t, mount)
			d.must("pull", p.ref(2))
			grown := usage(t, mount) - before
			testutil.CompareTrees(t, p.releases[1], d.tree("app:2"))
			if grown > need || need > 2<<20 {
				t.Errorf("took %d bytes, the plan says %d, of 6 MB", grown, need)
			}
			one, two := files(t, d.tree("app:1")), files(t, d.tree("app:2"))
			for path, inode := range one {
				if two[path] == inode {
					t.Errorf("%s is shared as an inode", path)
				}
			}
		})
	}
}

// usage returns the bytes in use on a filesystem, everything written.
func usage(t testing.TB, dir string) int64 {
	t.Helper()
	f := value(os.Open(dir))
	defer f.Close()
	must(t, unix.Syncfs(int(f.Fd())))
	var st unix.Statfs_t
	must(t, unix.Statfs(dir, &st))
	return int64(st.Blocks-st.Bfree) * st.Bsize
}

// value is the result of a call that does not fail in a test.
func value[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
