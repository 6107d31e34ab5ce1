package caibx

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"

	"github.com/ociv2-sync/ociv2-sync/chunk"
)

// The layout of an index, little-endian (docs/format/chunks.md, section 3):
//
//	 0  header  {48, typeIndex, feature flags, min, avg, max}
//	48  table   {2^64-1, typeTable}
//	64  items   n times {end offset, 32-byte ID}
//	 …  tail    {0, 0, 48, size of table with items and tail, tailMarker}
//
// The tail has the size of an item. Its leading zero tells it from one, since
// no chunk ends at offset 0.
const (
	headerSize = 48
	tableSize  = 16
	itemSize   = 40

	offFlags  = 16
	offParams = 24
	offItems  = headerSize + tableSize

	typeIndex  = 0x96824d9c7b129ff9
	typeTable  = 0xe75b9e112f17417d
	tailMarker = 0x4b4f050e5549ecd1

	// maxStream is the largest offset that a file can have.
	maxStream = 1<<63 - 1
)

// itemOffset returns the offset of item i in the index.
func itemOffset(i int) int64 { return offItems + int64(i)*itemSize }

// ItemSpan returns where in an index its n items from the one at first on lie:
// an offset and a length in bytes.
func ItemSpan(first, n int) (offset, size int64) {
	return itemOffset(first), int64(n) * itemSize
}

// ItemCount returns how many items an index of size bytes has.
func ItemCount(size int64) int { return int(max(0, size-offItems-itemSize) / itemSize) }

// Items reads items that were cut out of an index, as ItemSpan says where. A
// rest that is no whole item is left out. Nothing is checked.
func Items(b []byte) []Chunk {
	items := make([]Chunk, len(b)/itemSize)
	for i := range items {
		item := b[i*itemSize:]
		items[i] = Chunk{End: binary.LittleEndian.Uint64(item), ID: chunk.ID(item[8:itemSize])}
	}
	return items
}

// Read reads an index and checks everything that the format says about one,
// save that a chunk may be shorter than the minimum, as casync allows. Memory
// grows with what arrives, never with what the index claims. Every error is an
// [*Error]; it wraps [ErrMalformed] unless the reader failed, and
// [io.ErrUnexpectedEOF] too when the index is cut short.
func Read(r io.Reader) (*Index, error) {
	d := decoder{r: bufio.NewReaderSize(r, 32<<10)}
	le := binary.LittleEndian

	var head [offItems]byte
	if err := d.read(head[:]); err != nil {
		return nil, err
	}
	for _, f := range [...]struct {
		off  int
		want uint64
		what string
	}{
		{0, headerSize, "header size"},
		{8, typeIndex, "header type"},
		{headerSize, 1<<64 - 1, "table size"},
		{headerSize + 8, typeTable, "table type"},
	} {
		if got := le.Uint64(head[f.off:]); got != f.want {
			return nil, malformed(int64(f.off), "%s is %#x, want %#x", f.what, got, f.want)
		}
	}
	x := &Index{
		FeatureFlags: le.Uint64(head[offFlags:]),
		Params: chunk.Params{
			Min: le.Uint64(head[offParams:]),
			Avg: le.Uint64(head[offParams+8:]),
			Max: le.Uint64(head[offParams+16:]),
		},
	}
	if err := x.checkHeader(); err != nil {
		return nil, err
	}

	var item [itemSize]byte
	for start := uint64(0); ; {
		if err := d.read(item[:]); err != nil {
			return nil, err
		}
		end := le.Uint64(item[:])
		if end == 0 {
			break
		}
		if err := x.checkEnd(len(x.Chunks), start, end); err != nil {
			return nil, err
		}
		x.Chunks = append(x.Chunks, Chunk{End: end, ID: chunk.ID(item[8:])})
		start = end
	}

	tail := itemOffset(len(x.Chunks))
	if want := x.tail(); item != want {
		for i := range item {
			if item[i] != want[i] {
				return nil, malformed(tail+int64(i), "wrong tail")
			}
		}
	}
	return x, d.atEnd()
}

// decoder reads whole fields and knows where it is.
type decoder struct {
	r   *bufio.Reader
	off int64
}

// read fills b.
func (d *decoder) read(b []byte) error {
	n, err := io.ReadFull(d.r, b)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return malformed(d.off+int64(n), "cut short: %w", io.ErrUnexpectedEOF)
	}
	if err != nil {
		return &Error{Offset: d.off + int64(n), Err: err}
	}
	d.off += int64(n)
	return nil
}

// atEnd checks that nothing follows.
func (d *decoder) atEnd() error {
	switch _, err := d.r.ReadByte(); {
	case err == nil:
		return malformed(d.off, "trailing bytes")
	case errors.Is(err, io.EOF):
		return nil
	default:
		return &Error{Offset: d.off, Err: err}
	}
}

// tail returns the record that ends the index.
func (x *Index) tail() (t [itemSize]byte) {
	le := binary.LittleEndian
	le.PutUint64(t[16:], headerSize)
	le.PutUint64(t[24:], tableSize+itemSize*uint64(len(x.Chunks)+1))
	le.PutUint64(t[32:], tailMarker)
	return t
}

// WriteTo writes the index, 104 bytes and 40 a chunk, and returns how many bytes
// it wrote. An index that [Index.Validate] refuses is not written.
func (x *Index) WriteTo(w io.Writer) (int64, error) {
	if err := x.Validate(); err != nil {
		return 0, err
	}
	le := binary.LittleEndian
	b := make([]byte, 0, min(offItems+itemSize*(len(x.Chunks)+1), 64<<10))
	for _, v := range [...]uint64{
		headerSize, typeIndex, x.FeatureFlags, x.Params.Min, x.Params.Avg, x.Params.Max,
		1<<64 - 1, typeTable,
	} {
		b = le.AppendUint64(b, v)
	}
	written := int64(0)
	flush := func() error {
		n, err := w.Write(b)
		written += int64(n)
		b = b[:0]
		return err
	}
	for _, c := range x.Chunks {
		if len(b)+itemSize > cap(b) {
			if err := flush(); err != nil {
				return written, err
			}
		}
		b = append(le.AppendUint64(b, c.End), c.ID[:]...)
	}
	tail := x.tail()
	b = append(b, tail[:]...)
	return written, flush()
}
