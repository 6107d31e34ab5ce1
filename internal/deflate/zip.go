package deflate

import (
	"archive/zip"
	"bufio"
	"bytes"
	"compress/flate"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
)

// The inflated form of a zip file (docs/format/delta.md, section 5) has the data
// of its members in place of their deflate streams, and where they are before it:
// so files of two releases are compared by what is in them.

// maxMembers is the largest number of members that are inflated.
const maxMembers = 1 << 18

// maxTried is how many members decide about the encoder, the largest first.
const maxTried = 256

// stream is a deflate stream in a file.
type stream struct {
	at, packed int64
	size       int64 // of its data
}

// streamsOf finds the members of the zip file that r reads, in their order in it.
func streamsOf(r io.ReaderAt, size int64) []stream {
	const encrypted = 1
	z, err := zip.NewReader(r, size)
	if err != nil || len(z.File) > maxMembers {
		return nil
	}
	var list []stream
	for _, f := range z.File {
		if f.Method != zip.Deflate || f.Flags&encrypted != 0 {
			continue
		}
		at, err := f.DataOffset()
		if err != nil || f.CompressedSize64 > uint64(size) || f.UncompressedSize64 > MaxData {
			return nil
		}
		list = append(list, stream{at, int64(f.CompressedSize64), int64(f.UncompressedSize64)})
	}
	slices.SortFunc(list, func(a, b stream) int { return int(a.at - b.at) })
	end := int64(0)
	for _, s := range list {
		if s.at < end || s.at > size-s.packed {
			return nil // they overlap
		}
		end = s.at + s.packed
	}
	return list
}

// inflate appends to b the inflated form of the file that r reads, in which the
// streams are, if it has at most limit bytes.
func inflate(r io.ReaderAt, size int64, list []stream, limit int) (b []byte, ok bool) {
	b = binary.AppendUvarint(nil, uint64(len(list)))
	end, total := int64(0), size
	for _, s := range list {
		b = binary.AppendUvarint(b, uint64(s.at-end))
		b = binary.AppendUvarint(b, uint64(s.size))
		end = s.at + s.packed
		total += s.size - s.packed
		if total > int64(limit-len(b)) {
			return nil, false
		}
	}
	b = slices.Grow(b, int(total))
	raw := func(from, to int64) bool {
		n := len(b)
		b = b[:n+int(to-from)]
		_, err := io.ReadFull(io.NewSectionReader(r, from, to-from), b[n:])
		return err == nil
	}
	in := bufio.NewReader(nil)
	z := flate.NewReader(in)
	end = 0
	for _, s := range list {
		if !raw(end, s.at) {
			return nil, false
		}
		in.Reset(io.NewSectionReader(r, s.at, s.packed))
		if z.(flate.Resetter).Reset(in, nil) != nil {
			return nil, false
		}
		n := len(b)
		b = b[:n+int(s.size)]
		if _, err := io.ReadFull(z, b[n:]); err != nil {
			return nil, false
		}
		if n, err := z.Read(make([]byte, 1)); n > 0 || err != io.EOF {
			return nil, false
		}
		if _, err := in.ReadByte(); err != io.EOF {
			return nil, false
		}
		end = s.at + s.packed
	}
	return b, raw(end, size)
}

// Inflate returns the inflated form of the zip file that r reads, of at most limit
// bytes. It says false for a file that has none.
func Inflate(r io.ReaderAt, size int64, limit int) (form []byte, ok bool) {
	if size > int64(limit) {
		return nil, false
	}
	list := streamsOf(r, size)
	if len(list) == 0 {
		return nil, false
	}
	return inflate(r, size, list, limit)
}

