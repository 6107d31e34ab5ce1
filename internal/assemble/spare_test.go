package assemble

import (
	"math/rand/v2"
	"testing"
)

// TestSpares keeps storage within its limit, and gives out what fits.
func TestSpares(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	s := &spares{limit: 1 << 20}
	taken := 0
	for range 5000 {
		size := uint64(1 + r.IntN(256<<10))
		b := s.take(size)
		switch {
		case b == nil:
			b = make([]byte, size)
		case uint64(cap(b)) < size || uint64(cap(b)) > 2*size+1:
			t.Fatalf("%d bytes for a chunk of %d", cap(b), size)
		default:
			taken++
		}
		s.put(b)
		if r.IntN(2) == 0 {
			s.put(make([]byte, r.IntN(2*maxSpare)))
		}
		sum := 0
		for _, b := range s.free {
			sum += cap(b)
		}
		if sum != s.size || sum > s.limit {
			t.Fatalf("%d bytes are kept, of %d, and %d are counted", sum, s.limit, s.size)
		}
	}
	if taken < 500 {
		t.Errorf("storage served %d times", taken)
	}
}
