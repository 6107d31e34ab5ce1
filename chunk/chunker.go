package chunk

import (
	"fmt"
	"io"
)

// readSize is how much a Chunker reads ahead of the chunk at hand, at most.
const readSize = 512 << 10

// Chunker splits a stream into chunks where casync would
// (docs/format/chunks.md, section 2). It reads ahead, so that what follows the
// last chunk in the reader is undefined. It is not safe for concurrent use.
type Chunker struct {
	r   io.Reader
	cut *Cutter

	buf        []byte // grows up to Max + readSize, as data arrives
	start, end int    // buf[start:end] is read and not yet handed out
	err        error  // sticky: what the reader ended with
}

// NewChunker returns a Chunker over r. The error wraps [ErrParams] when p is
// not valid, or is neither of fixed size nor reaches 48 bytes, which casync
// refuses to cut by as well.
func NewChunker(r io.Reader, p Params) (*Chunker, error) {
	cut, err := NewCutter(p)
	if err != nil {
		return nil, err
	}
	return &Chunker{r: r, cut: cut}, nil
}

// Next returns the next chunk, which is never empty and stays valid until the
// following call, or [io.EOF] at the end of the stream. Any other error is the
// reader's; what was read of an unfinished chunk is then not returned, because
// it may not be a chunk. Errors are sticky.
func (c *Chunker) Next() ([]byte, error) {
	for {
		have := c.buf[c.start:c.end]
		if n, ok := c.cut.Next(have); ok {
			c.start += n
			return have[:n:n], nil
		}
		if c.err == nil {
			c.fill()
			continue
		}
		// Compared as io.Reader has it: an error that wraps io.EOF is no end.
		if c.err == io.EOF && len(have) > 0 { //nolint:errorlint // see above
			c.start, c.cut.pos = c.end, 0
			return have[:len(have):len(have)], nil
		}
		return nil, c.err
	}
}

// fill reads once behind buf[start:end]. Where there is no room it moves that
// to the front, and doubles the buffer first if it is mostly in use.
func (c *Chunker) fill() {
	if c.end == len(c.buf) {
		have, full := c.buf[c.start:c.end], int(c.cut.p.Max)+readSize
		if len(have) >= len(c.buf)/2 && len(c.buf) < full {
			c.buf = make([]byte, min(max(2*len(c.buf), readSize), full))
		}
		c.start, c.end = 0, copy(c.buf, have)
	}
	for range 100 {
		n, err := c.r.Read(c.buf[c.end:])
		if n < 0 || n > len(c.buf)-c.end {
			c.err = fmt.Errorf("chunk: read: reader returned count %d of %d", n, len(c.buf)-c.end)
			return
		}
		c.end += n
		c.err = err
		if n > 0 || err != nil {
			return
		}
	}
	c.err = io.ErrNoProgress
}

// cutTest decides whether a hash value h ends a chunk: whether h mod D == D-1
// for the discriminator D. It does so without division. With m = ceil(2^64/D)
// the product h*m, modulo 2^64, is the fraction h/D - floor(h/D) in units of
// 2^-64 plus an error below 2^32+D, which is less than m for every D up to
// [MaxSize]; so the remainder is D-1 if and only if the product is at least
// (D-1)*m.
type cutTest struct{ m, bound uint64 }

func newCutTest(p Params) cutTest {
	d := discriminator(p)
	m := ^uint64(0)/d + 1
	return cutTest{m: m, bound: m * (d - 1)}
}

func (t cutTest) cuts(h uint32) bool { return uint64(h)*t.m >= t.bound }

// discriminator returns the D for which cuts lie about p.Avg apart. The formula
// is casync's, in double precision. Where its denominator is not positive (an
// average above 9.3 million) its result is undefined in C; the value that
// casync has on amd64, the maximum, is ours on every platform.
func discriminator(p Params) uint64 {
	avg := float64(p.Avg)
	// The conversion keeps platforms with fused multiply-add from rounding
	// once instead of twice.
	den := 1.33237515 - float64(1.42888852e-7*avg)
	if den <= 0 {
		return p.Max
	}
	d := avg / den
	if d >= float64(p.Max) {
		return p.Max
	}
	return max(uint64(d), p.Min)
}
