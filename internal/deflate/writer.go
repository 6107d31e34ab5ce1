package deflate

import (
	"bytes"
	"errors"
	"io"
)

// Writer compresses what is written to it as an encoder does. It keeps some 400
// kB (Go's up to 1.5 MB), whatever it is given, and its zero value is ready for
// Reset.
type Writer struct {
	w     io.Writer
	m     matcher
	in    []byte // not yet in the window
	err   error  // of w; sticky
	std   goWriter
	isStd bool // it compresses, not m
}

// Reset begins another raw deflate stream, of the encoder e, to w. It panics if
// e is not valid.
func (z *Writer) Reset(w io.Writer, e Encoder) {
	if !e.Valid() {
		panic("deflate: an encoder that is not valid")
	}
	z.w, z.in, z.err = w, z.in[:0], nil
	if z.isStd = e&^0xf == golang; z.isStd {
		z.std.reset(w, int(e&0xf))
		return
	}
	z.m.begin(e)
}

// Write compresses p. What the compressed bytes are does not depend on how the
// input is divided.
func (z *Writer) Write(p []byte) (int, error) {
	if z.isStd {
		return z.std.write(p)
	}
	for done := 0; done < len(p) && z.err == nil; {
		n := min(len(p)-done, 2*len(z.m.win)-len(z.in))
		z.in = append(z.in, p[done:done+n]...)
		done += n
		if len(z.in) == 2*len(z.m.win) {
			z.run(false)
		}
	}
	if z.err != nil {
		return 0, z.err
	}
	return len(p), nil
}

// Close ends the stream. It does not close the writer below.
func (z *Writer) Close() error {
	if z.isStd {
		return z.std.close()
	}
	if z.err == nil {
		z.run(true)
	}
	return z.err
}

func (z *Writer) run(final bool) {
	z.m.src, z.m.final = z.in, final
	z.m.run()
	z.in = z.in[:copy(z.in, z.m.src)]
	z.m.src = nil
	_, z.err = z.w.Write(z.m.out.b)
	z.m.out.b = z.m.out.b[:0]
}

// makes reports whether the encoder e makes of data the stream want.
func (z *Writer) makes(data, want []byte, e Encoder) bool {
	rest := comparer(want)
	z.Reset(&rest, e)
	_, err := z.Write(data)
	return err == nil && z.Close() == nil && len(rest) == 0
}

// comparer takes the bytes that it has left, and no others.
type comparer []byte

var errDiffers = errors.New("deflate: other bytes")

func (c *comparer) Write(p []byte) (int, error) {
	if !bytes.HasPrefix(*c, p) {
		return 0, errDiffers
	}
	*c = (*c)[len(p):]
	return len(p), nil
}
