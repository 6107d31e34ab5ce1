package tree

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ociv2-sync/ociv2-sync/catar"
	"github.com/ociv2-sync/ociv2-sync/internal/testutil"
)

// encode returns our archive of a directory.
func encode(t *testing.T, dir string, opts EncodeOptions) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := Encode(t.Context(), dir, opts, &b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func modeOf(t *testing.T, path string) uint32 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Mode & 0o7777
}

// TestDroppedACLGivesNothing: what an ACL granted to others than the owning
// group goes with it, whether it is dropped when encoding or when extracting.
func TestDroppedACLGivesNothing(t *testing.T) {
	testutil.NeedRoot(t)
	dir := t.TempDir()
	write(t, filepath.Join(dir, "f"), "x")
	chmod(t, filepath.Join(dir, "f"), 0o640)
	run(t, "setfacl", "-m", "u:1000:rwx,m:rwx", filepath.Join(dir, "f"))
	if m := modeOf(t, filepath.Join(dir, "f")); m != 0o670 {
		t.Fatalf("mode %o", m)
	}
	all, err := catar.ParseNames(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	without, err := catar.ParseNames(nil, []string{"acl"})
	if err != nil {
		t.Fatal(err)
	}
	for name, x := range map[string][2]catar.Flags{"encoding": {without, allFlags}, "extracting": {all, without}} {
		got, _ := extract(t, encode(t, dir, EncodeOptions{Flags: x[0]}), ExtractOptions{Flags: x[1]})
		if m := modeOf(t, filepath.Join(got, "f")); m != 0o640 {
			t.Errorf("%s: mode %o, want 640", name, m)
		}
	}
}

// TestExtractInPlace brings a directory with other contents to an archive's.
func TestExtractInPlace(t *testing.T) {
	testutil.NeedRoot(t)
	want := t.TempDir()
	mkdir(t, filepath.Join(want, "dir"))
	write(t, filepath.Join(want, "dir", "file"), "new")
	write(t, filepath.Join(want, "was-dir"), "file")
	mkdir(t, filepath.Join(want, "was-file"))
	symlink(t, "target", filepath.Join(want, "was-full-dir"))
	all, err := catar.ParseNames(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	archive := encode(t, want, EncodeOptions{Flags: all})
	build := func() string {
		dir := t.TempDir()
		mkdir(t, filepath.Join(dir, "dir"))
		run(t, "setfattr", "-n", "user.old", "-v", "x", filepath.Join(dir, "dir"))
		run(t, "setfacl", "-d", "-m", "u:1000:rwx", filepath.Join(dir, "dir"))
		write(t, filepath.Join(dir, "dir", "file"), "old and longer")
		write(t, filepath.Join(dir, "dir", "other"), "other")
		mkdir(t, filepath.Join(dir, "was-dir"))
		write(t, filepath.Join(dir, "was-file"), "x")
		mkdir(t, filepath.Join(dir, "was-full-dir"))
		write(t, filepath.Join(dir, "was-full-dir", "x"), "x")
		return dir
	}
	run2 := func(dir string, opts ExtractOptions) error {
		d, err := OpenDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		opts.Flags = allFlags
		_, err = Extract(t.Context(), catar.NewReader(bytes.NewReader(archive)), d, opts)
		return err
	}
	dir := build()
	if err := run2(dir, ExtractOptions{}); err != nil {
		t.Fatal(err)
	}
	testutil.CompareTrees(t, want, dir)

	dir = build()
	if err := run2(dir, ExtractOptions{KeepOthers: true}); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "dir", "other")); err != nil || string(b) != "other" {
		t.Errorf("other file: %q, %v", b, err)
	}

	dir = build()
	for _, f := range []string{"dir/file", "dir/other", "was-full-dir/x", "was-full-dir", "dir"} {
		f = filepath.Join(dir, f)
		run(t, "chattr", "+i", f)
		t.Cleanup(func() { _ = exec.Command("chattr", "-f", "-i", f).Run() })
	}
	if err := run2(dir, ExtractOptions{}); !errors.Is(err, unix.EPERM) {
		t.Errorf("immutable files: %v", err)
	}
	if err := run2(dir, ExtractOptions{UndoImmutable: true}); err != nil {
		t.Fatal(err)
	}
	testutil.CompareTrees(t, want, dir)
}

