package archive_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/internal/archive"
)

// later is a clock for which nothing has changed just now.
func later() time.Time { return time.Now().Add(time.Hour) }

// TestCache makes an index with a cache, over and over as the tree changes, and
// compares it with one that is made without.
func TestCache(t *testing.T) {
	dir := memory(t)
	source, _ := seedable(t, dir)
	at := func(name string) string { return filepath.Join(dir, name) }
	file := func(name string) string { return filepath.Join(source, name) }
	params := chunk.DefaultParams()
	run := func(what string) *archive.Made {
		t.Helper()
		makeOf(t, source, at("plain.caidx"), func(o *archive.MakeOptions) { o.Params, o.Store = params, at("plain.castr") })
		made := makeOf(t, source, at("cached.caidx"), func(o *archive.MakeOptions) {
			o.Params, o.Store, o.Cache, o.Now = params, at("cached.castr"), at("cache"), later
		})
		if !bytes.Equal(read(t, at("plain.caidx")), read(t, at("cached.caidx"))) {
			t.Fatalf("%s: another index than without the cache", what)
		}
		in, err := archive.Open(t.Context(), at("cached.caidx"), archive.OpenOptions{Stores: []string{at("cached.castr")}})
		must(t, err)
		defer in.Close()
		if _, err := archive.VerifyIndex(t.Context(), in, 4, func(id chunk.ID, err error) error { return err }); err != nil {
			t.Fatalf("%s: the store: %v", what, err)
		}
		if n := len(made.Index.Index.Chunks); made.Index.New.Chunks+made.Index.Reused.Chunks != n {
			t.Errorf("%s: %+v and %+v of %d chunks", what, made.Index.New, made.Index.Reused, n)
		}
		return made
	}
	run("empty")
	before := bytesRead(t)
	makeOf(t, source, at("again.caidx"), func(o *archive.MakeOptions) {
		o.Store, o.Cache, o.Now = at("cached.castr"), at("cache"), later
	})
	if n := bytesRead(t) - before; n > 1<<20 {
		t.Errorf("%d bytes were read of a tree that did not change", n)
	}
	for _, change := range []struct {
		name string
		do   func() error
	}{
		{"nothing", func() error { return nil }},
		{"a file", func() error { return os.WriteFile(file("d2/sub/f10"), []byte("other"), 0o600) }},
		{"the same size and time", func() error {
			b := blob(3<<20, 1)
			b[2<<20]++
			if err := os.WriteFile(file("large"), b, 0o600); err != nil {
				return err
			}
			return lutimes(file("large"), time.Unix(1_600_000_000, 7))
		}},
		{"a mode", func() error { return os.Chmod(file("d1"), 0o700) }},
		{"a name", func() error { return os.Rename(file("d3/sub/f3"), file("d3/sub/zz")) }},
		{"the last file", func() error { return os.WriteFile(file("zz"), blob(500, 5), 0o600) }},
		{"no store", func() error { return os.RemoveAll(at("cached.castr")) }},
		{"some chunks", func() error {
			found, err := filepath.Glob(at("cached.castr/*/*.cacnk"))
			for i, name := range found {
				if i%3 == 0 && err == nil {
					err = os.Remove(name)
				}
			}
			return err
		}},
		{"a damaged cache", func() error {
			b := read(t, at("cache/chunks"))
			b[len(b)/2]++
			return os.WriteFile(at("cache/chunks"), b, 0o600)
		}},
		{"other chunk sizes", func() error {
			params = chunk.Params{Min: 1000, Avg: 4000, Max: 16000}
			return nil
		}},
		{"fixed chunk sizes", func() error {
			params = chunk.Params{Min: 5000, Avg: 5000, Max: 5000}
			return nil
		}},
		{"fixed chunk sizes again", func() error { return os.Remove(file("empty")) }},
	} {
		must(t, change.do())
		run(change.name)
	}
	if made := run("nothing"); made.Index.New.Chunks != 0 || made.Digest != (chunk.ID{}) {
		t.Errorf("%+v, digest %s", made.Index.New, made.Digest)
	}
	// What has changed just now may change again without a trace.
	b := blob(3<<20, 2)
	for range 3 {
		b[1<<20]++
		write(t, file("large"), b)
		must(t, lutimes(file("large"), time.Unix(1_600_000_000, 7)))
		makeOf(t, source, at("now.caidx"), func(o *archive.MakeOptions) { o.Params, o.Cache = params, at("cache") })
		out := filepath.Join(t.TempDir(), "x")
		extract(t, at("now.caidx"), out)
		if !bytes.Equal(b, read(t, filepath.Join(out, "large"))) {
			t.Error("an old state of a file")
		}
	}
	_, err := archive.Make(t.Context(), file("large"), at("x.caibx"), nil, archive.MakeOptions{Kind: archive.BlobIndex, Cache: at("cache")})
	if err == nil {
		t.Error("a cache for a blob")
	}
}

// memory returns a directory in memory where there is one, since each index is
// written through to the disk.
func memory(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "archive-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	return dir
}

// bytesRead returns how many bytes this process has read.
func bytesRead(t *testing.T) (n int64) {
	t.Helper()
	b, err := os.ReadFile("/proc/self/io")
	must(t, err)
	_, err = fmt.Sscanf(strings.SplitN(string(b), "\n", 2)[0], "rchar: %d", &n)
	must(t, err)
	return n
}
