package delta

import (
	"context"
	"crypto/sha256"
	"strings"
	"testing"
)

// Contents that do not fit into the memory are looked for window by window,
// wherever in the base their parts are.
func TestLargeContents(t *testing.T) {
	const memory = 1 << 20 // parts of 32 KiB
	a, b, c := noise(1, 1200_000), noise(2, 2<<20), noise(3, 300_000)
	old := []file{
		{"edited", a},
		{"moved", b},
		{"halved", b[500_000:] + "but for that"},
		{"renamed", c + a[:400_000]},
		{"zeros", strings.Repeat("\x00", 1<<20)},
	}
	files := []file{
		{"edited", edit(1, a)},
		{"moved", b[1<<20:] + c + b[500_000:1<<20] + edit(2, b[:500_000])},
		{"halved", b[1<<20 : 1300_000]}, // small itself, and its base is not
		{"new name", c + edit(3, a[:400_000])},
		{"zeros", strings.Repeat("\x00", 600_000) + "some more" + strings.Repeat("\x00", 600_000)},
		{"new", noise(4, 600_000)},
	}
	from, to := newTree(t, old...), newTree(t, files...)
	d, made := makeDelta(t, from, to, MakeOptions{Memory: memory, Jobs: 3, Quality: 5})
	if made.Contents != len(files) || made.Based != len(files)-1 {
		t.Errorf("made %+v", *made)
	}
	// What is new, and at each of the seams a part of a part.
	if most := int64(600_000 + len(c) + 50_000); made.Size > most {
		t.Errorf("it takes %d bytes, at most %d are allowed", made.Size, most)
	}
	device := newDevice(old...)
	if err := device.apply(t.Context(), d, from.Canonical); err != nil || len(device.errs) > 0 {
		t.Fatal(err, device.errs)
	}
	for _, f := range files {
		if device.got[sha256.Sum256([]byte(f.content))] != f.content {
			t.Errorf("%s was not made", f.name)
		}
	}
	d, made = makeDelta(t, nil, to, MakeOptions{Memory: memory, Quality: 5})
	if made.Contents != len(files) || made.Based != 0 {
		t.Errorf("from nothing: %+v", *made)
	}
	device = newDevice()
	if err := device.apply(t.Context(), d, nil); err != nil || len(device.got) != len(files) {
		t.Errorf("from nothing: %v, %d contents", err, len(device.got))
	}
}

// No read of what is large takes more than its share of the memory.
func TestLargeContentsAreReadInParts(t *testing.T) {
	const memory = 2 << 20
	a := noise(1, 1500_000)
	from, to := newTree(t, file{"a", a}), newTree(t, file{"b", a[500_000:] + a[:500_000]})
	for _, tree := range []*Tree{from, to} {
		read := tree.Read
		tree.Read = func(ctx context.Context, node int, offset, size int64) ([]byte, error) {
			if size > memory/(windowCost*indexCost) {
				t.Errorf("%d bytes are read", size)
			}
			return read(ctx, node, offset, size)
		}
	}
	if b, _ := makeDelta(t, from, to, MakeOptions{Memory: memory, Quality: 5}); len(b) > 20_000 {
		t.Errorf("it takes %d bytes", len(b))
	}
}
