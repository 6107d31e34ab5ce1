package tree

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ociv2-sync/ociv2-sync/catar"
	"github.com/ociv2-sync/ociv2-sync/internal/testutil"
)

// TestExtractStaysInside extracts archives and prepared destinations that try
// to reach a directory outside, whose contents and attributes must not change.
func TestExtractStaysInside(t *testing.T) {
	const (
		dir  = catar.ModeDir | 0o755
		reg  = catar.ModeRegular | 0o4755
		link = catar.ModeSymlink | 0o777
	)
	flags := catar.Flags(catar.WithNsecTime | catar.With32BitUIDs | catar.WithPermissions | catar.WithSymlinks | catar.WithXAttrs)
	for _, x := range []struct {
		name    string
		prepare func(t *testing.T, dest, outside string)
		entries func(outside string) []catar.Entry
	}{
		{
			"directory over a link to a directory",
			func(t *testing.T, dest, outside string) { symlink(t, outside, filepath.Join(dest, "d")) },
			func(string) []catar.Entry {
				return []catar.Entry{{Depth: 1, Name: "d", Mode: dir}, {Depth: 2, Name: "secret", Mode: reg, Size: 1}}
			},
		},
		{
			"empty directory over a link to a directory",
			func(t *testing.T, dest, outside string) { symlink(t, outside, filepath.Join(dest, "d")) },
			func(string) []catar.Entry { return []catar.Entry{{Depth: 1, Name: "d", Mode: catar.ModeDir}} },
		},
		{
			"file over a link to a file",
			func(t *testing.T, dest, outside string) {
				symlink(t, filepath.Join(outside, "secret"), filepath.Join(dest, "f"))
			},
			func(string) []catar.Entry {
				return []catar.Entry{{Depth: 1, Name: "f", Mode: reg, Size: 1, UID: 5, XAttrs: []catar.XAttr{{Name: "user.x"}}}}
			},
		},
		{
			"file over a hard link",
			func(t *testing.T, dest, outside string) {
				if err := os.Link(filepath.Join(outside, "secret"), filepath.Join(dest, "f")); err != nil {
					t.Fatal(err)
				}
			},
			func(string) []catar.Entry {
				return []catar.Entry{{Depth: 1, Name: "f", Mode: reg, Size: 1, UID: 5}}
			},
		},
		{
			"links that the archive makes",
			func(*testing.T, string, string) {},
			func(outside string) []catar.Entry {
				return []catar.Entry{
					{Depth: 1, Name: "a", Mode: link, Target: outside, UID: 5, MTime: 9},
					{Depth: 1, Name: "b", Mode: link, Target: outside + "/secret", UID: 5, MTime: 9},
					{Depth: 1, Name: "c", Mode: link, Target: "../outside/secret", UID: 5, MTime: 9},
				}
			},
		},
		{
			"removal of a link and of a tree with links",
			func(t *testing.T, dest, outside string) {
				symlink(t, outside, filepath.Join(dest, "x"))
				mkdir(t, filepath.Join(dest, "y"))
				symlink(t, outside, filepath.Join(dest, "y", "z"))
			},
			func(string) []catar.Entry { return nil },
		},
		{
			"file over a directory with a link",
			func(t *testing.T, dest, outside string) {
				mkdir(t, filepath.Join(dest, "f"))
				symlink(t, outside, filepath.Join(dest, "f", "z"))
			},
			func(string) []catar.Entry { return []catar.Entry{{Depth: 1, Name: "f", Mode: reg, Size: 1}} },
		},
	} {
		t.Run(x.name, func(t *testing.T) {
			base := t.TempDir()
			dest, outside, before := filepath.Join(base, "dest"), filepath.Join(base, "outside"), filepath.Join(base, "before")
			for _, d := range []string{dest, outside, before} {
				mkdir(t, d)
			}
			for _, d := range []string{outside, before} {
				write(t, filepath.Join(d, "secret"), "secret")
				for _, p := range []string{filepath.Join(d, "secret"), d} {
					if err := unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{{Sec: 5}, {Sec: 5}}, 0); err != nil {
						t.Fatal(err)
					}
				}
			}
			x.prepare(t, dest, outside)
			var archive bytes.Buffer
			w := catar.NewWriter(&archive, flags)
			entries := append([]catar.Entry{{Mode: dir}}, x.entries(outside)...)
			for _, e := range entries {
				if err := w.WriteEntry(&e); err != nil {
					t.Fatal(err)
				}
				if _, err := w.Write(make([]byte, e.Size)); err != nil {
					t.Fatal(err)
				}
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			d, err := OpenDir(dest)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := Extract(t.Context(), catar.NewReader(&archive), d, ExtractOptions{Flags: allFlags, UndoImmutable: true}); err != nil {
				t.Fatal(err)
			}
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
			testutil.CompareTrees(t, before, outside)
			names, err := os.ReadDir(dest)
			if err != nil || len(names) != countTop(entries) {
				t.Errorf("%v in the destination, %v", names, err)
			}
		})
	}
}

