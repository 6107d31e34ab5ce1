package chunk

import "math/bits"

// markWindow is how many bytes before its position Mark reads.
const markWindow = blockSize

// Mark looks at the bytes of b from position from on, at least 64, for places
// where the hash would end a chunk, whatever the sizes say. It returns one bit for
// each 64 bytes, in marks' storage if the capacity is enough. Where the bytes
// before from are not those of the stream, the first 47 positions are of no use.
//
// It neither uses nor changes what Next knows, so that it may run beside it, and
// beside itself: that is how one stream is cut by many.
func (c *Cutter) Mark(marks []uint64, b []byte, from int) []uint64 {
	blocks := (len(b) - from + blockSize - 1) / blockSize
	n := (blocks + 63) / 64
	if cap(marks) < n {
		marks = make([]uint64, n)
	}
	marks = marks[:n]
	clear(marks)
	whole := (len(b) - from) / blockSize
	for i := 0; i < blocks; i++ {
		if left := whole - i; c.kernel.scan != nil && left > 0 {
			if i += c.kernel.scan(b, from+i*blockSize, left, &c.vector); i == blocks {
				break
			}
			if i < whole {
				marks[i/64] |= 1 << (i % 64)
				continue
			}
		}
		start := from + i*blockSize
		h := hashWindow(b[:start])
		for j, x := range b[start:min(start+blockSize, len(b))] {
			h = bits.RotateLeft32(h, 1) ^ (rotated[b[start+j-window]] ^ buzhash[x])
			if c.test.cuts(h) {
				marks[i/64] |= 1 << (i % 64)
				break
			}
		}
	}
	return marks
}

// NextMarked is Next where Mark has looked at b from position base on, which may
// be before b's beginning; so what was not looked at comes before it. It decides
// the same.
func (c *Cutter) NextMarked(b []byte, base int, marks []uint64) (n int, ok bool) {
	if n, ok = c.scanMarked(b, base, marks); ok {
		c.Reset()
	}
	return n, ok
}

func (c *Cutter) scanMarked(b []byte, base int, marks []uint64) (int, bool) {
	if c.p.fixed() {
		return c.scan(b)
	}
	if c.pos == 0 {
		if len(b) >= c.zeros && IsZero(b[:c.zeros]) {
			return c.zeros, true
		}
		// Up to the first place for a cut the usual way does.
		first := int(max(c.p.Min, window))
		if n, ok := c.scan(b[:min(len(b), first)]); ok || n < first {
			return n, ok
		}
	}
	limit := int(c.p.Max)
	b = b[:min(len(b), limit)]
	for c.pos < len(b) {
		end := min(max(base, 0), len(b)) // nobody looked here
		if c.pos >= base {
			block := nextMark(marks, (c.pos-base)/blockSize)
			start := min(max(c.pos, base+block*blockSize), len(b))
			if start > c.pos {
				c.pos, c.h = start, hashWindow(b[:start])
			}
			end = min(base+(block+1)*blockSize, len(b))
		}
		if n, ok := c.roll(b[:end]); ok {
			return n, true
		}
	}
	return len(b), len(b) == limit
}

// nextMark returns the first bit that is set from number i on, or a number beyond
// all of them.
func nextMark(marks []uint64, i int) int {
	if i/64 >= len(marks) {
		return i
	}
	w := marks[i/64] >> (i % 64) << (i % 64)
	for k := i / 64; ; w = marks[k] {
		if w != 0 {
			return 64*k + bits.TrailingZeros64(w)
		}
		if k++; k == len(marks) {
			return 64 * k
		}
	}
}
