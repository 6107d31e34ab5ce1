package archive_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/ociv2-sync/ociv2-sync/caibx"
	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/internal/archive"
	"github.com/ociv2-sync/ociv2-sync/store"
	"github.com/ociv2-sync/ociv2-sync/store/local"
)

// published is a directory with a store and the indexes of two blobs that have
// chunks in common.
func published(t *testing.T) (dir string, one, two string) {
	dir = t.TempDir()
	common := blob(500_000, 1)
	for i, name := range []string{"one", "two"} {
		path := write(t, filepath.Join(dir, name), append(common[:500_000:500_000], blob(500_000, uint64(7+i))...))
		makeOf(t, path, path+".caibx", func(o *archive.MakeOptions) { o.Compression = store.Compression(i) })
	}
	return dir, filepath.Join(dir, "one.caibx"), filepath.Join(dir, "two.caibx")
}

// chunkFile returns the file of chunk i of an index.
func chunkFile(t *testing.T, index string, i int) string {
	hex := open(t, index).Index.Chunks[i].ID.String()
	return filepath.Join(filepath.Dir(index), "default.castr", hex[:4], hex+".cacnk")
}

// damage replaces a file.
func damage(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if b != nil {
		write(t, path, b)
	}
}

func TestGC(t *testing.T) {
	dir, one, two := published(t)
	castr := filepath.Join(dir, "default.castr")
	for _, stray := range []string{"stray", "abcd"} { // casync fails on them
		write(t, filepath.Join(castr, stray), []byte("x"))
	}
	count := func() int {
		n := 0
		st, err := local.Open(castr, local.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer st.Close()
		for _, err := range st.List(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			n++
		}
		return n
	}
	all := count()

	// A truncated index, on which casync aborts, keeps everything as it is.
	cut := write(t, filepath.Join(dir, "cut.caibx"), read(t, one)[:200])
	for _, indexes := range [][]string{{one, cut}, {one, filepath.Join(dir, "none.caibx")}, {}, {filepath.Join(dir, "one")}, {one, "/elsewhere/x.caibx"}} {
		if _, err := archive.GC(t.Context(), indexes, archive.GCOptions{}); err == nil {
			t.Errorf("%v: no error", indexes)
		}
	}
	if _, err := archive.GC(t.Context(), []string{one, cut}, archive.GCOptions{}); !errors.Is(err, caibx.ErrMalformed) {
		t.Errorf("a truncated index: %v", err)
	}
	for _, dry := range []bool{true, false} {
		named := 0
		done, err := archive.GC(t.Context(), []string{one}, archive.GCOptions{DryRun: dry, Removing: func(chunk.ID) { named++ }})
		if err != nil {
			t.Fatal(err)
		}
		left := count()
		if named != done.Removed || done.Removed == 0 || done.Kept+done.Removed != all || dry && left != all || !dry && left != done.Kept {
			t.Errorf("dry %v: %+v; named %d, %d of %d left", dry, *done, named, left, all)
		}
	}
	for index, want := range map[string]error{one: nil, two: store.ErrNotFound} {
		_, err := archive.VerifyIndex(t.Context(), open(t, index), 2, func(chunk.ID, error) error { return nil })
		if !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", index, err, want)
		}
	}
	extractBlob(t, one, filepath.Join(dir, "out"), read(t, filepath.Join(dir, "one")), archive.BlobOptions{})
	for _, stray := range []string{"stray", "abcd"} {
		read(t, filepath.Join(castr, stray))
	}
}

func TestVerify(t *testing.T) {
	dir, one, two := published(t)
	castr := filepath.Join(dir, "default.castr")
	var bad []chunk.ID
	report := func(id chunk.ID, _ error) error {
		bad = append(bad, id)
		return nil
	}
	check := func(name string, wantBad int, want error, verify func() (*archive.Verified, error)) {
		t.Helper()
		bad = nil
		done, err := verify()
		if !errors.Is(err, want) || len(bad) != wantBad || done.Chunks == 0 {
			t.Errorf("%s: %d bad, %v, of %+v", name, len(bad), err, done)
		}
	}
	wholeStore := func() (*archive.Verified, error) { return archive.VerifyStore(t.Context(), castr, 3, report) }
	index := func(name string) func() (*archive.Verified, error) {
		return func() (*archive.Verified, error) { return archive.VerifyIndex(t.Context(), open(t, name), 3, report) }
	}
	check("store", 0, nil, wholeStore)
	check("index", 0, nil, index(one))
	last := len(open(t, two).Index.Chunks) - 1
	good := read(t, chunkFile(t, two, last))
	for name, b := range map[string][]byte{
		"noise": blob(1000, 5), "cut": good[:len(good)-1], "another": read(t, chunkFile(t, one, 0)), "longer": append(good[:len(good):len(good)], 0),
	} {
		damage(t, chunkFile(t, two, last), b)
		check(name+", store", 1, archive.ErrDamaged, wholeStore)
		check(name+", index", 1, archive.ErrDamaged, index(two))
		check(name+", other index", 0, nil, index(one))
	}
	damage(t, chunkFile(t, two, last), nil)
	check("missing, store", 0, nil, wholeStore)
	check("missing, index", 1, store.ErrNotFound, index(two))
}

