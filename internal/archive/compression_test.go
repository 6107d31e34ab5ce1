package archive_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/ociv2-sync/ociv2-sync/internal/archive"
	"github.com/ociv2-sync/ociv2-sync/store"
)

// One store with chunks of all compressions, some without: casync's for us to
// read, and ours for casync.
func TestMixedStore(t *testing.T) {
	forms := []store.Compression{store.Zstd, store.XZ, store.Gzip}
	t.Run("casync's", func(t *testing.T) {
		dir := t.TempDir()
		for i, form := range forms {
			name := write(t, filepath.Join(dir, form.String()), blob(400_000, uint64(i)))
			casync(t, "make", "--compression="+form.String(), "--store="+dir+"/default.castr", name+".caibx", name)
		}
		for _, form := range forms {
			name := filepath.Join(dir, form.String())
			extractBlob(t, name+".caibx", name+".out", read(t, name), archive.BlobOptions{})
		}
	})
	t.Run("ours", func(t *testing.T) {
		dir := t.TempDir()
		whole := []byte{}
		for i, form := range forms {
			b := blob(400_000, uint64(i))
			whole = append(whole, b...)
			name := write(t, filepath.Join(dir, form.String()), b)
			made := makeOf(t, name, name+".caibx", func(o *archive.MakeOptions) { o.Compression = form })
			if made.Index.New.Chunks == 0 {
				t.Errorf("%v: no chunk is new", form)
			}
		}
		uncompress(t, dir)
		// Most of its chunks are there in one form or another.
		name := write(t, filepath.Join(dir, "whole"), whole)
		made := makeOf(t, name, name+".caibx", nil)
		if made.Index.Reused.Chunks < made.Index.New.Chunks {
			t.Errorf("%d chunks reused, %d new", made.Index.Reused.Chunks, made.Index.New.Chunks)
		}
		casync(t, "extract", name+".caibx", name+".out")
		if !bytes.Equal(whole, read(t, name+".out")) {
			t.Error("casync extracts other bytes")
		}
	})
}

// uncompress stores one chunk without compression.
func uncompress(t *testing.T, dir string) {
	x := open(t, filepath.Join(dir, "xz.caibx")).Index
	hex := x.Chunks[0].ID.String()
	path := filepath.Join(dir, "default.castr", hex[:4], hex)
	write(t, path, read(t, filepath.Join(dir, "xz"))[:x.Chunks[0].End])
	if err := os.Remove(path + ".cacnk"); err != nil {
		t.Fatal(err)
	}
}
