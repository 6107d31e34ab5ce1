//go:build !race

package store_test

import (
	"bytes"
	"testing"

	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/store"
)

// Unpacking into a buffer, and packing into one, leaves no garbage. (The race
// detector makes the list of decoders forget some.)
func TestAllocations(t *testing.T) {
	b := append(noise(30_000), bytes.Repeat([]byte("chunk "), 5000)...)
	id, size := chunk.SHA512_256.Sum(b), uint64(len(b))
	packer := store.NewPacker(store.Zstd, size)
	p := packer.Pack(nil, b)
	dst := make([]byte, 0, size)
	unpacks := testing.AllocsPerRun(100, func() {
		if _, err := store.Unpack(dst, p, chunk.SHA512_256, id, size); err != nil {
			t.Fatal(err)
		}
	})
	buf := make([]byte, 0, store.MaxPacked(size))
	packs := testing.AllocsPerRun(100, func() { packer.Pack(buf, b) })
	if unpacks > 1 || packs > 1 { // a collection may empty the list of decoders
		t.Errorf("%v allocations to unpack, %v to pack", unpacks, packs)
	}
}
