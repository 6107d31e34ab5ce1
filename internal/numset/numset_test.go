package numset

import (
	"crypto/sha256"
	"encoding/binary"
	"math/rand/v2"
	"testing"
)

// TestSet compares a set that gets full with a map.
func TestSet(t *testing.T) {
	for _, limit := range []int{0, 1, 7, 8, 5000} {
		r := rand.New(rand.NewPCG(1, uint64(limit)))
		digests := make([][sha256.Size]byte, 2*limit)
		for i := range digests {
			binary.LittleEndian.PutUint64(digests[i][8:], r.Uint64N(uint64(limit)))
		}
		s := New(limit/3, func(i int32) *[sha256.Size]byte { return &digests[i] })
		plain := make(map[[sha256.Size]byte]int32)
		for i := range digests {
			if _, ok := s.Find(&digests[i]); ok != (plain[digests[i]] != 0) {
				t.Fatalf("%d of %d: found %v before it was added", i, limit, ok)
			}
			first, added := s.Add(int32(i))
			if want, ok := plain[digests[i]]; ok == added || ok && first != want-1 || added && first != int32(i) {
				t.Fatalf("%d of %d: added as %d, %v; the map has %d, %v", i, limit, first, added, want-1, ok)
			}
			if added {
				plain[digests[i]] = int32(i) + 1
			}
			if got, ok := s.Find(&digests[i]); !ok || got != first {
				t.Fatalf("%d of %d: found %d, %v, added as %d", i, limit, got, ok, first)
			}
		}
	}
}
