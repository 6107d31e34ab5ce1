package assemble

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ociv2-sync/ociv2-sync/internal/testutil"
	"github.com/ociv2-sync/ociv2-sync/internal/tree"
	"github.com/ociv2-sync/ociv2-sync/store/storetest"
	"github.com/ociv2-sync/ociv2-sync/toc"
)

// stamps returns inode, ctime and type of everything in a directory.
func stamps(t *testing.T, dir string) map[string]unix.Stat_t {
	t.Helper()
	all := map[string]unix.Stat_t{}
	must(t, filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		err = unix.Lstat(path, &st)
		st.Atim, st.Blocks = unix.Timespec{}, 0 // blocks come when they are written back
		all[strings.TrimPrefix(path, dir)] = st
		return err
	}))
	return all
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// updateTo updates the directory to what was published, with the directory as a seed.
func updateTo(ctx context.Context, t *testing.T, p *published, dir string) (*Stats, error) {
	t.Helper()
	dest, err := tree.OpenDir(dir)
	must(t, err)
	defer dest.Close()
	plan := p.plan(t, nothing, dirSeed(t, dir))
	return Update(ctx, p.job(plan, &p.store, newCache(t)), dest, Options{})
}

// disturb changes a tree in every way that an update has to mend.
func disturb(t *testing.T, dir string) {
	t.Helper()
	var files, dirs []string
	must(t, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if path != dir && e.IsDir() {
			dirs = append(dirs, path)
		} else if e.Type().IsRegular() {
			files = append(files, path)
		}
		return err
	}))
	for i, f := range files {
		switch i % 9 {
		case 0: // other bytes
			must(t, os.WriteFile(f, []byte("other bytes"), 0o600))
		case 1: // the same size and time, other bytes
			st, err := os.Stat(f)
			must(t, err)
			if st.Size() > 0 {
				h, err := os.OpenFile(f, os.O_RDWR, 0)
				must(t, err)
				b := []byte{0}
				_, err = h.ReadAt(b, 0)
				must(t, err)
				_, err = h.WriteAt([]byte{^b[0]}, 0)
				must(t, errors.Join(err, h.Close(), os.Chtimes(f, st.ModTime(), st.ModTime())))
			}
		case 2:
			must(t, os.Rename(f, f+"-moved"))
		case 3:
			must(t, os.Remove(f))
			must(t, os.MkdirAll(filepath.Join(f, "a", "b"), 0o500))
		case 4:
			must(t, os.Chmod(f, 0o611))
		case 5:
			must(t, os.Remove(f))
			must(t, os.Symlink("/etc/passwd", f))
		case 6: // one node under the name of two
			if i+1 < len(files) {
				must(t, os.Remove(f))
				must(t, os.Link(files[i+1], f))
			}
		}
	}
	for i, d := range dirs {
		switch i % 4 {
		case 0:
			must(t, os.RemoveAll(d))
			must(t, os.WriteFile(d, []byte("file for directory"), 0o600))
		case 1:
			must(t, os.WriteFile(filepath.Join(d, "more"), []byte("more"), 0o600))
			must(t, os.Chmod(d, 0o777))
		}
		dirs := dirs[i+1:]
		for len(dirs) > 0 && strings.HasPrefix(dirs[0], d+"/") && i%4 == 0 {
			return // those below it went with it
		}
	}
}

// beside makes a copy of a tree out of chunks.
func (p *published) beside(t *testing.T) string {
	t.Helper()
	d := emptyDir(t)
	_, err := Run(t.Context(), p.job(p.plan(t, nothing), &p.store, newCache(t)), d, Options{})
	must(t, err)
	return d.Path()
}

// plainFile returns the path of a file that has no other name.
func (p *published) plainFile(t *testing.T) string {
	t.Helper()
	leaders := map[int32]bool{}
	for i := range p.nodes {
		leaders[p.nodes[i].Link] = true
	}
	for i := range p.nodes {
		if n := &p.nodes[i]; n.IsRegular() && n.Size > 0 && n.Link < 0 && !leaders[int32(i)] {
			return toc.Path(p.nodes, i)
		}
	}
	t.Fatal("no plain file")
	return ""
}

func TestUpdateMendsEverything(t *testing.T) {
	p := publish(t)
	dir := p.beside(t)
	before := stamps(t, dir)
	disturb(t, dir)
	outside := filepath.Join(t.TempDir(), "outside")
	kept := filepath.Join(dir, "outside") // another name of a node that the image has not
	must(t, os.WriteFile(outside, []byte("mine"), 0o600))
	must(t, os.Link(outside, kept))
	stats, err := updateTo(t.Context(), t, p, dir)
	must(t, err)
	testutil.CompareTrees(t, p.dir, dir)
	if b, err := os.ReadFile(outside); err != nil || string(b) != "mine" {
		t.Errorf("the file outside has %q, %v", b, err)
	}
	if stats.Kept == 0 || stats.Changed == 0 || stats.Removed == 0 {
		t.Errorf("stats %+v", stats)
	}
	same := 0
	for name, st := range stamps(t, dir) {
		if st.Mode&unix.S_IFMT == unix.S_IFREG && before[name].Ino == st.Ino {
			same++
		}
	}
	if same < 10 {
		t.Errorf("%d of %d inodes stayed", same, len(before))
	}
}

