package tree

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ociv2-sync/ociv2-sync/catar"
	"github.com/ociv2-sync/ociv2-sync/internal/testutil"
)

func TestMounts(t *testing.T) {
	testutil.Need(t, "casync")
	testutil.NeedRoot(t)
	dir := t.TempDir()
	for name, fs := range map[string]string{"proc": "proc", "tmp": "tmpfs", "sys": "sysfs"} {
		p := filepath.Join(dir, name)
		mkdir(t, p)
		if err := unix.Mount(fs, p, fs, 0, ""); err != nil {
			t.Skipf("cannot mount %s: %v", fs, err)
		}
		t.Cleanup(func() { _ = unix.Unmount(p, unix.MNT_DETACH) })
	}
	write(t, filepath.Join(dir, "tmp", "f"), "x")
	write(t, filepath.Join(dir, "bound"), "")
	if err := unix.Mount("/proc/version", filepath.Join(dir, "bound"), "", unix.MS_BIND, ""); err != nil {
		t.Skipf("cannot bind: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(filepath.Join(dir, "bound"), unix.MNT_DETACH) })
	all, err := catar.ParseNames(nil, []string{"nsec-time", "usec-time", "sec-time", "2sec-time"})
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"--without=nsec-time", "--without=usec-time", "--without=sec-time", "--without=2sec-time"}
	flags := (all | defaultBits).Normalize()
	encodeEqual(t, dir, flags, args...)
	encodeEqual(t, dir, flags|catar.ExcludeSubmounts, append(args, "--exclude-submounts=yes")...)
	src, err := Scan(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	if len(src.Nodes) != 6 {
		t.Errorf("%d nodes: %+v", len(src.Nodes), src.Nodes)
	}
}

// TestFilesystems encodes and extracts what only other filesystems have.
func TestFilesystems(t *testing.T) {
	testutil.Need(t, "casync")
	testutil.NeedRoot(t)
	for _, fs := range []struct {
		name    string
		args    []string
		with    []string
		prepare func(t *testing.T, dir string)
	}{
		{"vfat", nil, []string{"fat"}, func(t *testing.T, dir string) {
			f := filepath.Join(dir, "readonly")
			write(t, f, "x")
			chmod(t, f, 0o444)
			for name, bits := range map[string]int{"hidden": 2, "system": 4, "archive": 0x20, "plain": 0} {
				f := filepath.Join(dir, name)
				write(t, f, "x")
				h, err := os.Open(f)
				if err != nil {
					t.Fatal(err)
				}
				if err := unix.IoctlSetPointerInt(int(h.Fd()), fatSetAttributes, bits); err != nil {
					t.Fatal(err)
				}
				h.Close()
			}
		}},
		{"btrfs", []string{"-q"}, nil, func(t *testing.T, dir string) {
			d, err := OpenDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			if err := d.makeSubvolume("sub"); err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(dir, "sub", "f"), "x")
			if err := d.makeSubvolume("readonly"); err != nil {
				t.Fatal(err)
			}
			run(t, "btrfs", "property", "set", filepath.Join(dir, "readonly"), "ro", "true")
			write(t, filepath.Join(dir, "nocow"), "")
			run(t, "chattr", "+C", filepath.Join(dir, "nocow"))
			write(t, filepath.Join(dir, "nocow"), "x")
			write(t, filepath.Join(dir, "compr"), "x")
			run(t, "chattr", "+c", filepath.Join(dir, "compr"))
		}},
		{"xfs", []string{"-q"}, nil, func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, "f"), "x")
			write(t, filepath.Join(dir, "g"), "x")
			run(t, "chattr", "-p", "4711", filepath.Join(dir, "f"))
			mkdir(t, filepath.Join(dir, "d"))
			run(t, "chattr", "+P", "-p", "4294967294", filepath.Join(dir, "d"))
		}},
	} {
		t.Run(fs.name, func(t *testing.T) {
			mount := testutil.LoopMount(t, fs.name, fs.args...)
			dir := filepath.Join(mount, "from")
			mkdir(t, dir)
			fs.prepare(t, dir)
			var args []string
			for _, w := range fs.with {
				args = append(args, "--with="+w)
			}
			flags, err := catar.ParseNames(fs.with, nil)
			if err != nil {
				t.Fatal(err)
			}
			flags = (flags | defaultBits).Normalize()
			encodeEqual(t, dir, flags, args...)
			archive := encode(t, dir, EncodeOptions{Flags: flags})
			to := filepath.Join(mount, "to")
			mkdir(t, to)
			d, err := OpenDir(to)
			if err != nil {
				t.Fatal(err)
			}
			notes, err := Extract(t.Context(), catar.NewReader(bytes.NewReader(archive)), d, ExtractOptions{Flags: allFlags})
			if err != nil || len(notes) > 0 {
				t.Errorf("%v, %v", notes, err)
			}
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
			if again := encode(t, to, EncodeOptions{Flags: flags}); !bytes.Equal(again, archive) {
				t.Error(firstDifference(archive, again))
			}
		})
	}
}
