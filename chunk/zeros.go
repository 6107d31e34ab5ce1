package chunk

import "bytes"

// ZeroSize returns the length of every chunk that lies in a run of zeros from its
// first byte on, when the run is that long.
func (c *Cutter) ZeroSize() int { return c.zeros }

// zeroSize finds it: the hash of zeros is always the same, so that either the
// first place for a cut is one, or none before the maximum is.
func (c *Cutter) zeroSize() int {
	limit := int(c.p.Max)
	if c.p.fixed() {
		return limit
	}
	var zeros [window]byte
	first := int(max(c.p.Min, window))
	if c.test.cuts(hashWindow(zeros[:])) {
		return first
	}
	return limit
}

// Reset forgets the chunk at hand: the next call of Next begins another.
func (c *Cutter) Reset() { c.pos, c.h = 0, 0 }

// IsZero reports whether all bytes are zero.
func IsZero(b []byte) bool {
	// Equal to itself moved by one byte: the comparison of memory is the quickest
	// loop that there is.
	return len(b) == 0 || b[0] == 0 && b[len(b)-1] == 0 && bytes.Equal(b[1:], b[:len(b)-1])
}