// What does not differ is not touched, not even its ctime.
func TestUpdateTouchesNothing(t *testing.T) {
	p := publish(t)
	dir := p.beside(t)
	before := stamps(t, dir)
	stats, err := updateTo(t.Context(), t, p, dir)
	must(t, err)
	for name, st := range stamps(t, dir) {
		if st != before[name] {
			t.Errorf("%q was touched", name)
		}
	}
	if stats.Changed != 0 || stats.Removed != 0 || stats.Copied != 0 {
		t.Errorf("stats %+v", stats)
	}
	// One file with another time: it alone is touched, and keeps its inode.
	name := "/" + p.plainFile(t)
	must(t, unix.UtimesNanoAt(unix.AT_FDCWD, dir+name, []unix.Timespec{{Sec: 5}, {Sec: 5}}, 0))
	stats, err = updateTo(t.Context(), t, p, dir)
	must(t, err)
	testutil.CompareTrees(t, p.dir, dir)
	for n, st := range stamps(t, dir) {
		if st.Ino != before[n].Ino || n != name && st != before[n] {
			t.Errorf("%q was touched", n)
		}
	}
	if stats.Changed != 1 {
		t.Errorf("stats %+v", stats)
	}
}

// A file whose other names are none of ours is not changed through ours.
func TestUpdateLeavesOtherNamesAlone(t *testing.T) {
	p := publish(t)
	dir := p.beside(t)
	backup := filepath.Join(t.TempDir(), "backup")
	path := filepath.Join(dir, p.plainFile(t))
	must(t, os.Link(path, backup))
	must(t, os.Chmod(path, 0o642))
	before := stamps(t, backup)
	_, err := updateTo(t.Context(), t, p, dir)
	must(t, err)
	testutil.CompareTrees(t, p.dir, dir)
	if st := stamps(t, backup)[""]; st.Mode != before[""].Mode || st.Mtim != before[""].Mtim {
		t.Error("the backup has other metadata now")
	}
}

// countdown is a context that ends at the nth question whether it has.
type countdown struct {
	context.Context //nolint:containedctx // it is one
	left            atomic.Int64
}

func (c *countdown) Err() error {
	if c.left.Add(-1) < 0 {
		return context.Canceled
	}
	return nil
}

// An update that was cut anywhere is completed by the next one, which fetches nothing
// that the first one had made.
func TestUpdateCutAnywhere(t *testing.T) {
	p := publish(t)
	whole := p.beside(t)
	disturb(t, whole)
	lacking := len(p.plan(t, nothing, dirSeed(t, whole)).Missing)
	cuts := 0
	for n := int64(1); ; n = n*2 + 1 {
		dir := filepath.Join(t.TempDir(), "dir")
		if out, err := exec.CommandContext(t.Context(), "cp", "-a", whole, dir).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		ctx := &countdown{Context: t.Context()}
		ctx.left.Store(n)
		_, err := updateTo(ctx, t, p, dir)
		if err == nil {
			break
		}
		if !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		cuts++
		if missing := len(p.plan(t, nothing, dirSeed(t, dir)).Missing); missing > lacking {
			t.Errorf("cut %d: %d contents are lost, %d were", n, missing, lacking)
		}
		if _, err := updateTo(t.Context(), t, p, dir); err != nil {
			t.Fatal(err)
		}
		testutil.CompareTrees(t, p.dir, dir)
	}
	if cuts < 5 {
		t.Errorf("only %d cuts", cuts)
	}
}

// The update stops before it changes anything where something is mounted.
func TestUpdateRefusesMounts(t *testing.T) {
	testutil.NeedRoot(t)
	p := publish(t)
	dir := p.beside(t)
	extra := filepath.Join(dir, "extra", "mnt")
	must(t, os.MkdirAll(extra, 0o755))
	if err := unix.Mount("tmpfs", extra, "tmpfs", 0, ""); err != nil {
		t.Skipf("a tmpfs cannot be mounted: %v", err)
	}
	defer func() { must(t, unix.Unmount(extra, unix.MNT_DETACH)) }()
	before := stamps(t, dir)
	if _, err := updateTo(t.Context(), t, p, dir); !errors.Is(err, tree.ErrMounted) {
		t.Errorf("error %v, want %v", err, tree.ErrMounted)
	}
	for name, st := range stamps(t, dir) {
		if st != before[name] {
			t.Errorf("%q was touched", name)
		}
	}
}

// A seed, and the directory itself, that lie cost fetches.
func TestUpdateSurvivesLyingSeed(t *testing.T) {
	p := publish(t)
	dir := p.beside(t)
	disturb(t, dir)
	from := &storetest.Counting{Store: &p.store}
	dest, err := tree.OpenDir(dir)
	must(t, err)
	defer dest.Close()
	plan := p.plan(t, nothing, liar{dirSeed(t, p.dir)})
	stats, err := Update(t.Context(), p.job(plan, from, newCache(t)), dest, Options{})
	must(t, err)
	testutil.CompareTrees(t, p.dir, dir)
	if len(stats.Lost) == 0 || stats.Fetched == 0 {
		t.Errorf("stats %+v", stats)
	}
}
