package tree

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ociv2-sync/ociv2-sync/catar"
)

// encodeBy encodes dir with so many goroutines, and returns the archive and what
// was told of its files.
func encodeBy(t *testing.T, dir string, jobs int, opts EncodeOptions) ([]byte, []FileAt) {
	t.Helper()
	var told []FileAt
	opts.Contents = func(f FileAt, st *unix.Stat_t) {
		if uint64(st.Size) != f.Size {
			t.Errorf("%s: %d bytes, stat says %d", f.Name, f.Size, st.Size)
		}
		told = append(told, f)
	}
	root, err := OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	var b bytes.Buffer
	e := newEncoder(opts, &b, jobs)
	if err := e.root(t.Context(), root); err != nil {
		t.Fatal(err)
	}
	if jobs > 1 && len(e.ahead) != maxAhead {
		t.Errorf("%d batches are left of %d", len(e.ahead), maxAhead)
	}
	return b.Bytes(), told
}

// What is read ahead makes the same archive as what is read in its turn.
func TestAhead(t *testing.T) {
	dir := t.TempDir()
	at := dir
	for depth := range maxAhead { // more directories inside each other than have batches
		for i := range 3*crewFiles + depth {
			write(t, filepath.Join(at, fmt.Sprintf("f%03d", i)), strings.Repeat("x", i%7*depth))
		}
		write(t, filepath.Join(at, "f010large"), strings.Repeat("large", smallFile))
		for i := range 5 { // together more than a batch has room for
			write(t, filepath.Join(at, fmt.Sprintf("f020large%d", i)), strings.Repeat("x", smallFile))
		}
		write(t, filepath.Join(at, "f030not"), "left out")
		write(t, filepath.Join(at, ".caexclude"), "*not\n")
		symlink(t, "f001", filepath.Join(at, "f040link"))
		if err := unix.Mkfifo(filepath.Join(at, "f050fifo"), 0o600); err != nil {
			t.Fatal(err)
		}
		mkdir(t, filepath.Join(at, "f060empty"))
		at = filepath.Join(at, "f070dir")
		mkdir(t, at)
	}
	for _, opts := range []EncodeOptions{
		{},
		{Flags: (catar.WithUserNames | catar.With32BitUIDs | catar.WithPermissions | catar.WithNsecTime | catar.WithSymlinks | catar.WithFIFOs | catar.ExcludeFile).Normalize()},
		{Flags: catar.WithNsecTime, Skip: true},
	} {
		want, wantTold := encodeBy(t, dir, 1, opts)
		for _, jobs := range []int{2, 5} {
			got, told := encodeBy(t, dir, jobs, opts)
			if !bytes.Equal(got, want) {
				t.Errorf("%v, %d jobs: another archive:\n%s", opts.Flags, jobs, firstDifference(want, got))
			}
			if fmt.Sprint(told) != fmt.Sprint(wantTold) {
				t.Errorf("%v, %d jobs: told of other files", opts.Flags, jobs)
			}
		}
	}
}

// The error is that of the first node that cannot be encoded, and nobody reads on
// after it.
func TestAheadFails(t *testing.T) {
	dir := t.TempDir()
	for i := range 10 * crewFiles {
		write(t, filepath.Join(dir, fmt.Sprintf("f%03d", i)), "contents")
	}
	root, err := OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if os.Geteuid() == 0 {
		const base = 100_000
		if err := os.Chown(dir, base, base); err != nil {
			t.Fatal(err)
		}
		for i := range 10 * crewFiles {
			if i == 200 || i == 201 {
				continue // these are below the shift
			}
			if err := os.Chown(filepath.Join(dir, fmt.Sprintf("f%03d", i)), base, base); err != nil {
				t.Fatal(err)
			}
		}
		opts := EncodeOptions{Flags: catar.With32BitUIDs, Shift: IDShift{Base: base, Range: 65536}}
		err := newEncoder(opts, io.Discard, 2).root(t.Context(), root)
		if !refused(err) || !strings.Contains(err.Error(), "f200") {
			t.Errorf("an owner below the shift: %v", err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	opts := EncodeOptions{Contents: func(f FileAt, _ *unix.Stat_t) {
		if f.Name == "f033" {
			cancel()
		}
	}}
	// What was read by then may still be written.
	err = newEncoder(opts, io.Discard, 2).root(ctx, root)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// BenchmarkEncodeSmall shows what reading small files ahead gives: by one
// goroutine, and by two.
func BenchmarkEncodeSmall(b *testing.B) {
	dir := b.TempDir()
	for d := range 20 {
		sub := filepath.Join(dir, fmt.Sprint(d))
		if err := os.Mkdir(sub, 0o700); err != nil {
			b.Fatal(err)
		}
		for f := range 500 {
			if err := os.WriteFile(filepath.Join(sub, fmt.Sprint(f)), []byte("a small file\n"), 0o600); err != nil {
				b.Fatal(err)
			}
		}
	}
	for _, jobs := range []int{1, 2} {
		b.Run(fmt.Sprint(jobs), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				root, err := OpenDir(dir)
				if err == nil {
					err = newEncoder(EncodeOptions{Flags: catar.With32BitUIDs | catar.WithPermissions | catar.WithNsecTime}, io.Discard, jobs).root(b.Context(), root)
					err = errors.Join(err, root.Close())
				}
				if err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/10_000, "µs/file")
		})
	}
}