func TestExtractPunchesHoles(t *testing.T) {
	dir := t.TempDir()
	data := make([]byte, 1<<20)
	copy(data[10000:], "in the middle")
	copy(data[700000:], bytes.Repeat([]byte("x"), 5000))
	write(t, filepath.Join(dir, "f"), string(data))
	archive := encode(t, dir, EncodeOptions{})
	for _, punch := range []bool{false, true} {
		got, _ := extract(t, archive, ExtractOptions{Flags: allFlags, PunchHoles: punch})
		b, err := os.ReadFile(filepath.Join(got, "f"))
		if err != nil || !bytes.Equal(b, data) {
			t.Fatalf("punch %t: other contents, %v", punch, err)
		}
		fi, err := os.Stat(filepath.Join(got, "f"))
		if err != nil {
			t.Fatal(err)
		}
		if st := fi.Sys().(*syscall.Stat_t); punch && st.Blocks*512 > 100<<10 {
			t.Errorf("%d bytes on disk", st.Blocks*512)
		}
	}
}

// TestSparseWriter compares all kinds of writes with plain ones.
func TestSparseWriter(t *testing.T) {
	data := append(make([]byte, 3*holeSize+5), "x"...)
	data = append(data, make([]byte, 2*holeSize)...)
	for _, step := range []int{1, 7, holeSize - 1, holeSize, holeSize + 1, len(data)} {
		f, err := os.Create(filepath.Join(t.TempDir(), "f"))
		if err != nil {
			t.Fatal(err)
		}
		w := NewSparseWriter(f)
		for rest := data; len(rest) > 0; {
			n, err := w.Write(rest[:min(step, len(rest))])
			if err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		if err := errors.Join(w.End(), f.Close()); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(f.Name()); err != nil || !bytes.Equal(got, data) {
			t.Errorf("step %d: other contents, %v", step, err)
		}
	}
}

func TestShift(t *testing.T) {
	testutil.Need(t, "casync")
	testutil.NeedRoot(t)
	dir := t.TempDir()
	for name, id := range map[string]int{"a": 100000, "b": 100001, "c": 165537} {
		write(t, filepath.Join(dir, name), "x")
		if err := os.Chown(filepath.Join(dir, name), id, id); err != nil {
			t.Fatal(err)
		}
	}
	run(t, "setfacl", "-m", "u:100005:r,g:165540:w", filepath.Join(dir, "a"))
	if err := os.Chown(dir, 100000, 100000); err != nil {
		t.Fatal(err)
	}
	all, err := catar.ParseNames(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	flags := (all | defaultBits).Normalize()
	shift := IDShift{Base: 100000, Range: 65536}
	got := encode(t, dir, EncodeOptions{Flags: flags, Shift: shift})
	want := casyncMake(t, dir, "--uid-shift=100000")
	if !bytes.Equal(got, want) {
		t.Error(firstDifference(want, got))
	}
	back, notes := extract(t, got, ExtractOptions{Flags: allFlags, Shift: IDShift{Base: 200000, Range: 65536}})
	if len(notes) > 0 {
		t.Error(notes)
	}
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(back, "c"), &st); err != nil || st.Uid != 200001 || st.Gid != 200001 {
		t.Errorf("owner %d:%d, %v", st.Uid, st.Gid, err)
	}
	if err := os.Chown(filepath.Join(dir, "b"), 5, 5); err != nil {
		t.Fatal(err)
	}
	if err := Encode(t.Context(), dir, EncodeOptions{Flags: flags, Shift: shift}, io.Discard); !refused(err) {
		t.Errorf("id below the shift: %v", err)
	}

	// An owner that is shifted to 0 keeps its name, and the archive is still one.
	dir = t.TempDir()
	write(t, filepath.Join(dir, "f"), "x")
	for _, name := range []string{dir, filepath.Join(dir, "f")} {
		if err := os.Chown(name, 1, 1); err != nil {
			t.Fatal(err)
		}
	}
	got = encode(t, dir, EncodeOptions{Flags: flags, Shift: IDShift{Base: 1, Range: 65536}})
	if want := casyncMake(t, dir, "--uid-shift=1"); !bytes.Equal(got, want) {
		t.Error(firstDifference(want, got))
	}
	back, _ = extract(t, got, ExtractOptions{Flags: allFlags})
	if err := unix.Lstat(filepath.Join(back, "f"), &st); err != nil || st.Uid != 1 {
		t.Errorf("owner %d, %v", st.Uid, err)
	}
}

// TestOldTimes: casync's archives hold times before 1970, but only we extract
// them.
func TestOldTimes(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "f"), "")
	old := []unix.Timespec{{Sec: -2, Nsec: 5e8}, {Sec: -2, Nsec: 5e8}}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, filepath.Join(dir, "f"), old, 0); err != nil {
		t.Fatal(err)
	}
	got, notes := extract(t, encode(t, dir, EncodeOptions{Flags: catar.WithNsecTime}), ExtractOptions{Flags: allFlags})
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(got, "f"), &st); err != nil || st.Mtim != old[1] || len(notes) > 0 {
		t.Errorf("%+v, %v, %v", st.Mtim, notes, err)
	}
}