func TestVerifyTarget(t *testing.T) {
	dir, one, _ := published(t)
	name := filepath.Join(dir, "one")
	b := read(t, name)
	in := open(t, one)
	changed := bytes.Clone(b)
	changed[700_000] ^= 1
	for name, tt := range map[string]struct {
		b    []byte
		bad  int
		want error
	}{
		"same": {b, 0, nil}, "changed": {changed, 1, archive.ErrDamaged}, "longer": {append(b[:len(b):len(b)], 0), 1, archive.ErrDamaged},
		"shorter": {b[:len(b)-1], 1, archive.ErrDamaged}, "empty": {nil, 1, archive.ErrDamaged},
	} {
		var ranges []archive.Range
		_, err := archive.VerifyTarget(t.Context(), in, write(t, filepath.Join(dir, "target"), tt.b), func(r archive.Range) error {
			ranges = append(ranges, r)
			return nil
		})
		if !errors.Is(err, tt.want) || len(ranges) != tt.bad {
			t.Errorf("%s: %v, %v", name, ranges, err)
		}
		if name == "changed" && (ranges[0].From > 700_000 || ranges[0].To <= 700_000) {
			t.Errorf("%s: %v", name, ranges)
		}
	}
	source := t.TempDir()
	write(t, filepath.Join(source, "a"), []byte("contents"))
	index := filepath.Join(dir, "x.caidx")
	makeOf(t, source, index, nil)
	for _, want := range []error{nil, archive.ErrDamaged} {
		_, err := archive.VerifyTarget(t.Context(), open(t, index), source, func(archive.Range) error { return nil })
		if !errors.Is(err, want) {
			t.Errorf("tree: %v, want %v", err, want)
		}
		write(t, filepath.Join(source, "b"), nil)
	}
}

// TestRepair fetches what is damaged and nothing else.
func TestRepair(t *testing.T) {
	dir, one, _ := published(t)
	castr := filepath.Join(dir, "default.castr")
	other := filepath.Join(t.TempDir(), "copy.castr")
	if err := exec.CommandContext(t.Context(), "cp", "-r", castr, other).Run(); err != nil {
		t.Fatal(err)
	}
	sources, err := local.Open(other, local.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer sources.Close()
	damage(t, chunkFile(t, one, 1), []byte("noise"))
	damage(t, chunkFile(t, one, 2), nil)
	damage(t, chunkFile(t, one, 3), []byte{})
	in := open(t, one)
	for _, want := range []int{3, 0} {
		done, err := archive.Repair(t.Context(), in, castr, sources, 3, func(chunk.ID, error) error { return nil })
		if err != nil || done.Fetched != want {
			t.Fatalf("%+v, %v; want %d fetched", done, err, want)
		}
	}
	if _, err := archive.VerifyIndex(t.Context(), in, 3, func(chunk.ID, error) error { return nil }); err != nil {
		t.Error(err)
	}
	// A source that has it no better does no harm.
	for _, b := range [][]byte{[]byte("noise"), nil} {
		file := chunkFile(t, one, 1)
		damage(t, file, []byte("damaged"))
		rel, err := filepath.Rel(castr, file)
		if err != nil {
			t.Fatal(err)
		}
		damage(t, filepath.Join(other, rel), b)
		if _, err := archive.Repair(t.Context(), in, castr, sources, 1, func(chunk.ID, error) error { return nil }); err == nil {
			t.Errorf("repaired from %q", b)
		}
		if string(read(t, file)) != "damaged" {
			t.Error("something was put")
		}
	}
}
