package assemble

import "sync"

// maxSpare is the largest storage in bytes that is kept for another chunk: twice
// that of the largest chunk of casync's default sizes.
const maxSpare = 512 << 10

// spares is storage of chunks that were used, for others: of at most limit bytes.
type spares struct {
	limit int

	mu   sync.Mutex
	free [][]byte
	size int // the capacities of free
}

// take returns storage for size bytes, nil if there is none: the smallest that has room,
// but none so much larger that a small chunk would hold on to it.
func (s *spares) take(size uint64) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	best := -1
	for i, b := range s.free {
		c := uint64(cap(b))
		if c >= size && c/2 <= size && (best < 0 || cap(b) < cap(s.free[best])) {
			best = i
		}
	}
	if best < 0 {
		return nil
	}
	b := s.free[best]
	last := len(s.free) - 1
	s.free[best], s.free[last] = s.free[last], nil
	s.free = s.free[:last]
	s.size -= cap(b)
	return b
}

// put gives storage back. What is over the limit goes, the oldest first.
func (s *spares) put(b []byte) {
	if cap(b) == 0 || cap(b) > min(maxSpare, s.limit) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	drop := 0
	for s.size += cap(b); s.size > s.limit; drop++ {
		s.size -= cap(s.free[drop])
	}
	rest := copy(s.free, s.free[drop:])
	clear(s.free[rest:])
	s.free = append(s.free[:rest], b)
}