func countTop(entries []catar.Entry) (n int) {
	for _, e := range entries {
		if e.Depth == 1 {
			n++
		}
	}
	return n
}

func symlink(t *testing.T, target, path string) {
	t.Helper()
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
}

// TestDirTakesOnlyComponents gives every method names that lead elsewhere.
func TestDirTakesOnlyComponents(t *testing.T) {
	base := t.TempDir()
	mkdir(t, filepath.Join(base, "in"))
	write(t, filepath.Join(base, "f"), "x")
	write(t, filepath.Join(base, "in", "ok"), "x")
	mkdir(t, filepath.Join(base, "in", "sub"))
	symlink(t, "../f", filepath.Join(base, "in", "link"))
	symlink(t, "..", filepath.Join(base, "in", "dirlink"))
	d, err := OpenDir(filepath.Join(base, "in"))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	methods := map[string]func(name string) error{
		"OpenDir":   func(n string) error { _, err := d.OpenDir(n); return err },
		"Mkdir":     func(n string) error { _, err := d.Mkdir(n); return err },
		"Open":      func(n string) error { _, err := d.Open(n); return err },
		"Create":    func(n string) error { _, err := d.Create(n); return err },
		"Symlink":   func(n string) error { return d.Symlink("x", n) },
		"Mknod":     func(n string) error { return d.Mknod(n, unix.S_IFIFO, 0, 0) },
		"Link":      func(n string) error { return d.Link(n, d, "ok") },
		"LinkFrom":  func(n string) error { return d.Link("new", d, n) },
		"Rename":    func(n string) error { return d.Rename("ok", n) },
		"RenameOf":  func(n string) error { return d.Rename(n, "new") },
		"Remove":    d.Remove,
		"RemoveAll": d.RemoveAll,
		"SetMeta":   func(n string) error { _, err := d.SetMeta(n, Meta{Mode: unix.S_IFIFO | 0o777}); return err },
	}
	for name, call := range methods {
		for _, n := range []string{"", ".", "..", "../f", "/etc", "sub/..", "sub/", "a\x00"} {
			if err := call(n); !errors.Is(err, errBadName) {
				t.Errorf("%s(%q): %v", name, n, err)
			}
		}
	}
	for name, n := range map[string]string{"OpenDir": "dirlink", "Open": "link", "Mkdir": "dirlink", "Create": "link"} {
		if err := methods[name](n); err == nil {
			t.Errorf("%s followed a link", name)
		}
	}
	if b, err := os.ReadFile(filepath.Join(base, "f")); err != nil || string(b) != "x" {
		t.Errorf("file outside: %q, %v", b, err)
	}
	if _, err := d.Open("sub"); err == nil {
		t.Error("opened a directory as a file")
	}
	if err := d.Mknod("file", unix.S_IFREG, 0, 0); err == nil {
		t.Error("made a file as a device")
	}
	if _, err := d.SetMeta("ok", Meta{Mode: unix.S_IFIFO | 0o4777, UID: 5}); !errors.Is(err, errOtherType) {
		t.Errorf("attributes of a fifo for a file: %v", err)
	}
}
