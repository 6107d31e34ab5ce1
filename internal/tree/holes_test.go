package tree

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// sparseFile makes a file with data at some offsets and holes between.
func sparseFile(t testing.TB, path string, size int64, data ...int64) {
	t.Helper()
	f, err := os.Create(path)
	if err == nil {
		err = f.Truncate(size)
	}
	for _, at := range data {
		if err == nil {
			_, err = f.WriteAt([]byte("some data"), at)
		}
	}
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Holes are archived as the zeros that they are, whether they are found or read.
func TestHoles(t *testing.T) {
	dir := t.TempDir()
	d, err := OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	const size = 1<<20 + 17
	for i, data := range [][]int64{nil, {0}, {size - 9}, {500_000}, {100_000, 200_000, 900_000}} {
		name := fmt.Sprint(i)
		sparseFile(t, filepath.Join(dir, name), size, data...)
		want, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		for _, sparse := range []bool{true, false} {
			fd, st, err := d.open(name)
			if err != nil {
				t.Fatal(err)
			}
			c := newContents(t.Context(), d, name, fd, &st)
			if !c.sparse {
				t.Logf("%s has no holes here", name)
			}
			c.sparse, c.left = sparse, st.Size
			got, err := io.ReadAll(c)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("data at %d, find holes %v: %d bytes of %d, or others: %v", data, sparse, len(got), len(want), err)
			}
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}

// BenchmarkHoles shows what it gives not to read them.
func BenchmarkHoles(b *testing.B) {
	dir := b.TempDir()
	const size = 256 << 20
	sparseFile(b, filepath.Join(dir, "f"), size, 0)
	d, err := OpenDir(dir)
	if err != nil {
		b.Fatal(err)
	}
	defer d.Close()
	for _, sparse := range []bool{true, false} {
		b.Run(fmt.Sprintf("found=%v", sparse), func(b *testing.B) {
			b.SetBytes(size)
			buf := make([]byte, 256<<10)
			for b.Loop() {
				fd, st, err := d.open("f")
				if err != nil {
					b.Fatal(err)
				}
				c := newContents(b.Context(), d, "f", fd, &st)
				c.sparse, c.left = sparse, size
				if _, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, c, buf); err != nil {
					b.Fatal(err)
				}
				if err := c.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
