package tree

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ociv2-sync/ociv2-sync/catar"
	"github.com/ociv2-sync/ociv2-sync/internal/testutil"
)

// defaultBits are what casync adds to the features of an archive unless told
// otherwise.
const defaultBits = catar.ExcludeFile | catar.SHA512_256 | catar.ExcludeNoDump

// casyncMake returns the archive that casync makes of a directory.
func casyncMake(t *testing.T, dir string, args ...string) []byte {
	t.Helper()
	out := filepath.Join(t.TempDir(), "out.catar")
	args = append(append([]string{"make"}, args...), out, dir)
	if b, err := exec.Command(testutil.Tool(t, "casync"), args...).CombinedOutput(); err != nil {
		t.Fatalf("casync %s: %v\n%s", strings.Join(args, " "), err, b)
	}
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// sets are feature sets: with and without of casync's command line.
func sets() [][2]string {
	s := [][2]string{
		{},
		{"best"},
		{"unix"},
		{"fat"},
		{"chattr"},
		{"fat-attrs"},
		{"privileged"},
		{"fuse"},
		{"acl"},
		{"unix,32bit-uids"},
		{"", "all"},
		{"", "privileged"},
		{"", "acl"},
		{"", "xattrs"},
		{"", "best"},
		{"32bit-uids,acl"},
		{"user-names,unix"},
		{"user-names,acl"},
		{"16bit-uids,acl"},
		{"read-only,symlinks"},
		{"permissions,32bit-uids,xattrs,nsec-time"},
	}
	for i := range 33 {
		name := (catar.Flags(1) << i).String()
		s = append(s, [2]string{name}, [2]string{"", name})
	}
	return s
}

func list(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, ",")
}

// refused reports whether an error is what Encode says of a tree that the
// features cannot hold.
func refused(err error) bool { return errors.Is(err, catar.ErrUnsupported) }

func TestEncodeIsCasyncs(t *testing.T) {
	testutil.Need(t, "casync")
	testutil.NeedRoot(t)
	dir := t.TempDir()
	testutil.BuildTree(t, dir)
	buildMore(t, dir)
	small := t.TempDir()
	testutil.BuildTree(t, small)
	smallIDs(t, small)
	dirPlain, smallPlain := t.TempDir(), t.TempDir()
	testutil.BuildTree(t, dirPlain)
	run(t, "setfacl", "-R", "-P", "-b", dirPlain)
	testutil.BuildTree(t, smallPlain)
	run(t, "setfacl", "-R", "-P", "-b", smallPlain)
	smallIDs(t, smallPlain)
	for _, set := range sets() {
		t.Run(fmt.Sprintf("with=%s,without=%s", set[0], set[1]), func(t *testing.T) {
			var args []string
			for _, n := range list(set[0]) {
				args = append(args, "--with="+n)
			}
			for _, n := range list(set[1]) {
				args = append(args, "--without="+n)
			}
			flags, err := catar.ParseNames(list(set[0]), list(set[1]))
			if err != nil {
				t.Fatal(err)
			}
			flags = (flags | defaultBits).Normalize()
			small, dir := small, dir
			if flags.Has(catar.WithPermissions) {
				// TestEncodeDropsACLs has what casync does wrong.
				small, dir = smallPlain, dirPlain
			}
			if flags.Has(catar.With16BitUIDs) || flags.Has(catar.WithUserNames) && !flags.Has(catar.With32BitUIDs) {
				if err := Encode(t.Context(), dir, EncodeOptions{Flags: flags}, io.Discard); !refused(err) {
					t.Errorf("ids that do not fit: %v", err)
				}
				encodeEqual(t, small, flags, args...)
				return
			}
			encodeEqual(t, dir, flags, args...)
		})
	}
}

// buildMore adds what casync's features know beyond BuildTree's.
func buildMore(t *testing.T, dir string) {
	t.Helper()
	many := filepath.Join(dir, "many")
	mkdir(t, many)
	for i := range 2000 {
		write(t, filepath.Join(many, fmt.Sprintf("entry-%d", i*7919%2000)), "x")
	}
	deep := dir
	for range catar.MaxDepth - 1 {
		deep = filepath.Join(deep, "d")
		mkdir(t, deep)
	}
	write(t, filepath.Join(deep, "deepest"), "")
	for _, letter := range "AdDSc" {
		f := filepath.Join(dir, "chattr-"+string(letter))
		if letter == 'D' {
			mkdir(t, f)
		} else {
			write(t, f, "x")
		}
		run(t, "chattr", "+"+string(letter), f)
	}
	for _, letter := range "ai" {
		f := filepath.Join(dir, "chattr-"+string(letter))
		write(t, f, "x")
		run(t, "chattr", "+"+string(letter), f)
		t.Cleanup(func() { run(t, "chattr", "-"+string(letter), f) })
	}
	write(t, filepath.Join(dir, "readonly"), "x")
	mkdir(t, filepath.Join(dir, "readonly-dir"))
	for name, mode := range map[string]os.FileMode{"readonly": 0o444, "readonly-dir": 0o555} {
		if err := os.Chmod(filepath.Join(dir, name), mode); err != nil {
			t.Fatal(err)
		}
	}
	label := filepath.Join(dir, "labelled")
	write(t, label, "x")
	if err := unix.Lsetxattr(label, "security.selinux", []byte("system_u:object_r:etc_t:s0\x00"), 0); err != nil {
		t.Fatal(err)
	}
}

// smallIDs leaves only ids in the tree that fit 16 bits and have names.
func smallIDs(t *testing.T, dir string) {
	t.Helper()
	_ = exec.Command("setfacl", "-R", "-P", "-x", "u:70000", dir).Run() // fails where there are none
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		if st.Uid > 0 || st.Gid > 0 {
			return unix.Lchown(path, 1, 2)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func mkdir(t *testing.T, path string) {
	t.Helper()
	if err := os.Mkdir(path, 0o755); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if b, err := exec.Command(testutil.Tool(t, name), args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, b)
	}
}

// encodeEqual fails unless Encode gives what casync gives with args.
func encodeEqual(t *testing.T, dir string, flags catar.Flags, args ...string) {
	t.Helper()
	want := casyncMake(t, dir, args...)
	var got bytes.Buffer
	err := Encode(t.Context(), dir, EncodeOptions{Flags: flags}, &got)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), want) {
		t.Errorf("differs from casync's:\n%s", firstDifference(want, got.Bytes()))
	}
}

// firstDifference describes the first entry in which two archives differ.
func firstDifference(want, got []byte) string {
	w, g := catar.NewReader(bytes.NewReader(want)), catar.NewReader(bytes.NewReader(got))
	for {
		a, errA := w.Next()
		b, errB := g.Next()
		sa, sb := fmt.Sprintf("%+v %v", a, errA), fmt.Sprintf("%+v %v", b, errB)
		if sa != sb || errA != nil {
			return fmt.Sprintf("want %s %+v\ngot  %s %+v\n", sa, deref(a), sb, deref(b))
		}
	}
}

func deref(e *catar.Entry) string {
	if e == nil {
		return ""
	}
	return fmt.Sprintf("ACL %+v default %+v", e.ACL, e.DefaultACL)
}

func chmod(t *testing.T, path string, mode uint32) {
	t.Helper()
	if err := unix.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}
