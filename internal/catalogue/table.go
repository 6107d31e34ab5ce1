package catalogue

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"

	"github.com/ociv2-sync/ociv2-sync/seed"
)

// ErrCorrupt means that a catalogue is not what was written.
var ErrCorrupt = errors.New("catalogue: corrupt")

// The format (docs/format/catalogue.md section 1).
const (
	magic      = "ociv2-sync catalogue 1\n\x00"
	headerSize = 32
	recordSize = 80
	keySize    = 16
)

// entry is one record.
type entry struct {
	fs    uint64 // filesystem
	inode uint64
	look  look
	tree  uint32 // the tree whose walk met it
	used  uint32 // the day of its last use, counted from 1970
	sum   seed.Digest
}

// look is what a file shows of a change of its bytes.
type look struct {
	size         int64
	mtime, ctime int64 // nanoseconds since 1970
}

// compare orders entries by file.
func (e *entry) compare(o *entry) int {
	a, b := e.key(), o.key()
	return bytes.Compare(a[:], b[:])
}

// key is the beginning of the record, which records are sorted by.
func (e *entry) key() (k [keySize]byte) {
	binary.BigEndian.PutUint64(k[0:], e.fs)
	binary.BigEndian.PutUint64(k[8:], e.inode)
	return k
}

func (e *entry) append(b []byte) []byte {
	k := e.key()
	b = append(b, k[:]...)
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

func (t table) record(i int) []byte { return t[i*recordSize : (i+1)*recordSize] }

func (t table) at(i int) entry {
	b := t.record(i)
	u64 := func(at int) uint64 { return binary.BigEndian.Uint64(b[at:]) }
	return entry{
		fs: u64(0), inode: u64(8),
		look: look{size: int64(u64(16)), mtime: int64(u64(24)), ctime: int64(u64(32))},
		tree: binary.BigEndian.Uint32(b[40:]), used: binary.BigEndian.Uint32(b[44:]),
		sum: seed.Digest(b[48:]),
	}
}

// find returns the position of the file's record, or where it would be.
func (t table) find(fs, inode uint64) (int, bool) {
	e := entry{fs: fs, inode: inode}
	key := e.key()
	lo, hi := 0, t.len()
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		switch c := bytes.Compare(t.record(mid)[:keySize], key[:]); {
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
	if len(data) < headerSize || string(data[:len(magic)]) != magic {
		return nil, fmt.Errorf("%w: it does not begin as a catalogue", ErrCorrupt)
	}
	t := table(data[headerSize:])
	if len(t)%recordSize != 0 {
		return nil, fmt.Errorf("%w: its length is not that of whole records", ErrCorrupt)
	}
	if n := binary.BigEndian.Uint32(data[28:]); n != 0 {
		return nil, fmt.Errorf("%w: unknown header", ErrCorrupt)
	}
	if crc32.Checksum(t, castagnoli) != binary.BigEndian.Uint32(data[24:]) {
		return nil, fmt.Errorf("%w: wrong checksum", ErrCorrupt)
	}
	for i := 1; i < t.len(); i++ {
		if bytes.Compare(t.record(i - 1)[:keySize], t.record(i)[:keySize]) >= 0 {
			return nil, fmt.Errorf("%w: its records are not in order", ErrCorrupt)
		}
	}
	return t, nil
}

// write writes a catalogue file.
func (t table) write(w io.Writer) error {
	head := make([]byte, 0, headerSize)
	head = append(head, magic...)
	head = binary.BigEndian.AppendUint32(head, crc32.Checksum(t, castagnoli))
	head = binary.BigEndian.AppendUint32(head, 0)
	if _, err := w.Write(head); err != nil {
		return err
	}
	_, err := w.Write(t)
	return err
}

// merge returns the records of t that keep wants, as it changes them, and
// those of fresh, which take the place of t's for the same files.
func (t table) merge(fresh []entry, keep func(*entry) bool) table {
	slices.SortFunc(fresh, func(a, b entry) int { return a.compare(&b) })
	out := make([]byte, 0, len(t)+len(fresh)*recordSize)
	k := 0
	for i := range t.len() {
		e := t.at(i)
		for k < len(fresh) && fresh[k].compare(&e) < 0 {
			out = fresh[k].append(out)
			k++
		}
		if k < len(fresh) && fresh[k].compare(&e) == 0 {
			continue // the fresh one follows
		}
		if keep(&e) {
			out = e.append(out)
		}
	}
	for ; k < len(fresh); k++ {
		out = fresh[k].append(out)
	}
	return out
}
