package chunk

import "math/bits"

// Cutter finds where chunks end in bytes that the caller holds. It decides as
// casync does (docs/format/chunks.md, section 2) and does not keep what it is
// given. It is not safe for concurrent use.
//
// It uses the processor's vector instructions where it has suitable ones
// (internal/asmgen): AVX-512, AVX2 or NEON. The build tag purego, or on amd64
// GODEBUG=cpu.avx512f=off,cpu.bmi1=off in the environment of the program, leaves
// it with plain Go; the first of these two leaves it with AVX2. The cuts are the same.
type Cutter struct {
	p    Params
	test cutTest

	vector vectorTest
	kernel kernel // its scan is nil: none
	zeros  int    // what ZeroSize returns

	pos int    // bytes of the chunk at hand that were looked at
	h   uint32 // hash of the window bytes before pos, once pos is past the first possible cut
}

// NewCutter returns a Cutter. The error wraps [ErrParams] when p is not valid,
// or is neither of fixed size nor reaches 48 bytes, which casync refuses to cut
// by as well.
func NewCutter(p Params) (*Cutter, error) {
	if err := p.cuttable(); err != nil {
		return nil, err
	}
	c := &Cutter{p: p, test: newCutTest(p), vector: newVectorTest(discriminator(p))}
	if all := kernels(); len(all) > 0 {
		c.kernel = all[0]
	}
	c.zeros = c.zeroSize()
	return c, nil
}

// Next returns the length of the chunk that b begins with, if b reaches to its
// end; the next call then begins behind it. Otherwise the next call must be given
// the same bytes with more behind them, and what was looked at is not looked at
// again; where no more bytes come, b is the last chunk.
func (c *Cutter) Next(b []byte) (n int, ok bool) {
	if n, ok = c.scan(b); ok {
		c.Reset()
	}
	return n, ok
}

func (c *Cutter) scan(b []byte) (int, bool) {
	limit := int(c.p.Max)
	first := int(max(c.p.Min, window)) // no cut before
	if c.p.fixed() {
		return limit, len(b) >= limit
	}
	if c.pos == 0 {
		if len(b) < first {
			return 0, false
		}
		if len(b) >= c.zeros && IsZero(b[:c.zeros]) {
			return c.zeros, true
		}
		// The hash depends on the last window bytes alone: skip to them.
		c.pos, c.h = first, hashWindow(b[:first])
		if c.test.cuts(c.h) || first >= limit {
			return first, true
		}
	}
	b = b[:min(len(b), limit)]
	if c.kernel.scan != nil {
		if n, ok := c.leap(b); ok {
			return n, true
		}
	}
	n, ok := c.roll(b)
	return n, ok || n == limit
}

// leap moves to the end of the last whole block of b, or stops at a cut before
// that.
func (c *Cutter) leap(b []byte) (int, bool) {
	if c.pos < blockSize { // the kernel reads the block before, too
		if n, ok := c.roll(b[:min(len(b), blockSize)]); ok {
			return n, true
		}
	}
	for {
		n := (len(b) - c.pos) / blockSize
		if n < minBlocks {
			return 0, false
		}
		n = c.kernel.scan(b, c.pos, n, &c.vector)
		if n > 0 {
			c.pos += n * blockSize
			c.h = hashWindow(b[:c.pos])
		}
		if len(b)-c.pos < blockSize {
			return 0, false
		}
		// Here the kernel saw a cut, or what could be one.
		if n, ok := c.roll(b[:c.pos+blockSize]); ok {
			return n, true
		}
	}
}

// roll moves the window over b from c.pos on and stops behind the first byte
// where the hash says to cut, or at the end of b.
func (c *Cutter) roll(b []byte) (int, bool) {
	h, t := c.h, c.test
	in := b[c.pos:]
	out := b[c.pos-window:][:len(in)]
	for i, x := range in {
		h = bits.RotateLeft32(h, 1) ^ (rotated[out[i]] ^ buzhash[x])
		if t.cuts(h) {
			return c.pos + i + 1, true
		}
	}
	c.h, c.pos = h, len(b)
	return len(b), false
}

// hashWindow returns the hash of the last window bytes of b.
func hashWindow(b []byte) uint32 {
	h := uint32(0)
	for _, x := range b[len(b)-window:] {
		h = bits.RotateLeft32(h, 1) ^ buzhash[x]
	}
	return h
}
