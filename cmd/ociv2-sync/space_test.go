package main

import (
	"compress/gzip"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ociv2-sync/ociv2-sync/internal/testutil"
)

// smallDisk mounts a filesystem of its own.
func smallDisk(t testing.TB, options string) string {
	t.Helper()
	testutil.NeedRoot(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		t.Skipf("a tmpfs cannot be mounted: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// fill leaves a disk with that many bytes.
func fill(t testing.TB, disk string, leave int64) (file string) {
	t.Helper()
	var st unix.Statfs_t
	must(t, unix.Statfs(disk, &st))
	file = filepath.Join(disk, "filler")
	f, err := os.Create(file)
	must(t, err)
	defer f.Close()
	for size := int64(st.Bavail)*st.Bsize - leave; unix.Fallocate(int(f.Fd()), 0, 0, size) != nil; size -= leave / 2 {
		if size <= 0 { // somebody else is taking it
			t.Error("the disk cannot be filled")
			break
		}
	}
	return file
}

// TestPullNeedsSpace pulls onto disks that are too small, by what statfs says or
// by what turns out: exit code 7, and what was there works.
func TestPullNeedsSpace(t *testing.T) {
	t.Parallel()
	p := publish(t)
	for _, into := range []string{"root", "directory", "directory elsewhere"} {
		t.Run(into, func(t *testing.T) {
			disk := smallDisk(t, "size=40m")
			tr, url := setTrap(t, p.repo)
			d := &device{t: t, root: filepath.Join(disk, "root")}
			d.must("pull", p.ref(1))
			args := []string{"pull", "-q", "--link=copy", url + "/app:2"}
			result := d.path("app:2")
			dest := filepath.Join(disk, "dir", "dest")
			if into != "root" {
				must(t, os.MkdirAll(dest, 0o755))
				must(t, os.WriteFile(filepath.Join(dest, "precious"), []byte("keep me"), 0o600))
				args, result = append(args, "--replace", "rootfs:"+dest), dest
			}
			if into == "directory elsewhere" {
				d.root = filepath.Join(t.TempDir(), "root")
			}
			old := filepath.Join(disk, "root", "images")
			check := unchanged(t, old, dest)
			filler := fill(t, disk, 6<<20)
			d.fails(exitSpace, []string{"not enough space", "bytes free", disk}, args...)
			if tr.n > 0 {
				t.Errorf("%d chunks were asked for before it was known that there is no space", tr.n)
			}
			must(t, os.Remove(filler))
			check()

			// Somebody else takes the space away while we pull.
			full := make(chan struct{})
			tr.set(1, func() {
				fill(t, disk, 1<<18)
				close(full)
			})
			d.fails(exitSpace, []string{"no space left on device"}, args...)
			<-full
			must(t, os.Remove(filler))
			check()
			must(t, os.MkdirAll(dest, 0o755)) // if the image goes to the root
			noLeftovers(t, d, dest)
			tr.set(0, nil)
			d.must(args...)
			testutil.CompareTrees(t, p.releases[1], must1(filepath.EvalSymlinks(result)))
		})
	}
	t.Run("inodes", func(t *testing.T) {
		disk := smallDisk(t, "size=40m,nr_inodes=60")
		d := &device{t: t, root: filepath.Join(disk, "root")}
		d.fails(exitSpace, []string{"no space left on device"}, "pull", "-q", p.ref(1))
	})
}

// TestSeedNeedsSpace pulls with a compressed archive as the seed, whose contents wait in
// the root: a plan counts them, and a disk that cannot hold them is seen in time.
func TestSeedNeedsSpace(t *testing.T) {
	t.Parallel()
	p := publish(t)
	tr, url := setTrap(t, p.repo)
	dir := t.TempDir()
	archive := filepath.Join(dir, "seed.tar.gz")
	other := newDevice(t)
	other.must("pull", p.ref(1), "docker-archive:"+filepath.Join(dir, "seed.tar")+":app:1")
	plain := other.plan("--seed", filepath.Join(dir, "seed.tar"), url+"/app:2")
	zipped, err := os.Create(archive)
	must(t, err)
	w := value(gzip.NewWriterLevel(zipped, gzip.BestSpeed))
	_, err = w.Write(value(os.ReadFile(filepath.Join(dir, "seed.tar"))))
	must(t, errors.Join(err, w.Close(), zipped.Close()))

	for _, dest := range []string{"", "rootfs:"} {
		for _, known := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s known %t", dest, known), func(t *testing.T) {
				disk := smallDisk(t, "size=60m")
				d := &device{t: t, root: filepath.Join(disk, "root")}
				// There is no root that could remember what a plan reads.
				args := []string{"--link=copy", "--seed", archive, url + "/app:2"}
				made := d.path("app:2")
				if dest != "" {
					made = filepath.Join(disk, "dest")
					args = append(args, dest+made)
				}
				need := d.plan(args...)
				if extra := need.Disk - plain.Disk; extra < 1<<20 {
					t.Fatalf("%d bytes on the disk, with a plain archive %d", need.Disk, plain.Disk)
				}
				if !known {
					d.must("seed", "index", t.TempDir()) // makes the root
				} else {
					d.must("seed", "index", archive)
					if again := d.plan(args...); again.Disk != need.Disk {
						t.Errorf("%d bytes on the disk, before it was known %d", again.Disk, need.Disk)
					}
				}
				check := unchanged(t, append(d.state(), filepath.Join(disk, "dest"))...)
				filler := fill(t, disk, (plain.Disk+need.Disk)/2)
				asked := tr.n
				d.fails(exitSpace, []string{"not enough space", "bytes free", disk}, append([]string{"pull", "-q"}, args...)...)
				if tr.n > asked {
					t.Errorf("%d chunks were asked for before it was known that there is no space", tr.n-asked)
				}
				must(t, os.Remove(filler))
				check()

				fill(t, disk, need.Disk+1<<16)
				got := d.pull(args...)
				if got.Bytes != need.Total.WireBytes {
					t.Errorf("%d bytes were fetched, the plan says %d", got.Bytes, need.Total.WireBytes)
				}
				testutil.CompareTrees(t, p.releases[1], must1(filepath.EvalSymlinks(made)))
			})
		}
	}
}