// TestChangingFile: a file that is not what it was is no content.
func TestChangingFile(t *testing.T) {
	dir := t.TempDir()
	f := filepath.Join(dir, "f")
	write(t, f, strings.Repeat("x", 1000))
	for name, change := range map[string]func(){
		"shorter": func() { write(t, f, "x") },
		"longer":  func() { write(t, f, strings.Repeat("x", 2000)) },
		"other":   func() { write(t, f, strings.Repeat("y", 1000)) },
		"replaced": func() {
			write(t, f+"2", strings.Repeat("x", 1000))
			if err := os.Rename(f+"2", f); err != nil {
				t.Fatal(err)
			}
		},
	} {
		write(t, f, strings.Repeat("x", 1000))
		src, err := Scan(t.Context(), dir)
		if err != nil {
			t.Fatal(err)
		}
		r, err := src.Open(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		change()
		if _, err := io.Copy(io.Discard, r); !errors.Is(err, ErrChanged) && name != "replaced" {
			t.Errorf("%s while open: %v", name, err)
		}
		r.Close()
		if _, err := src.Open(t.Context(), 1); !errors.Is(err, ErrChanged) {
			t.Errorf("%s before it is opened: %v", name, err)
		}
		src.Close()
	}
}

func TestCancel(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "f"), "x")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Encode(ctx, dir, EncodeOptions{}, io.Discard); !errors.Is(err, context.Canceled) {
		t.Errorf("Encode: %v", err)
	}
	if _, err := Scan(ctx, dir); !errors.Is(err, context.Canceled) {
		t.Errorf("Scan: %v", err)
	}
	d, err := OpenDir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	archive := encode(t, dir, EncodeOptions{})
	if _, err := Extract(ctx, catar.NewReader(bytes.NewReader(archive)), d, ExtractOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("Extract: %v", err)
	}
}

// TestFailedExtractLeavesNoTemporaries, and no file under its name that is not
// complete.
func TestFailedExtractLeavesNoTemporaries(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "a"), "whole")
	write(t, filepath.Join(dir, "b"), strings.Repeat("x", 100))
	archive := encode(t, dir, EncodeOptions{})
	to := t.TempDir()
	d, err := OpenDir(to)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	_, err = Extract(t.Context(), catar.NewReader(bytes.NewReader(archive[:len(archive)-150])), d, ExtractOptions{})
	if !errors.Is(err, catar.ErrMalformed) {
		t.Errorf("%v", err)
	}
	names, err := os.ReadDir(to)
	if err != nil || len(names) != 1 || names[0].Name() != "a" {
		t.Errorf("left %v, %v", names, err)
	}
}

func TestCloneOrCopy(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "src"), strings.Repeat("content", 200000))
	src, err := os.Open(filepath.Join(dir, "src"))
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	for name, f := range map[string]func(dst *os.File) error{
		"kernel": func(dst *os.File) error { return CloneOrCopy(t.Context(), dst, src, 1400000) },
		"bytes":  func(dst *os.File) error { return copyBytes(t.Context(), dst, src, 0, 1400000) },
	} {
		dst, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(f(dst), dst.Close()); err != nil {
			t.Fatal(err)
		}
		run(t, "cmp", src.Name(), dst.Name())
	}
	dst, err := os.Create(filepath.Join(dir, "long"))
	if err != nil {
		t.Fatal(err)
	}
	defer dst.Close()
	if err := CloneOrCopy(t.Context(), dst, src, 1400001); !errors.Is(err, ErrChanged) {
		t.Errorf("longer than the source: %v", err)
	}
	if err := copyBytes(t.Context(), dst, src, 0, 1400001); !errors.Is(err, ErrChanged) {
		t.Errorf("longer than the source: %v", err)
	}
}
