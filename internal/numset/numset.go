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
	used  int
}

// New returns an empty set with room for limit values; it grows when there are more. at
// gives the value with a number; that of one which was added must not change.
func New[K comparable](limit int, at func(i int32) *K) *Set[K] {
	size := 8
	for full(limit, size) {
		size *= 2
	}
	return &Set[K]{seed: maphash.MakeSeed(), at: at, slots: make([]int32, size)}
}

// full reports whether a search takes too many steps with more than n values.
func full(n, size int) bool { return size-size/8 < n }

// Add adds the value with number i. If an equal one is there, it changes nothing
// and returns that one's number and false.
func (s *Set[K]) Add(i int32) (first int32, added bool) {
	slot := s.find(s.at(i))
	if *slot != 0 {
		return *slot - 1, false
	}
	if s.used++; full(s.used, len(s.slots)) {
		old := s.slots
		s.slots = make([]int32, 2*len(old))
		for _, n := range old {
			if n != 0 {
				*s.find(s.at(n - 1)) = n
			}
		}
		slot = s.find(s.at(i))
	}
	*slot = i + 1
	return i, true
}

// Find returns the number of the value v.
func (s *Set[K]) Find(v *K) (i int32, ok bool) {
	slot := s.find(v)
	return *slot - 1, *slot != 0
}

// find returns the slot of v, or the free one where it would be. The hash is
// seeded, for whoever makes a tree chooses its digests.
func (s *Set[K]) find(v *K) *int32 {
	mask := uint64(len(s.slots) - 1)
	for k := maphash.Comparable(s.seed, *v); ; k++ {
		if slot := &s.slots[k&mask]; *slot == 0 || *s.at(*slot - 1) == *v {
			return slot
		}
	}
}