// OpenZip returns the inflated form of the zip file b, and the encoder that makes
// b of it: of members that it does not make, the streams are left as they are. It
// says false when there is no such encoder.
func OpenZip(b []byte) (form []byte, e Encoder, ok bool) {
	r := bytes.NewReader(b)
	list := streamsOf(r, r.Size())
	total := int64(0)
	for _, s := range list {
		total += s.size
	}
	if total == 0 || total > MaxData {
		return nil, 0, false
	}
	data := func(s stream) []byte {
		var w bytes.Buffer // grows with what is there
		z := flate.NewReader(bytes.NewReader(b[s.at : s.at+s.packed]))
		if n, err := io.Copy(&w, io.LimitReader(z, s.size+1)); err != nil || n != s.size {
			return nil
		}
		return w.Bytes()
	}
	var z Writer
	made := func(s stream, data []byte, e Encoder) bool { return z.makes(data, b[s.at:s.at+s.packed], e) }
	// Many encoders make a small one alike.
	bySize := slices.SortedFunc(slices.Values(list), func(a, b stream) int { return int(b.size - a.size) })
	bySize = bySize[:min(len(bySize), maxTried)]
	inflated := make([][]byte, len(bySize))
	for i, s := range bySize {
		inflated[i] = data(s)
	}
	most := 0
	for _, by := range encoders() {
		n := 0
		for i, s := range bySize {
			if made(s, inflated[i], by) {
				n++
			}
		}
		if n > most {
			most, e = n, by
		}
		if n == len(bySize) {
			break
		}
	}
	if most == 0 {
		return nil, 0, false
	}
	list = slices.DeleteFunc(list, func(s stream) bool { return !made(s, data(s), e) })
	form, ok = inflate(r, r.Size(), list, MaxData)
	return form, e, ok
}

// ZipWriter makes a file again of its inflated form, which is written to it. Its
// zero value is ready for Reset.
type ZipWriter struct {
	w      io.Writer
	z      Writer
	e      Encoder
	number uint64  // that is being read
	shift  int     // of its next bits
	parts  []int64 // what is left of bytes as they are, data, bytes as they are, ...
	want   int     // how many of them there are; -1 until that is known
	at     int     // the one that is being read
}

var errForm = errors.New("deflate: no inflated form")

// Reset begins another file, which it writes to w. It panics if e is not valid.
func (f *ZipWriter) Reset(w io.Writer, e Encoder) {
	*f = ZipWriter{w: w, z: f.z, e: e, parts: f.parts[:0], want: -1}
	f.z.Reset(w, e)
}

// Write takes the next bytes of the form.
func (f *ZipWriter) Write(p []byte) (int, error) {
	rest := p
	for len(rest) > 0 && len(f.parts) != f.want {
		if err := f.table(rest[0]); err != nil {
			return 0, err
		}
		rest = rest[1:]
	}
	for len(rest) > 0 {
		to := io.Writer(f.w)
		n := len(rest)
		if f.at < len(f.parts) {
			n = int(min(int64(n), f.parts[f.at]))
			f.parts[f.at] -= int64(n)
			if f.at%2 == 1 {
				to = &f.z
			}
		}
		if _, err := to.Write(rest[:n]); err != nil {
			return 0, err
		}
		rest = rest[n:]
		if err := f.settle(); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// table takes a byte of the table.
func (f *ZipWriter) table(c byte) error {
	if f.shift > 56 {
		return fmt.Errorf("%w: a number", errForm)
	}
	f.number |= uint64(c&0x7f) << f.shift
	f.shift += 7
	if c >= 0x80 {
		return nil
	}
	n := f.number
	f.number, f.shift = 0, 0
	if f.want < 0 {
		if n > maxMembers {
			return fmt.Errorf("%w: %d members", errForm, n)
		}
		f.want = 2 * int(n)
		return nil
	}
	f.parts = append(f.parts, int64(n))
	if len(f.parts) == f.want {
		return f.settle()
	}
	return nil
}

// settle goes on to the next part that has bytes left.
func (f *ZipWriter) settle() error {
	for f.at < len(f.parts) && f.parts[f.at] == 0 {
		if f.at%2 == 1 {
			if err := f.z.Close(); err != nil {
				return err
			}
			f.z.Reset(f.w, f.e)
		}
		f.at++
	}
	return nil
}

// Close ends the file. It does not close the writer below.
func (f *ZipWriter) Close() error {
	if len(f.parts) != f.want || f.at != len(f.parts) {
		return fmt.Errorf("%w: it ends too early", errForm)
	}
	return nil
}
