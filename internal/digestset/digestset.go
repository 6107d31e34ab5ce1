// Package digestset finds equal SHA-256 digests among hundreds of thousands in a
// tenth of the memory of a map: it keeps numbers alone, and looks the digests up
// where its user has them.
package digestset

import (
	"crypto/sha256"
	"hash/maphash"
)

// Set is a set of numbered digests. It is not safe for concurrent changes.
type Set struct {
	seed  maphash.Seed
	at    func(i int32) *[sha256.Size]byte
	slots []int32 // numbers plus 1; 0 is free
}

// New returns an empty set for at most limit digests. at gives the digest with a
// number; that of one which was added must not change.
func New(limit int, at func(i int32) *[sha256.Size]byte) *Set {
	size := 8
	for size-size/8 < limit { // from there on a search takes too many steps
		size *= 2
	}
	return &Set{seed: maphash.MakeSeed(), at: at, slots: make([]int32, size)}
}

// Add adds the digest with number i. If an equal one is there, it changes nothing
// and returns that one's number and false.
func (s *Set) Add(i int32) (first int32, added bool) {
	slot := s.find(s.at(i))
	if *slot == 0 {
		*slot = i + 1
		return i, true
	}
	return *slot - 1, false
}

// Find returns the number of the digest d.
func (s *Set) Find(d *[sha256.Size]byte) (i int32, ok bool) {
	slot := s.find(d)
	return *slot - 1, *slot != 0
}

// find returns the slot of d, or the free one where it would be. The hash is
// seeded, for whoever makes a tree chooses its digests.
func (s *Set) find(d *[sha256.Size]byte) *int32 {
	mask := uint64(len(s.slots) - 1)
	for k := maphash.Bytes(s.seed, d[:]); ; k++ {
		if slot := &s.slots[k&mask]; *slot == 0 || *s.at(*slot - 1) == *d {
			return slot
		}
	}
}
