package delta

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/andybalholm/brotli"
)

// magic opens a delta; its last byte is the version.
const magic = "ov2-dlt\x01"

const (
	// prologue is the length of what comes before the compressed head.
	prologue = len(magic) + 4
	// MaxTOC is the length of the longest table of contents that a delta makes, in
	// bytes.
	MaxTOC = 256 << 20
	// headPerTOC and headBase bound the head, uncompressed, by the length of the
	// new table of contents.
	headPerTOC, headBase = 2, 1 << 20
	// minNode is the least that a content takes in a table of contents, and minRecord
	// and minBase what they take in a head.
	minNode, minRecord, minBase = 32, 3, 10
	// maxBases is how many bases one record has at most.
	maxBases = 8
)

// Digest is a SHA-256.
type Digest = [sha256.Size]byte

// Prefix is the beginning of a content's digest. It finds a base; whether that
// is the right one the digest of what is made of it tells.
type Prefix [8]byte

// Base is a content that records are made of.
type Base struct {
	Prefix Prefix
	Size   int64
	filter uint64
}

// Record says how one content is made.
type Record struct {
	// Target is the content: its index in the content table of the new TOC.
	Target int
	// Bases are indexes in Head.Bases: what must be at hand to make it.
	Bases []int

	method uint64
	params []byte
	size   int64 // of what the instructions make; 0 if that is the content itself
}

// Head is the beginning of a delta: docs/format/delta.md, section 3.
type Head struct {
	// From and To are the digests of the two tables of contents. From is zero
	// for a delta from nothing.
	From, To Digest
	// TOCSize is the length of the new table of contents in bytes.
	TOCSize int64
	Bases   []Base
	Records []Record
	// Size is the length of the head in the file, in bytes.
	Size int64

	patch script
}

// Usable reports whether this version can carry out record i: it knows how the
// content is made, and how its bases are read.
func (h *Head) Usable(i int) bool {
	r := &h.Records[i]
	for _, b := range r.Bases {
		if h.Bases[b].filter >= filters {
			return false
		}
	}
	return r.known() == nil
}

// PatchTOC makes the new table of contents out of the old one, which is ignored
// for a delta from nothing. The result has the digest To.
func (h *Head) PatchTOC(old []byte) ([]byte, error) {
	if h.From == (Digest{}) {
		old = nil
	} else if sha256.Sum256(old) != h.From {
		return nil, fmt.Errorf("delta: %w: it is for another table of contents", ErrBase)
	}
	var in [streams]source
	for i := range in {
		in[i] = bytes.NewReader(h.patch[i])
	}
	var out bytes.Buffer
	p := player{in: &in, buf: make([]byte, 4096)}
	soft, err := p.play(h.TOCSize, bytes.NewReader(old), &out)
	if err := errors.Join(soft, err); err != nil {
		return nil, fmt.Errorf("%w: table of contents: %w", ErrMalformed, err)
	}
	if sha256.Sum256(out.Bytes()) != h.To {
		return nil, malformed("the table of contents has another digest than the head says")
	}
	return out.Bytes(), nil
}

// encode gives the head as it stands in the file.
func (h *Head) encode() ([]byte, error) {
	b := append(append([]byte{}, h.From[:]...), h.To[:]...)
	b = binary.AppendUvarint(b, uint64(h.TOCSize))
	for _, s := range h.patch {
		b = append(binary.AppendUvarint(b, uint64(len(s))), s...)
	}
	b = binary.AppendUvarint(b, uint64(len(h.Bases)))
	for _, x := range h.Bases {
		b = binary.AppendUvarint(b, uint64(x.Size))
	}
	for _, x := range h.Bases {
		b = binary.AppendUvarint(b, x.filter)
	}
	for _, x := range h.Bases {
		b = append(b, x.Prefix[:]...)
	}
	b = binary.AppendUvarint(b, uint64(len(h.Records)))
	last := -1
	for _, r := range h.Records {
		b = binary.AppendVarint(b, int64(r.Target-last-1))
		last = r.Target
	}
	for _, r := range h.Records {
		b = binary.AppendUvarint(b, r.method)
	}
	for _, r := range h.Records {
		if r.method != methodPlain {
			b = binary.AppendUvarint(b, uint64(r.size))
			b = append(binary.AppendUvarint(b, uint64(len(r.params))), r.params...)
		}
	}
	for _, r := range h.Records {
		b = binary.AppendUvarint(b, uint64(len(r.Bases)))
	}
	last = -1
	for _, r := range h.Records {
		for _, x := range r.Bases {
			b = binary.AppendVarint(b, int64(x-last-1))
			last = x
		}
	}
	var packed bytes.Buffer
	w := brotli.NewWriterOptions(&packed, brotli.WriterOptions{Quality: brotli.BestCompression, LGWin: headWindow})
	if _, err := w.Write(b); err != nil {
		return nil, fmt.Errorf("delta: head: %w", err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("delta: head: %w", err)
	}
	if h.TOCSize > MaxTOC || int64(len(b)) > maxPlain(h.TOCSize) {
		return nil, fmt.Errorf("delta: head: %w: %d bytes", ErrTooLarge, len(b))
	}
	out := binary.LittleEndian.AppendUint32([]byte(magic), uint32(packed.Len()))
	return append(out, packed.Bytes()...), nil
}

// maxPlain is the length of the longest head for a table of contents.
func maxPlain(toc int64) int64 { return headBase + headPerTOC*toc }

// ReadHead reads the head of a delta and nothing beyond it. It refuses one for a
// new table of contents of more than limit bytes, which bounds the memory that
// it takes.
func ReadHead(r io.Reader, limit int64) (*Head, error) {
	limit = min(limit, MaxTOC)
	var b [prologue]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return nil, readError(err)
	}
	if string(b[:len(magic)]) != magic {
		return nil, malformed("it does not begin with %q", magic)
	}
	size := binary.LittleEndian.Uint32(b[len(magic):])
	if int64(size) > maxPlain(limit) {
		return nil, malformed("a head of %d bytes", size)
	}
	var packed bytes.Buffer // grows with what arrives
	if _, err := io.CopyN(&packed, r, int64(size)); err != nil {
		return nil, readError(err)
	}
	if b := packed.Bytes(); len(b) > 0 && windowOf(b[0]) > headWindow {
		return nil, malformed("head: a window of 2^%d bytes", windowOf(b[0]))
	}
	plain, err := io.ReadAll(io.LimitReader(brotli.NewReader(&packed), maxPlain(limit)+1))
	switch {
	case err != nil:
		return nil, malformed("head: %w", err)
	case int64(len(plain)) > maxPlain(limit):
		return nil, malformed("a head of more than %d bytes", maxPlain(limit))
	}
	d := headDecoder{b: plain, limit: limit}
	h := d.head()
	if d.err == nil && len(d.b) > 0 {
		d.err = malformed("head: %d bytes too many", len(d.b))
	}
	if d.err != nil {
		return nil, d.err
	}
	h.Size = int64(prologue) + int64(size)
	return h, nil
}

