package catalogue

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/ociv2-sync/ociv2-sync/internal/testutil"
	"github.com/ociv2-sync/ociv2-sync/seed"
)

// run runs a program and fails the test with what it printed.
func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
}

// A filesystem that is mounted again, with whatever device number, is known
// again, and its files are.
func TestKnowsFilesAfterRemount(t *testing.T) {
	testutil.NeedRoot(t)
	for _, kind := range []string{"ext4", "xfs", "btrfs"} {
		t.Run(kind, func(t *testing.T) {
			testutil.Need(t, "mkfs."+kind)
			dir := t.TempDir()
			image, other, mnt := filepath.Join(dir, "image"), filepath.Join(dir, "other"), filepath.Join(dir, "mnt")
			if err := os.Mkdir(mnt, 0o755); err != nil {
				t.Fatal(err)
			}
			for _, file := range []string{image, other} {
				run(t, "truncate", "-s", "320M", file)
				run(t, "mkfs."+kind, "-q", file)
			}
			mount := func(file string) {
				if out, err := exec.CommandContext(t.Context(), "mount", "-o", "loop", file, mnt).CombinedOutput(); err != nil {
					t.Skipf("cannot mount %s here: %v: %s", kind, err, out)
				}
			}
			umount := func() { run(t, "umount", mnt) }

			mount(image)
			path := filepath.Join(mnt, "file")
			aged(t, path, "content")
			c := open(t, dir)
			learn(t, c, mnt, path, later())
			save(t, c)
			umount()

			mount(other) // takes the loop device, and so its number
			aged(t, path, "another")
			if _, ok := open(t, dir).Scan(mnt).Recall(path, stat(t, path)); ok {
				t.Error("another filesystem's file is known")
			}
			// Kept in use, so that the first one gets another number.
			busy, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer busy.Close()
			run(t, "umount", "--lazy", mnt)

			mount(image)
			defer umount()
			if _, ok := open(t, dir).Scan(mnt).Recall(path, stat(t, path)); !ok {
				t.Error("its own file is not known any more")
			}
			if kind != "btrfs" {
				return
			}
			// The subvolume's first file has the inode of the other's.
			run(t, "btrfs", "subvolume", "snapshot", mnt, filepath.Join(mnt, "snapshot"))
			one, dev, _, _ := lookOf(stat(t, path))
			copied := filepath.Join(mnt, "snapshot", "file")
			two, dev2, _, _ := lookOf(stat(t, copied))
			a, errA := identify(path, dev, "boot")
			b, errB := identify(copied, dev2, "boot")
			if one != two || errA != nil || errB != nil || a == b {
				t.Errorf("a snapshot is told as %x, its origin as %x; %v, %v", b, a, errA, errB)
			}
		})
	}
}

// The whole way: a second walk reads nothing, a third what has changed.
func TestIndexReadsOnce(t *testing.T) {
	dir, tree := t.TempDir(), t.TempDir()
	for name, content := range map[string]string{"a": "one", "b": "two", "c": "three", "empty": ""} {
		aged(t, filepath.Join(tree, name), content)
	}
	if err := os.Symlink("a", filepath.Join(tree, "link")); err != nil {
		t.Fatal(err)
	}
	index := func() seed.Indexed {
		t.Helper()
		c := open(t, dir)
		s, err := seed.OpenDir(tree, seed.DirOptions{Memory: settled{c}})
		if err != nil {
			t.Fatal(err)
		}
		i, err := seed.Index(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		save(t, c)
		return i
	}
	if i := index(); i != (seed.Indexed{Files: 4, Bytes: 11, Read: 3, ReadBytes: 11}) {
		t.Errorf("first: %+v", i)
	}
	if i := index(); i.Read != 0 {
		t.Errorf("second: %+v", i)
	}
	aged(t, filepath.Join(tree, "b"), "TWO")
	if i := index(); i.Read != 1 || i.ReadBytes != 3 {
		t.Errorf("after a change: %+v", i)
	}
}
