package inflate

import (
	"encoding/binary"
	"io"
)

const (
	// need is how many bytes of input there are at least when a symbol is decoded: it
	// takes up to two loads of 8 bytes. Every bufio.Reader has room for them.
	need = 16
	// pad is how many zeros are put behind the last bytes of a file.
	pad = 2 * need
)

// symbols decodes a block up to its end, to where the output is full, or to where
// more input is to be read.
func (z *Reader) symbols() error {
	in, err := z.r.Peek(max(z.r.Buffered(), need))
	if err == nil {
		at, err := z.decode(in)
		if _, discardErr := z.r.Discard(at); err == nil {
			err = discardErr
		}
		return err
	}
	if err != io.EOF { //nolint:errorlint // the bare value alone is the end
		return err
	}
	// The last bytes of the file. What is decoded from beyond them does not count.
	var last [need + pad]byte
	n := copy(last[:], in)
	end := z.end
	at, err := z.decode(last[:n+pad])
	if at > n {
		z.end = end
		return io.ErrUnexpectedEOF
	}
	if _, discardErr := z.r.Discard(at); err == nil {
		err = discardErr
	}
	return err
}

// decode is symbols for the input at hand. It returns how much of it was used.
func (z *Reader) decode(in []byte) (int, error) {
	var (
		bits, n   = z.bits, z.n
		at        = 0
		out, end  = z.out, z.end
		literals  = (*[1 << literalBits]uint32)(z.literals)
		distances = (*[1 << distanceBits]uint32)(z.distances)
		err       error
	)
loop:
	for at <= len(in)-need && end <= len(out)-slack {
		// All 64 bits are filled; those above n count when they are loaded again.
		bits |= binary.LittleEndian.Uint64(in[at:]) << (n & 63)
		at += int((63 - n) >> 3)
		n |= 56
		e := literals[bits&(1<<literalBits-1)]
		if e&isLiteral != 0 { // two of them fit, and very often there are
			bits >>= e & 63
			n -= uint(e & 0xff)
			out[end] = byte(e >> valueShift)
			end++
			e = literals[bits&(1<<literalBits-1)]
			if e&isLiteral != 0 {
				bits >>= e & 63
				n -= uint(e & 0xff)
				out[end] = byte(e >> valueShift)
				end++
				e = literals[bits&(1<<literalBits-1)]
				if e&isLiteral != 0 {
					bits >>= e & 63
					n -= uint(e & 0xff)
					out[end] = byte(e >> valueShift)
					end++
					continue
				}
			}
			bits |= binary.LittleEndian.Uint64(in[at:]) << (n & 63)
			at += int((63 - n) >> 3)
			n |= 56
		}
		if e&isTable != 0 {
			e = z.literals[e>>valueShift+uint32(bits>>literalBits)&(1<<(e>>extraShift&extraMask)-1)]
		}
		bits >>= e & 63
		n -= uint(e & 0xff)
		value := int(e >> valueShift)
		switch {
		case e&isLiteral != 0:
			out[end] = byte(value)
			end++
			continue
		case e&isEnd != 0:
			z.next = z.block
			break loop
		case value == 0: // no such code, or no such length
			err = ErrCorrupt
			break loop
		}
		extra := e >> extraShift & extraMask
		length := value + int(bits&(1<<extra-1))
		bits >>= extra & 63
		n -= uint(extra)

		e = distances[bits&(1<<distanceBits-1)]
		if e&isTable != 0 {
			e = z.distances[e>>valueShift+uint32(bits>>distanceBits)&(1<<(e>>extraShift&extraMask)-1)]
		}
		bits >>= e & 63
		n -= uint(e & 0xff)
		extra = e >> extraShift & extraMask
		dist := int(e>>valueShift) + int(bits&(1<<extra-1))
		bits >>= extra & 63
		n -= uint(extra)
		if e>>valueShift == 0 || dist > end-z.first {
			err = ErrCorrupt
			break
		}
		repeat(out, end, dist, length)
		end += length
	}
	at -= int(n >> 3)
	n &= 7
	z.bits, z.n, z.end = bits&(1<<n-1), n, end
	return at, err
}

// repeat writes to out[end:] the length bytes that begin dist before, and up to 16
// more.
func repeat(out []byte, end, dist, length int) {
	switch from := end - dist; {
	case dist >= 16 && length <= 32:
		for i := 0; i < length; i += 16 {
			copy(out[end+i:end+i+16], out[from+i:from+i+16])
		}
	case dist >= length:
		copy(out[end:end+length], out[from:from+length])
	case dist == 1:
		b := out[from]
		for i := range out[end : end+length] {
			out[end+i] = b
		}
	default:
		src, dst := out[from:], out[end:end+length]
		for i := range dst {
			dst[i] = src[i]
		}
	}
}
