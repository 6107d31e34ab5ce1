package inflate

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// What a gzip file may be refused for. That it is cut short is
// [io.ErrUnexpectedEOF].
var (
	ErrFormat   = errors.New("inflate: not a gzip file")
	ErrCorrupt  = errors.New("inflate: corrupt data")
	ErrChecksum = errors.New("inflate: wrong checksum")
)

const (
	window = 32 << 10
	// outSize is the window and what is made at a time; both fit into a second-level
	// cache.
	outSize = window + 224<<10
	// slack is what the loop may write behind the last byte that it decides to write.
	slack = maxLength + 16

	magic1, magic2, deflate = 0x1f, 0x8b, 8

	maxText = 512 // bytes of a name or a comment in a header, with the zero behind it
)

// Reader reads the contents of gzip members. The first bytes that are no member's
// are the end, and stay in the reader behind it. It is not safe for concurrent use.
type Reader struct {
	r    *bufio.Reader
	err  error
	next func() error // what comes next in the file

	out        []byte
	first      int // where out has the first byte of the member, or of the window
	start, end int // out[start:end] is to be read

	bits uint64 // the lowest n are of the stream; fewer than 8 between calls
	n    uint

	last   bool // of the member's blocks
	stored int  // bytes left of a stored block
	crc    uint32
	size   uint32

	codes
}

// NewReader returns a Reader of the members in r, of which there must be one.
func NewReader(r *bufio.Reader) *Reader {
	z := &Reader{r: r, out: make([]byte, outSize)}
	z.next = z.header
	return z
}

// Read implements [io.Reader].
func (z *Reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for z.start == z.end {
		if z.err != nil {
			return 0, z.err
		}
		z.make()
	}
	n := copy(p, z.out[z.start:z.end])
	z.start += n
	return n, nil
}

// make makes more output, or sets err. All that there is was read.
func (z *Reader) make() {
	if z.end > len(z.out)-slack {
		copy(z.out, z.out[z.end-window:z.end])
		z.first = max(z.first-(z.end-window), 0)
		z.start, z.end = window, window
	}
	z.err = z.next()
	made := z.out[z.start:z.end]
	z.crc = crc32.Update(z.crc, crc32.IEEETable, made)
	z.size += uint32(len(made))
}

// noEOF turns the end of the file into one that is too early.
func noEOF(err error) error {
	if err == io.EOF { //nolint:errorlint // the bare value alone is the end
		return io.ErrUnexpectedEOF
	}
	return err
}

// header reads what a member begins with (RFC 1952, section 2.3).
func (z *Reader) header() error {
	var h [10]byte
	sum := crc32.NewIEEE()
	in := io.TeeReader(z.r, sum)
	if _, err := io.ReadFull(in, h[:]); err != nil {
		return noEOF(err)
	}
	if h[0] != magic1 || h[1] != magic2 || h[2] != deflate {
		return ErrFormat
	}
	const hasCRC, hasExtra, hasName, hasComment = 2, 4, 8, 16
	flags := h[3]
	if flags&hasExtra != 0 {
		if _, err := io.ReadFull(in, h[:2]); err != nil {
			return noEOF(err)
		}
		if _, err := io.CopyN(io.Discard, in, int64(binary.LittleEndian.Uint16(h[:]))); err != nil {
			return noEOF(err)
		}
	}
	for _, has := range []byte{hasName, hasComment} {
		if flags&has == 0 {
			continue
		}
		if err := skipText(in); err != nil {
			return err
		}
	}
	if flags&hasCRC != 0 {
		want := uint16(sum.Sum32())
		if _, err := io.ReadFull(z.r, h[:2]); err != nil {
			return noEOF(err)
		}
		if binary.LittleEndian.Uint16(h[:]) != want {
			return fmt.Errorf("%w: of the header", ErrChecksum)
		}
	}
	z.crc, z.size, z.first = 0, 0, z.end
	z.next = z.block
	return nil
}

// skipText reads up to a zero. What [compress/gzip] takes for too long, so do we: no
// other tool in Go could read the file.
func skipText(in io.Reader) error {
	var c [1]byte
	for range maxText {
		if _, err := io.ReadFull(in, c[:]); err != nil {
			return noEOF(err)
		}
		if c[0] == 0 {
			return nil
		}
	}
	return fmt.Errorf("%w: a name or a comment of more than %d bytes", ErrFormat, maxText-1)
}

// trailer reads what a member ends with, and looks for another one.
func (z *Reader) trailer() error {
	z.bits, z.n = 0, 0 // up to a whole byte
	var t [8]byte
	if _, err := io.ReadFull(z.r, t[:]); err != nil {
		return noEOF(err)
	}
	if binary.LittleEndian.Uint32(t[:]) != z.crc || binary.LittleEndian.Uint32(t[4:]) != z.size {
		return ErrChecksum
	}
	if next, err := z.r.Peek(1); err != nil || next[0] != magic1 {
		return noError(err)
	}
	z.next = z.header
	return nil
}

// noError is the end, or an error of the file's.
func noError(err error) error {
	if err == nil {
		return io.EOF
	}
	return err
}

// block begins a block (RFC 1951, section 3.2.3).
func (z *Reader) block() error {
	if z.last {
		z.last = false
		z.next = z.trailer
		return nil
	}
	h, err := z.take(3)
	if err != nil {
		return err
	}
	z.last = h&1 != 0
	z.next = z.symbols
	switch h >> 1 {
	case 0:
		z.next = z.copy
		return z.beginStored()
	case 1:
		return z.fixed()
	case 2:
		return z.dynamic()
	}
	return ErrCorrupt
}

// take takes k bits, at most 16, off the stream.
func (z *Reader) take(k uint) (uint, error) {
	for z.n < k {
		b, err := z.r.ReadByte()
		if err != nil {
			return 0, noEOF(err)
		}
		z.bits |= uint64(b) << z.n
		z.n += 8
	}
	v := uint(z.bits & (1<<k - 1))
	z.bits >>= k
	z.n -= k
	return v, nil
}

// beginStored reads the length of a block that is not compressed.
func (z *Reader) beginStored() error {
	z.bits, z.n = 0, 0
	var h [4]byte
	if _, err := io.ReadFull(z.r, h[:]); err != nil {
		return noEOF(err)
	}
	size := binary.LittleEndian.Uint16(h[:])
	if size != ^binary.LittleEndian.Uint16(h[2:]) {
		return ErrCorrupt
	}
	z.stored = int(size)
	return nil
}

// copy copies what there is room for of a block that is not compressed.
func (z *Reader) copy() error {
	n := min(z.stored, len(z.out)-z.end)
	got, err := io.ReadFull(z.r, z.out[z.end:z.end+n])
	z.end += got
	z.stored -= got
	if err != nil {
		return noEOF(err)
	}
	if z.stored == 0 {
		z.next = z.block
	}
	return nil
}
