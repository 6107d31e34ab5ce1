package tree

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/ociv2-sync/ociv2-sync/catar"
)

// manyFiles returns an archive of directories of small files.
func manyFiles(t testing.TB, dirs, files int) []byte {
	t.Helper()
	var b bytes.Buffer
	w := catar.NewWriter(&b, catar.With32BitUIDs|catar.WithPermissions)
	write := func(e catar.Entry, contents string) {
		t.Helper()
		e.Size = uint64(len(contents))
		err := w.WriteEntry(&e)
		if err == nil && contents != "" {
			_, err = w.Write([]byte(contents))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	write(catar.Entry{Mode: catar.ModeDir | 0o755}, "")
	for d := range dirs {
		write(catar.Entry{Depth: 1, Name: fmt.Sprintf("d%03d", d), Mode: catar.ModeDir | 0o555}, "")
		for f := range files {
			contents := bytes.Repeat([]byte{byte(f % 3)}, f*700%70_000) // zeros among them
			write(catar.Entry{Depth: 2, Name: fmt.Sprintf("f%03d", f), Mode: catar.ModeRegular | 0o640}, string(contents))
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func openFiles(t *testing.T) int {
	t.Helper()
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(names)
}

// What several write at the same time is what one would have written, and a
// failure among them is the one that is returned and leaves nothing open.
func TestCrew(t *testing.T) {
	archive := manyFiles(t, 20, 150)
	extract := func(ctx context.Context, dir string) error {
		d, err := OpenDir(dir)
		if err != nil {
			return err
		}
		_, err = Extract(ctx, catar.NewReader(bytes.NewReader(archive)), d, ExtractOptions{Flags: allFlags, New: true, PunchHoles: true})
		return errors.Join(err, d.Close())
	}
	dir := t.TempDir()
	if err := extract(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	var again bytes.Buffer
	if err := Encode(t.Context(), dir, EncodeOptions{Flags: catar.With32BitUIDs | catar.WithPermissions}, &again); err != nil {
		t.Fatal(err)
	}
	if os.Getuid() == 0 && !bytes.Equal(again.Bytes(), archive) {
		t.Error("the tree gives another archive")
	}

	before := openFiles(t)
	taken := t.TempDir()
	if err := os.Mkdir(filepath.Join(taken, "d010"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := extract(t.Context(), taken); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a directory that is there: %v", err)
	}
	cut := archive
	archive = archive[:len(archive)/2]
	if err := extract(t.Context(), t.TempDir()); !errors.Is(err, catar.ErrMalformed) {
		t.Errorf("a cut archive: %v", err)
	}
	archive = cut
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := extract(ctx, t.TempDir()); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if after := openFiles(t); after != before {
		t.Errorf("%d open files, %d before", after, before)
	}
}

// BenchmarkExtractSmall is the steady path of many small files.
func BenchmarkExtractSmall(b *testing.B) {
	archive := manyFiles(b, 20, 150)
	b.ReportAllocs()
	for b.Loop() {
		dir := b.TempDir()
		d, err := OpenDir(dir)
		if err != nil {
			b.Fatal(err)
		}
		if _, err = Extract(b.Context(), catar.NewReader(bytes.NewReader(archive)), d, ExtractOptions{Flags: allFlags, New: true}); err != nil {
			b.Fatal(err)
		}
		if err := d.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
