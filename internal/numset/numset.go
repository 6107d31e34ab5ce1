// Package numset finds equal values among hundreds of thousands in a tenth of the
// memory of a map: it keeps numbers alone, and looks the values up where its user
// has them.
package numset

import "hash/maphash"

// Set is a set of numbered values. It is not safe for concurrent changes.
type Set[K comparable] struct {
	seed  maphash.Seed
	at    func(i int32) *K
	slots []int32 // numbers plus 1; 0 is free
	// tags has, for each slot, a part of its value's hash: most values that differ are told
	// apart by it, without a look at where they are, which is seldom in a cache.
	tags []uint8
	used int
}

// New returns an empty set with room for limit values; it grows when there are more. at
// gives the value with a number; that of one which was added must not change.
func New[K comparable](limit int, at func(i int32) *K) *Set[K] {
	size := 8
	for full(limit, size) {
		size *= 2
	}
	return &Set[K]{seed: maphash.MakeSeed(), at: at, slots: make([]int32, size), tags: make([]uint8, size)}
}

// full reports whether a search takes too many steps with more than n values.
func full(n, size int) bool { return size-size/8 < n }

// Add adds the value with number i. If an equal one is there, it changes nothing
// and returns that one's number and false.
func (s *Set[K]) Add(i int32) (first int32, added bool) {
	v := s.at(i)
	slot, tag := s.find(v)
	if n := s.slots[slot]; n != 0 {
		return n - 1, false
	}
	if s.used++; full(s.used, len(s.slots)) {
		s.grow()
		slot, _ = s.find(v)
	}
	s.slots[slot], s.tags[slot] = i+1, tag
	return i, true
}

// grow makes the room twice as large.
func (s *Set[K]) grow() {
	old := s.slots
	s.slots, s.tags = make([]int32, 2*len(old)), make([]uint8, 2*len(old))
	for _, n := range old {
		if n != 0 {
			slot, tag := s.find(s.at(n - 1))
			s.slots[slot], s.tags[slot] = n, tag
		}
	}
}

// Find returns the number of the value v.
func (s *Set[K]) Find(v *K) (i int32, ok bool) {
	slot, _ := s.find(v)
	n := s.slots[slot]
	return n - 1, n != 0
}

// find returns the slot of v, or the free one where it would be, and its tag. The hash is
// seeded, for whoever makes a tree chooses its digests.
func (s *Set[K]) find(v *K) (slot uint64, tag uint8) {
	hash := maphash.Comparable(s.seed, *v)
	mask := uint64(len(s.slots) - 1)
	tag = uint8(hash >> 56)
	for k := hash; ; k++ {
		slot = k & mask
		n := s.slots[slot]
		if n == 0 || s.tags[slot] == tag && *s.at(n - 1) == *v {
			return slot, tag
		}
	}
}
