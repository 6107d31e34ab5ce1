package tree

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/ociv2-sync/ociv2-sync/catar"
	"github.com/ociv2-sync/ociv2-sync/internal/testutil"
)

// allFlags restores everything.
const allFlags = ^catar.Flags(0)

// extract extracts an archive into a new directory and returns it.
func extract(t *testing.T, archive []byte, opts ExtractOptions) (string, []Unrestored) {
	t.Helper()
	dir := t.TempDir()
	t.Cleanup(func() {
		// The directory is gone before this runs only if nothing was immutable.
		_ = exec.Command("chattr", "-R", "-f", "-ia", dir).Run()
	})
	d, err := OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	notes, err := Extract(t.Context(), catar.NewReader(bytes.NewReader(archive)), d, opts)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	return dir, notes
}

func TestExtractGivesTheTreeBack(t *testing.T) {
	testutil.Need(t, "casync")
	testutil.NeedRoot(t)
	dir := t.TempDir()
	testutil.BuildTree(t, dir)
	buildMore(t, dir)
	archive := casyncMake(t, dir, "--exclude-nodump=no")
	for _, isNew := range []bool{false, true} {
		got, notes := extract(t, archive, ExtractOptions{Flags: allFlags, PunchHoles: true, New: isNew})
		if len(notes) > 0 {
			t.Errorf("not restored: %v", notes)
		}
		testutil.CompareTrees(t, dir, got, testutil.Without(testutil.HardLinks))
		// The same again proves the file flags, which CompareTrees does not see.
		if again := casyncMake(t, got, "--exclude-nodump=no"); !bytes.Equal(again, archive) {
			t.Errorf("the extracted tree differs:\n%s", firstDifference(archive, again))
		}
	}
}

// What is made in a directory with a default ACL inherits one, which the archive
// does not have: it is removed, also where nothing but a new directory lies between.
func TestExtractRemovesInheritedACLs(t *testing.T) {
	testutil.Need(t, "casync")
	testutil.NeedRoot(t)
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "a/b"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"f", "a/f", "a/b/f"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	archive := casyncMake(t, dir)
	for _, opts := range []ExtractOptions{{Flags: allFlags}, {Flags: allFlags, New: true}} {
		got := t.TempDir()
		run(t, "setfacl", "-d", "-m", "u:12345:rwx", got)
		d, err := OpenDir(got)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Extract(t.Context(), catar.NewReader(bytes.NewReader(archive)), d, opts); err != nil {
			t.Fatal(err)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		testutil.CompareTrees(t, dir, got, testutil.Without(testutil.HardLinks))
	}
}

// TestExtractIsCasyncs extracts with each feature set and lets casync do the
// same.
func TestExtractIsCasyncs(t *testing.T) {
	testutil.Need(t, "casync")
	testutil.NeedRoot(t)
	dir := t.TempDir()
	testutil.BuildTree(t, dir)
	smallIDs(t, dir)
	run(t, "setfacl", "-R", "-P", "-b", dir)
	for _, set := range [][2]string{
		{},
		{"unix"},
		{"2sec-time"},
		{"fuse"},
		{"acl"},
		{"", "all"},
		{"", "privileged"},
		{"permissions"},
		{"32bit-uids"},
		{"sec-time,symlinks"},
		{"xattrs"},
		{"fcaps"},
	} {
		t.Run(set[0]+"-"+set[1], func(t *testing.T) {
			var args []string
			for _, n := range list(set[0]) {
				args = append(args, "--with="+n)
			}
			for _, n := range list(set[1]) {
				args = append(args, "--without="+n)
			}
			archive := casyncMake(t, dir, args...)
			file := filepath.Join(t.TempDir(), "a.catar")
			if err := os.WriteFile(file, archive, 0o600); err != nil {
				t.Fatal(err)
			}
			want := t.TempDir()
			run(t, "casync", "extract", file, want)
			got, notes := extract(t, archive, ExtractOptions{Flags: allFlags, Umask: 0o022})
			if len(notes) > 0 {
				t.Errorf("not restored: %v", notes)
			}
			flags, err := catar.ParseNames(list(set[0]), list(set[1]))
			if err != nil {
				t.Fatal(err)
			}
			skip := testutil.HardLinks
			if !flags.Has(timeFlags) {
				skip |= testutil.Time
			}
			testutil.CompareTrees(t, want, got, testutil.Without(skip))
		})
	}
}
