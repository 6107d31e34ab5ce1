package archive_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ociv2-sync/ociv2-sync/catar"
	"github.com/ociv2-sync/ociv2-sync/internal/archive"
	"github.com/ociv2-sync/ociv2-sync/internal/stores"
	"github.com/ociv2-sync/ociv2-sync/internal/testutil"
	disk "github.com/ociv2-sync/ociv2-sync/internal/tree"
	"github.com/ociv2-sync/ociv2-sync/store"
	"github.com/ociv2-sync/ociv2-sync/store/httpstore"
)

// TestPartialStores finds what is wrong with chunks and records before it changes
// anything in a directory that is there, wherever the chunks are; none is fetched twice.
func TestPartialStores(t *testing.T) {
	dir := t.TempDir()
	source, index := seedable(t, dir)
	ids := open(t, index).Index.Chunks
	last := ids[len(ids)-1].ID.String()
	path := filepath.Join(dir, "default.castr", last[:4], last+".cacnk")
	good := read(t, path)

	// The index of an archive without an end.
	makeOf(t, source, filepath.Join(dir, "x.catar"), nil)
	whole := read(t, filepath.Join(dir, "x.catar"))
	write(t, filepath.Join(dir, "cut"), whole[:len(whole)-50])
	cut := filepath.Join(dir, "cut.caidx")
	makeOf(t, filepath.Join(dir, "cut"), cut, func(o *archive.MakeOptions) { o.Kind, o.Flags = archive.BlobIndex, flags(t) })

	empty := filepath.Join(dir, "empty.castr")
	must(t, os.Mkdir(empty, 0o755))
	server := testutil.StartNginx(t, dir)
	client := httpstore.NewClient(httpstore.Options{})
	t.Cleanup(client.Close)
	castr := filepath.Join(dir, "default.castr")
	for name, o := range map[string]archive.OpenOptions{
		"far":            {Stores: []string{server.URL + "/default.castr"}},
		"far behind":     {Stores: []string{empty}, ExtraStores: []string{server.URL + "/default.castr"}},
		"several far":    {Stores: []string{server.URL + "/empty.castr", server.URL + "/default.castr"}},
		"several":        {Stores: []string{empty}, ExtraStores: []string{castr}},
		"near, then far": {Stores: []string{castr, server.URL + "/default.castr"}},
	} {
		t.Run(name, func(t *testing.T) {
			o.Clients, o.TempDir = stores.Clients{HTTP: client}, t.TempDir()
			dest := copyOf(t, source, filepath.Join(dir, "dest "+name))
			old := filepath.Join(dest, "d1/sub/f1")
			write(t, old, []byte("old"))
			into := func(index string) (*archive.Restored, error) {
				in, err := archive.Open(t.Context(), index, o)
				must(t, err)
				defer in.Close()
				opts := everything(t)
				opts.SeedOutput = false
				return archive.Extract(t.Context(), in, dest, opts)
			}
			fails := func(index string, want error) {
				t.Helper()
				_, err := into(index)
				if _, partial := errors.AsType[*disk.PartialError](err); partial || !errors.Is(err, want) {
					t.Errorf("%v, want %v", err, want)
				}
				if string(read(t, old)) != "old" {
					t.Error("something was changed")
				}
			}
			defer func() { must(t, os.Rename(write(t, path+".new", good), path)) }()
			must(t, os.Remove(path))
			fails(index, store.ErrNotFound)
			write(t, path, append([]byte("damaged"), good...))
			must(t, os.Chmod(path, 0o444))
			fails(index, store.ErrCorrupt)
			fails(cut, catar.ErrMalformed)
			must(t, os.Rename(write(t, path+".new", good), path))
			must(t, os.Chmod(path, 0o444))

			server.Reset()
			done, err := into(index)
			must(t, err)
			testutil.CompareTrees(t, source, dest)
			var got []string
			for _, r := range server.Requests() {
				if strings.Contains(r.Path, "/default.castr/") {
					got = append(got, r.Path)
				}
			}
			slices.Sort(got)
			if n := len(got); n != len(slices.Compact(got)) || strings.HasPrefix(name, "far") && n == 0 || done.Fetched == 0 {
				t.Errorf("%d chunks, %d requests, some of them twice", done.Fetched, n)
			}
			left, err := os.ReadDir(o.TempDir)
			if err != nil || len(left) > 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
}

// TestPartialBlob: a store without some chunk is found out before a blob is
// changed; a failure after that names what was changed.
func TestPartialBlob(t *testing.T) {
	dir := t.TempDir()
	want := blob(2<<20, 1)
	index := filepath.Join(dir, "x.caibx")
	makeOf(t, write(t, filepath.Join(dir, "x"), want), index, nil)
	ids := open(t, index).Index.Chunks
	last := ids[len(ids)-1].ID.String()
	path := filepath.Join(dir, "default.castr", last[:4], last+".cacnk")
	had := append(blob(1000, 9), want[:1<<20]...)
	dest := write(t, filepath.Join(dir, "dest"), had)
	must(t, os.Remove(path))
	opts := archive.BlobOptions{SeedOutput: true, Seeds: []string{write(t, filepath.Join(dir, "seed"), want[:1<<19])}}
	_, err := archive.ExtractBlob(t.Context(), open(t, index), dest, opts)
	if _, partial := errors.AsType[*disk.PartialError](err); partial || !errors.Is(err, store.ErrNotFound) || !bytes.Equal(read(t, dest), had) {
		t.Errorf("a missing chunk: %v", err)
	}
	write(t, path, []byte("damaged"))
	_, err = archive.ExtractBlob(t.Context(), open(t, index), dest, opts)
	partial, ok := errors.AsType[*disk.PartialError](err)
	if !ok || !slices.Equal(partial.Changed, []string{dest}) || !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("a damaged chunk: %v", err)
	}
}

// TestOtherNames changes a directory each of whose files has another name elsewhere, as
// the trees of a root have: what is as the archive says keeps its inode, and nothing is
// done to the other names.
func TestOtherNames(t *testing.T) {
	dir := t.TempDir()
	source, index := seedable(t, dir)
	must(t, unix.Mkfifo(filepath.Join(source, "d5/fifo"), 0o600))
	settle(t, source)
	makeOf(t, source, index, nil)
	dest := copyOf(t, source, filepath.Join(dir, "dest"))
	pool := filepath.Join(dir, "pool")
	if out, err := exec.CommandContext(t.Context(), "cp", "-al", dest, pool).CombinedOutput(); err != nil {
		t.Fatalf("%s", out)
	}
	inodes := func(dir string) map[string]uint64 {
		m := make(map[string]uint64)
		must(t, filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
			var st unix.Stat_t
			err = errors.Join(err, unix.Lstat(path, &st))
			m[strings.TrimPrefix(path, dir+"/")] = st.Ino
			return err
		}))
		return m
	}
	before := inodes(dest)
	repaired := func(want ...string) {
		t.Helper()
		var changed []string
		restore(t, index, dest, func(o *archive.ExtractOptions) {
			o.SeedOutput = true
			o.Tree.Changed = func(path string) { changed = append(changed, path) }
		})
		if !slices.Equal(changed, want) {
			t.Errorf("changed %q, want %q", changed, want)
		}
		testutil.CompareTrees(t, source, dest, testutil.Without(testutil.HardLinks))
		for path, inode := range inodes(dest) {
			if anew := slices.Contains(want, path); anew == (inode == before[path]) {
				t.Errorf("%s: made anew: %v, want %v", path, !anew, anew)
			}
		}
	}
	repaired()

	grown := filepath.Join(pool, "d1/sub/f3")
	f, err := os.OpenFile(grown, os.O_APPEND|os.O_WRONLY, 0)
	must(t, err)
	_, err = f.WriteString("more")
	must(t, errors.Join(err, f.Close()))
	other := filepath.Join(pool, "d2/sub/f4") // of the same size, with its time
	write(t, other, bytes.Repeat([]byte("x"), len(read(t, other))))
	must(t, os.Chmod(filepath.Join(pool, "d2/sub/f6"), 0o604))
	must(t, unix.Setxattr(filepath.Join(pool, "d3/sub/f1"), "user.more", []byte("1"), 0))
	must(t, os.Chmod(filepath.Join(pool, "d5/fifo"), 0o604))
	must(t, lutimes(filepath.Join(pool, "link"), time.Unix(1, 0)))
	must(t, lutimes(other, time.Unix(1_600_000_000, 7)))
	repaired("d1/sub/f3", "d2/sub/f4", "d2/sub/f6", "d3/sub/f1", "d5/fifo", "link")
	if len(read(t, grown)) == len(read(t, filepath.Join(source, "d1/sub/f3"))) || stat(t, filepath.Join(pool, "d2/sub/f6")).Mode&0o777 != 0o604 {
		t.Error("another name was changed")
	}
	if x, err := unix.Getxattr(filepath.Join(pool, "d3/sub/f1"), "user.more", nil); x != 1 || err != nil {
		t.Errorf("another name has lost an xattr: %v", err)
	}
}
