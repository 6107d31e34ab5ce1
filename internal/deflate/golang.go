package deflate

import (
	"bytes"
	"compress/flate"
	"crypto/sha256"
	"io"
	"sync"
)

// goPiece is how many bytes Go's encoder is given at a time. At the edges of its
// window what it writes depends on that; most programs copy in pieces of 32 KiB.
const goPiece = 32 << 10

// goSums are the first bytes of the SHA-256 of what the levels of Go 1.8 to 1.26
// make of goSample: docs/format/delta.md, section 5.
var goSums = [...]uint32{
	1: 0x6aae2220, 2: 0x43a252b4, 3: 0x76afb7cc, 4: 0x3daf045b, 5: 0x7c108317,
	6: 0x3eae736a, 7: 0xbfb03bbe, 8: 0xab8a88d0, 9: 0x82ba02be,
}

// goExact says at which levels the Go that this program is built with compresses
// as goSums have it. Later ones do not, and then the level is an encoder that is
// not known.
var goExact = sync.OnceValue(func() (exact [len(goSums)]bool) {
	in := goSample()
	for level := range goSums {
		exact[level] = level > 0 && goSum(in, level) == goSums[level]
	}
	return exact
})

// goSum compresses the sample.
func goSum(in []byte, level int) uint32 {
	sum := sha256.New()
	var z goWriter
	z.reset(sum, level)
	_, err := z.write(in)
	if err != nil || z.close() != nil {
		return 0 // no writer of ours fails here
	}
	var n uint32
	for _, b := range sum.Sum(nil)[:4] {
		n = n<<8 | uint32(b)
	}
	return n
}

// goSample is 40,000 words of one to four letters, the first of twenty the most
// often.
func goSample() []byte {
	var b bytes.Buffer
	x := uint32(1)
	next := func(n uint32) uint32 {
		x = x*1664525 + 1013904223
		return (x >> 16) % n
	}
	for range 40_000 {
		word := next(next(20) + 1)
		for range 1 + word%4 { // letters
			b.WriteByte('a' + byte(word%26))
			word = word/26 + word*7
		}
		b.WriteByte(' ')
	}
	return b.Bytes()
}

// goWriter is Go's encoder, given its input in pieces of one size.
type goWriter struct {
	z     *flate.Writer
	level int
	in    []byte // a piece that is not complete
}

func (g *goWriter) reset(w io.Writer, level int) {
	g.in = g.in[:0]
	if g.z != nil && g.level == level {
		g.z.Reset(w)
		return
	}
	g.level = level
	g.z, _ = flate.NewWriter(w, level) // only a wrong level is an error
}

func (g *goWriter) write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		n := min(len(rest), goPiece-len(g.in))
		g.in, rest = append(g.in, rest[:n]...), rest[n:]
		if len(g.in) == goPiece {
			if err := g.flush(); err != nil {
				return 0, err
			}
		}
	}
	return len(p), nil
}

func (g *goWriter) flush() error {
	_, err := g.z.Write(g.in)
	g.in = g.in[:0]
	return err
}

func (g *goWriter) close() error {
	if err := g.flush(); err != nil {
		return err
	}
	return g.z.Close()
}