// TestFullCatalogue has no space for what is learned of seeds: to keep it is all that
// seed index is for, and fails; a pull warns, and has the image.
func TestFullCatalogue(t *testing.T) {
	t.Parallel()
	disk := smallDisk(t, "size=64k")
	d := newDevice(t)
	const seed = "." // what was written just now would not be remembered
	repo := filepath.Join(t.TempDir(), "repo")
	d.must("push", "rootfs:"+seed, repo+"/app:1")
	d.must("seed", "index", t.TempDir()) // makes the root
	known := filepath.Join(disk, "catalogue")
	must(t, os.Mkdir(known, 0o700))
	must(t, os.RemoveAll(filepath.Join(d.root, "catalogue")))
	must(t, os.Symlink(known, filepath.Join(d.root, "catalogue")))
	filler := fill(t, disk, 2) // rounded up to whole pages: all
	d.fails(exitSpace, []string{"no space left on device", "free some space"}, "seed", "index", seed)
	out := d.must("pull", "--seed", seed, repo+"/app:1")
	if !strings.Contains(out.stderr, "not remembered") || !strings.Contains(out.stderr, "no space left on device") {
		t.Errorf("no warning: %s", out.stderr)
	}
	testutil.CompareTrees(t, seed, d.tree("app:1"))
	must(t, os.Remove(filler))
	for _, e := range value(os.ReadDir(known)) {
		if info := value(e.Info()); info.Size() > 0 {
			t.Errorf("left behind: %s, %d bytes", e.Name(), info.Size())
		}
	}
	d.must("seed", "index", seed)
}

// TestPushNeedsSpace fills the disks of a repository, of the place where
// contents wait, and of what make and extract write.
func TestPushNeedsSpace(t *testing.T) {
	t.Parallel()
	p := publish(t)
	d := newDevice(t)
	disk := smallDisk(t, "size=12m")
	repo := filepath.Join(disk, "repo")
	d.must("push", "--deltas=0", "rootfs:"+p.releases[0], repo+"/app:1")
	check := unchanged(t, filepath.Join(repo, "app"), filepath.Join(repo, "catalog.json"))
	filler := fill(t, disk, 1<<19)
	d.fails(exitSpace, []string{"no space left on device"}, "push", "-q", "rootfs:"+p.releases[1], repo+"/app:1")
	check()
	d.fails(exitSpace, []string{"no space left on device"}, "make", "-q", filepath.Join(disk, "x.catar"), p.releases[0])
	d.fails(exitSpace, []string{"no space left on device"}, "extract", "-q", filepath.Join(p.repo, "app/1.caidx"),
		filepath.Join(disk, "tree"), "--store", filepath.Join(p.repo, "default.castr"))
	src := filepath.Join(t.TempDir(), "layout")
	var files []layerFile
	for i := range 50 {
		b, err := os.ReadFile(filepath.Join(p.releases[0], "usr/lib", fmt.Sprintf("lib%02d.so", i)))
		must(t, err)
		files = append(files, layerFile{name: fmt.Sprint("file", i), Header: plainTree()[5].Header, content: string(b)})
	}
	layout(t, src, layer(t, 0, files))
	d.fails(exitSpace, []string{"no space left on device"}, "push", "-q", "--temp-dir", disk, "oci:"+src+":v1", p.repo+"/other:1")
	must(t, os.Remove(filler))
	entries, err := os.ReadDir(disk)
	must(t, err)
	if len(entries) != 1 {
		t.Errorf("left behind: %v", entries)
	}
	d.must("push", "--deltas=0", "rootfs:"+p.releases[1], repo+"/app:1")
}
