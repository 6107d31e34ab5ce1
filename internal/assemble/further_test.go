package assemble

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ociv2-sync/ociv2-sync/internal/objects"
	"github.com/ociv2-sync/ociv2-sync/internal/testutil"
	"github.com/ociv2-sync/ociv2-sync/internal/tree"
)

// linked makes a tree with one file under n names, in two directories.
func linked(t *testing.T, n int) (dir string, names []string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "source")
	for i := range n {
		name := filepath.Join([]string{"a", "b"}[i*2/n], strings.Repeat("n", 200)+fmt.Sprintf("%03d", i))
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
		if i == 0 {
			must(t, os.WriteFile(filepath.Join(dir, name), []byte("content"), 0o640))
		} else {
			must(t, os.Link(filepath.Join(dir, names[0]), filepath.Join(dir, name)))
		}
		names = append(names, name)
	}
	must(t, unix.UtimesNanoAt(unix.AT_FDCWD, filepath.Join(dir, "a"), []unix.Timespec{{Sec: 1}, {Sec: 1}}, 0))
	return dir, names
}

func linksTo(t *testing.T, path string) int {
	t.Helper()
	fi, err := os.Lstat(path)
	must(t, err)
	return int(fi.Sys().(*syscall.Stat_t).Nlink)
}

// Where a filesystem gives a file no further name there is a file of its own, and it is
// said. (A btrfs of old has room for some 20 long names of a file in a directory.)
func TestTooManyLinks(t *testing.T) {
	source, names := linked(t, 60)
	p := publishDir(t, source)
	dir := filepath.Join(testutil.LoopMount(t, "btrfs", "-q", "-O", "^extref", "-n", "4096"), "dest")
	must(t, os.Mkdir(dir, 0o755))
	dest, err := tree.OpenDir(dir)
	must(t, err)
	defer dest.Close()
	for _, run := range []func(context.Context, Job, *tree.Dir, Options) (*Stats, error){Run, Update} {
		stats, err := run(t.Context(), p.job(p.plan(t, nothing), &p.store, newCache(t)), dest, Options{})
		must(t, err)
		if len(stats.Unrestored) < 20 {
			t.Errorf("%d files of their own are told", len(stats.Unrestored))
		}
		for _, u := range stats.Unrestored {
			if u.What != "hard link" || !errors.Is(u, unix.EMLINK) {
				t.Errorf("not restored is %v", u)
			}
		}
		alone := 0
		for _, name := range names {
			if linksTo(t, filepath.Join(dir, name)) == 1 {
				alone++
			}
		}
		if alone != len(stats.Unrestored) {
			t.Errorf("%d files of their own, %d told", alone, len(stats.Unrestored))
		}
		testutil.CompareTrees(t, source, dir, testutil.Without(testutil.HardLinks))
	}
}

// An object of which other trees have nearly all names that it can have is not linked in
// place of what the image itself has.
func TestLinksLeftByOtherTrees(t *testing.T) {
	const most = 65_000 // of ext4
	source, names := linked(t, 40)
	p := publishDir(t, source)
	mount := testutil.LoopMount(t, "ext4", "-q")
	set, err := objects.Open(filepath.Join(mount, "objects"), nil)
	must(t, err)
	defer set.Close()
	build := func(name string) string {
		dir := filepath.Join(mount, name)
		must(t, os.Mkdir(dir, 0o755))
		dest, err := tree.OpenDir(dir)
		must(t, err)
		defer dest.Close()
		stats, err := Run(t.Context(), p.job(p.plan(t, nothing, dirSeed(t, source)), &p.store, newCache(t)), dest, Options{Objects: set})
		must(t, err)
		if len(stats.Unrestored) != 0 {
			t.Errorf("not restored is %v", stats.Unrestored)
		}
		testutil.CompareTrees(t, source, dir)
		return dir
	}
	first := filepath.Join(build("first"), names[0])
	if n := linksTo(t, first); n != len(names)+1 {
		t.Errorf("%d links, want those of the image and the object", n)
	}
	other, err := unix.Open(filepath.Dir(first), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	must(t, err)
	defer func() { must(t, unix.Close(other)) }()
	must(t, os.Mkdir(filepath.Join(mount, "other"), 0o755))
	to, err := unix.Open(filepath.Join(mount, "other"), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	must(t, err)
	defer func() { must(t, unix.Close(to)) }()
	for i := len(names) + 1; i < most-30; i++ {
		must(t, unix.Linkat(other, filepath.Base(first), to, fmt.Sprint(i), 0))
	}
	if n := linksTo(t, filepath.Join(build("second"), names[0])); n != len(names) {
		t.Errorf("%d links, want those of the image", n)
	}
	if n := linksTo(t, first); n != most-30 {
		t.Errorf("%d links of the first image's file, want %d as before", n, most-30)
	}
	for i := range 30 {
		must(t, unix.Linkat(other, filepath.Base(first), to, fmt.Sprint("last", i), 0))
	}
	// No name is left for the first of the group: its file is the object from now on.
	if n := linksTo(t, filepath.Join(build("third"), names[0])); n != len(names)+1 {
		t.Errorf("%d links, want those of the image and the object", n)
	}
}
