package catalogue

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/ociv2-sync/ociv2-sync/seed"
)

// ErrCorrupt means that a catalogue is not what was written.
var ErrCorrupt = errors.New("catalogue: corrupt")

// The format (docs/format/catalogue.md section 1).
const (
	magic      = "ociv2-sync catalogue 1\n\x00"
	headerSize = 32
	recordSize = 80
)

// entry is one record.
type entry struct {
	fileKey
	look look
	tree uint32 // the tree whose walk met it
	used uint32 // the day of its last use, counted from 1970
	sum  seed.Digest
}

// fileKey names a file: records are sorted by it.
type fileKey struct{ fs, inode uint64 }

// look is what a file shows of a change of its bytes.
type look struct {
	size         int64
	mtime, ctime int64 // nanoseconds since 1970
}

func (k fileKey) compare(o fileKey) int {
	return cmp.Or(cmp.Compare(k.fs, o.fs), cmp.Compare(k.inode, o.inode))
}

func (e *entry) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, e.fs)
	b = binary.BigEndian.AppendUint64(b, e.inode)
	b = binary.BigEndian.AppendUint64(b, uint64(e.look.size))
	b = binary.BigEndian.AppendUint64(b, uint64(e.look.mtime))
	b = binary.BigEndian.AppendUint64(b, uint64(e.look.ctime))
	b = binary.BigEndian.AppendUint32(b, e.tree)
	b = binary.BigEndian.AppendUint32(b, e.used)
	return append(b, e.sum[:]...)
}

// table is the content of a catalogue: its records, sorted. It is never
// changed.
type table []byte

func (t table) len() int { return len(t) / recordSize }

func (t table) at(i int) entry { return decode(t[i*recordSize : (i+1)*recordSize]) }

func decode(b []byte) entry {
	u64 := func(at int) uint64 { return binary.BigEndian.Uint64(b[at:]) }
	return entry{
		fileKey: fileKey{fs: u64(0), inode: u64(8)},
		look:    look{size: int64(u64(16)), mtime: int64(u64(24)), ctime: int64(u64(32))},
		tree:    binary.BigEndian.Uint32(b[40:]), used: binary.BigEndian.Uint32(b[44:]),
		sum: seed.Digest(b[48:]),
	}
}

// find returns the position of the file's record, or where it would be.
func (t table) find(k fileKey) (int, bool) {
	lo, hi := 0, t.len()
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		e := t.at(mid)
		switch c := e.compare(k); {
		case c == 0:
			return mid, true
		case c < 0:
			lo = mid + 1
		default:
			hi = mid
		}
	}
	return lo, false
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// parse checks a whole catalogue file and returns its records, which share the
// memory of data.
func parse(data []byte) (table, error) {
	if err := records(bytes.NewReader(data), func(entry) error { return nil }); err != nil {
		return nil, err
	}
	return table(data[headerSize:]), nil
}

// records calls each for every record of a catalogue file. Whether they are what was
// written shows only at the end.
func records(r io.Reader, each func(entry) error) error {
	var head [headerSize]byte
	if err := readWhole(r, head[:]); err != nil || string(head[:len(magic)]) != magic {
		return errors.Join(fmt.Errorf("%w: it does not begin as a catalogue", ErrCorrupt), err)
	}
	if n := binary.BigEndian.Uint32(head[28:]); n != 0 {
		return fmt.Errorf("%w: unknown header", ErrCorrupt)
	}
	var sum uint32
	var b [recordSize]byte
	var last fileKey
	for i := 0; ; i++ {
		err := readWhole(r, b[:])
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		sum = crc32.Update(sum, castagnoli, b[:])
		e := decode(b[:])
		if i > 0 && last.compare(e.fileKey) >= 0 {
			return fmt.Errorf("%w: its records are not in order", ErrCorrupt)
		}
		last = e.fileKey
		if err := each(e); err != nil {
			return err
		}
	}
	if sum != binary.BigEndian.Uint32(head[24:]) {
		return fmt.Errorf("%w: wrong checksum", ErrCorrupt)
	}
	return nil
}

// readWhole fills b, or returns io.EOF if there is nothing more.
func readWhole(r io.Reader, b []byte) error {
	_, err := io.ReadFull(r, b)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: its length is not that of whole records", ErrCorrupt)
	}
	return err
}

// writer writes a catalogue file.
type writer struct {
	file interface {
		io.Writer
		io.WriterAt
	}
	buf []byte
	sum uint32
}

// newWriter returns a writer to a file that is empty.
func newWriter(file interface {
	io.Writer
	io.WriterAt
},
) *writer {
	return &writer{file: file, buf: make([]byte, headerSize, 1<<16)} // the header comes last
}

func (w *writer) add(e *entry) error {
	n := len(w.buf)
	w.buf = e.append(w.buf)
	w.sum = crc32.Update(w.sum, castagnoli, w.buf[n:])
	if len(w.buf)+recordSize <= cap(w.buf) {
		return nil
	}
	return w.flush()
}

func (w *writer) flush() error {
	_, err := w.file.Write(w.buf)
	w.buf = w.buf[:0]
	return err
}

// end completes the file.
func (w *writer) end() error {
	if err := w.flush(); err != nil {
		return err
	}
	head := make([]byte, 0, headerSize)
	head = append(head, magic...)
	head = binary.BigEndian.AppendUint32(head, w.sum)
	head = binary.BigEndian.AppendUint32(head, 0)
	_, err := w.file.WriteAt(head, 0)
	return err
}