// headDecoder reads a head; its error sticks.
type headDecoder struct {
	b     []byte
	limit int64 // of TOCSize
	err   error
}

func (d *headDecoder) fail(what string) {
	if d.err == nil {
		d.err = malformed("head: %s", what)
	}
	d.b = nil
}

func (d *headDecoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.fail("a number")
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *headDecoder) varint() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.fail("a number")
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *headDecoder) size() int64 {
	v := d.uvarint()
	if v > 1<<56 {
		d.fail("a size")
		return 0
	}
	return int64(v)
}

// count reads the length of a list whose entries take so many bytes each at least.
func (d *headDecoder) count(each int) int {
	v := d.uvarint()
	if v > uint64(len(d.b)/each) {
		d.fail("a count beyond its end")
		return 0
	}
	return int(v)
}

func (d *headDecoder) bytes(n int) []byte {
	if n > len(d.b) {
		d.fail("a length beyond its end")
		return nil
	}
	b := d.b[:n]
	d.b = d.b[n:]
	return b
}

// index reads the place in a list of n after last, and makes it the last.
func (d *headDecoder) index(last *int, n int) int {
	v := d.varint() + int64(*last) + 1
	if v < 0 || v >= int64(n) {
		d.fail("an index")
		return 0
	}
	*last = int(v)
	return int(v)
}

func (d *headDecoder) head() *Head {
	h := &Head{}
	copy(h.From[:], d.bytes(len(h.From)))
	copy(h.To[:], d.bytes(len(h.To)))
	if h.TOCSize = d.size(); h.TOCSize > d.limit {
		d.fail("the table of contents is too large")
		return h // what is made for its contents grows with it
	}
	for i := range h.patch {
		h.patch[i] = d.bytes(d.count(1))
	}
	h.Bases = make([]Base, d.count(minBase))
	for i := range h.Bases {
		h.Bases[i].Size = d.size()
	}
	for i := range h.Bases {
		h.Bases[i].filter = d.uvarint()
	}
	for i := range h.Bases {
		copy(h.Bases[i].Prefix[:], d.bytes(len(Prefix{})))
	}
	n := d.count(minRecord)
	contents := int(h.TOCSize / minNode)
	if n > contents {
		d.fail("more records than contents")
		n = 0
	}
	h.Records = make([]Record, n)
	last := -1
	seen := make([]bool, contents)
	for i := range h.Records {
		t := d.index(&last, contents)
		if d.err != nil {
			return h
		}
		if seen[t] {
			d.fail("two records for one content")
		}
		seen[t] = true
		h.Records[i].Target = t
	}
	for i := range h.Records {
		h.Records[i].method = d.uvarint()
	}
	for i := range h.Records {
		if r := &h.Records[i]; r.method != methodPlain {
			r.size = d.size()
			r.params = d.bytes(d.count(1))
		}
	}
	for i := range h.Records {
		n := d.uvarint()
		if n > maxBases {
			d.fail("too many bases")
			n = 0
		}
		h.Records[i].Bases = make([]int, n)
	}
	last = -1
	for _, r := range h.Records {
		for k := range r.Bases {
			r.Bases[k] = d.index(&last, len(h.Bases))
		}
	}
	return h
}
