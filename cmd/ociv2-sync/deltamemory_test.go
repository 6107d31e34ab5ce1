package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/ociv2-sync/ociv2-sync/internal/testutil"
)

// TestMemoryOfDeltas measures that making a delta takes at most ten times the
// largest pair of contents beside what the compressor has, that --delta-memory is
// kept, and that applying one takes 128 MB at most, whatever the contents.
func TestMemoryOfDeltas(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector has memory of its own")
	}
	const size = 6 << 20
	const pair = 2 * size
	const compressor = 216 << 20 // five brotli encoders at their best, chunks, and the program
	dir := t.TempDir()
	d := newDevice(t)
	ref := func(i int) string { return fmt.Sprintf("%s/repo/app:%d", dir, i) }
	tree := filepath.Join(dir, "tree")
	must(t, os.Mkdir(tree, 0o755))
	for i := 1; i <= 2; i++ {
		for k := range 6 {
			path := filepath.Join(tree, fmt.Sprintf("file%d", k))
			if i == 1 {
				writeNoise(t, path, uint64(k), size)
				continue
			}
			b, err := os.ReadFile(path)
			must(t, err)
			for at := 1000; at < len(b); at += 500_000 {
				b = slices.Insert(b, at, []byte("inserted")...)
			}
			must(t, os.WriteFile(path, b, 0o644))
		}
		d.must("push", "--deltas=0", "rootfs:"+tree, ref(i))
	}
	d.pull(ref(1))
	sizes := map[string]int64{}
	for _, tt := range []struct {
		memory string
		limit  int64
	}{{"512M", 10*pair + compressor}, {"64M", 64<<20 + compressor}, {"16M", 16<<20 + compressor}} {
		file := filepath.Join(dir, tt.memory)
		peak := d.peak("delta", "make", "--delta-memory", tt.memory, "-o", file, ref(1), ref(2))
		st, err := os.Stat(file)
		must(t, err)
		sizes[tt.memory] = st.Size()
		t.Logf("with %s: %d MB, a delta of %d bytes", tt.memory, peak>>20, st.Size())
		if peak > tt.limit {
			t.Errorf("with %s making takes %d bytes, at most %d are allowed", tt.memory, peak, tt.limit)
		}
		dest := filepath.Join(dir, "dest"+tt.memory)
		peak = d.peak("delta", "apply", file, "rootfs:"+dest)
		t.Logf("applying: %d MB", peak>>20)
		if peak > 128<<20 {
			t.Errorf("applying takes %d bytes", peak)
		}
		testutil.CompareTrees(t, tree, dest)
	}
	// With little memory a content is looked for piece by piece, and found.
	for memory, n := range sizes {
		if n > 20_000 {
			t.Errorf("with %s the delta has %d bytes", memory, n)
		}
	}
}

// TestMemoryOfLargeContents measures that a content that is larger than
// --delta-memory gets a delta within that, wherever its parts were.
func TestMemoryOfLargeContents(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector has memory of its own")
	}
	const size = 30 << 20
	const limit = 16<<20 + 216<<20 // as above
	dir := t.TempDir()
	d := newDevice(t)
	ref := func(i int) string { return fmt.Sprintf("%s/repo/app:%d", dir, i) }
	tree := filepath.Join(dir, "tree")
	must(t, os.Mkdir(tree, 0o755))
	path := filepath.Join(tree, "file")
	writeNoise(t, path, 1, size)
	d.must("push", "--deltas=0", "rootfs:"+tree, ref(1))
	d.pull(ref(1))
	b, err := os.ReadFile(path)
	must(t, err)
	b = slices.Concat(b[size/3:], b[:size/3]) // its beginning is at its end now
	for at := 1000; at < len(b); at += 100_000 {
		copy(b[at:], "changed")
	}
	must(t, os.WriteFile(path, slices.Insert(b, 3<<20, b[:1<<20]...), 0o644))
	d.must("push", "--deltas=0", "rootfs:"+tree, ref(2))
	chunks := d.plan("--delta=never", ref(2)).Total.WireBytes
	file := filepath.Join(dir, "delta")
	peak := d.peak("delta", "make", "--delta-memory", "16M", "-o", file, ref(1), ref(2))
	st, err := os.Stat(file)
	must(t, err)
	t.Logf("%d MB, a delta of %d bytes, chunks of %d", peak>>20, st.Size(), chunks)
	if peak > limit {
		t.Errorf("making takes %d bytes, at most %d are allowed", peak, limit)
	}
	if st.Size() > chunks/100 {
		t.Errorf("the delta has %d bytes, the chunks %d", st.Size(), chunks)
	}
	dest := filepath.Join(dir, "dest")
	peak = d.peak("delta", "apply", file, "rootfs:"+dest)
	t.Logf("applying: %d MB", peak>>20)
	if peak > 128<<20 {
		t.Errorf("applying takes %d bytes", peak)
	}
	testutil.CompareTrees(t, tree, dest)
}
