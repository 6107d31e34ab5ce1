package catar

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Reader reads an archive: Next for each node, Read for the contents of the
// regular file that Next returned last. It reads ahead of what it returns, and
// to the end of the underlying reader before Next returns io.EOF. After an
// error every call returns that error.
//
// Memory is bounded by the names and hashes of the directories that are open:
// 24 bytes for each of their entries so far.
type Reader struct {
	r     *bufio.Reader
	off   uint64
	flags Flags
	began bool
	left  uint64 // contents of the current file not yet read

	required Flags // if requires
	requires bool

	dirs []openDir
	buf  []byte
	err  error
}

// NewReader returns a Reader of the archive that r holds.
func NewReader(r io.Reader) *Reader {
	return &Reader{r: bufio.NewReaderSize(r, 64<<10)}
}

// Flags returns the archive's feature flags, 0 before the first Next.
func (r *Reader) Flags() Flags { return r.flags }

// Require has the first Next refuse an archive with other feature flags than
// these: those of the index that it was read through.
func (r *Reader) Require(f Flags) { r.required, r.requires = f, true }

// Next returns the next node, in the order that Writer takes them, and io.EOF
// after the last. Contents that were not read are skipped.
func (r *Reader) Next() (*Entry, error) {
	if r.err != nil {
		return nil, r.err
	}
	e, err := r.next()
	r.err = err
	return e, err
}

// Read reads contents of the current regular file; io.EOF ends them. For other
// nodes they are empty.
func (r *Reader) Read(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	if r.left == 0 {
		return 0, io.EOF
	}
	if uint64(len(p)) > r.left {
		p = p[:r.left]
	}
	n, err := r.r.Read(p)
	r.off += uint64(n)
	if r.left -= uint64(n); r.left == 0 {
		r.endNode()
	}
	if err != nil && (r.left > 0 || !errors.Is(err, io.EOF)) {
		r.err = r.readError("PAYLOAD", err)
		return n, r.err
	}
	return n, nil
}

func (r *Reader) next() (*Entry, error) {
	if err := r.skip(); err != nil {
		return nil, err
	}
	if !r.began {
		r.began = true
		e, err := r.readNode(&Entry{}, 0)
		if err == nil && !e.IsDir() {
			return nil, &Error{Offset: 0, Record: "ENTRY", Reason: "the root is not a directory"}
		}
		return e, err
	}
	for len(r.dirs) > 0 {
		h, err := r.header()
		if err != nil {
			return nil, err
		}
		switch h.typ {
		case recFilename:
			start := r.off
			name, err := r.filename(h)
			if err != nil {
				return nil, err
			}
			return r.readNode(&Entry{Depth: len(r.dirs), Name: name}, start)
		case recGoodbye:
			if err := r.goodbye(h); err != nil {
				return nil, err
			}
		default:
			return nil, h.errorf("out of place, want FILENAME or GOODBYE")
		}
	}
	switch _, err := r.r.ReadByte(); {
	case err == nil:
		return nil, &Error{Offset: r.off, Record: "unknown", Reason: "data after the end of the root"}
	case !errors.Is(err, io.EOF):
		return nil, r.readError("GOODBYE", err)
	}
	return nil, io.EOF
}

// skip passes over contents that nobody read.
func (r *Reader) skip() error {
	for r.left > 0 {
		n, err := r.r.Discard(int(min(r.left, 1<<30)))
		r.off += uint64(n)
		if r.left -= uint64(n); r.left == 0 {
			r.endNode()
		}
		if err != nil {
			return r.readError("PAYLOAD", err)
		}
	}
	return nil
}

// readNode reads a node from its ENTRY record to its contents or children.
// start is the offset of its FILENAME record.
func (r *Reader) readNode(e *Entry, start uint64) (*Entry, error) {
	e.Offset = r.off
	if err := r.readRecords(e); err != nil {
		return nil, err
	}
	if err := r.flags.checkEntry(e); err != nil {
		reason := err.Error()
		if x, ok := errors.AsType[refusal](err); ok {
			reason = string(x)
		}
		return nil, &Error{Offset: e.Offset, Record: "ENTRY", Reason: reason}
	}
	if e.Depth > 0 {
		d := &r.dirs[e.Depth-1]
		d.last = e.Name
		d.children = append(d.children, child{hash: nameHash([]byte(e.Name)), start: start})
	}
	if e.IsDir() {
		r.dirs = append(r.dirs, openDir{entry: e.Offset})
	}
	e.PayloadOffset = r.off
	if !e.IsRegular() {
		e.PayloadOffset = 0
	}
	if r.left = e.Size; r.left == 0 && !e.IsDir() {
		r.endNode()
	}
	return e, nil
}

// endNode completes the GOODBYE item of the node that just ended.
func (r *Reader) endNode() {
	if len(r.dirs) == 0 {
		return
	}
	d := &r.dirs[len(r.dirs)-1]
	c := &d.children[len(d.children)-1]
	c.size = r.off - c.start
}

func (r *Reader) filename(h header) (string, error) {
	b, err := r.body(h, 2, MaxName+1)
	if err != nil {
		return "", err
	}
	name, ok := bytes.CutSuffix(b, []byte{0})
	if !ok || !validFileName(string(name)) {
		return "", h.errorf("bad file name %q", b)
	}
	if last := r.dirs[len(r.dirs)-1].last; string(name) <= last {
		return "", h.errorf("file name %q after %q", name, last)
	}
	return string(name), nil
}

// goodbye checks the table that ends the innermost directory.
func (r *Reader) goodbye(h header) error {
	d := &r.dirs[len(r.dirs)-1]
	want := appendGoodbye(r.buf[:0], d.children, h.off, d.entry)
	r.buf = want[:0]
	if h.size != uint64(len(want)) {
		return h.errorf("%d bytes, want %d for %d entries", h.size, len(want), len(d.children))
	}
	for len(want) > 0 {
		n := min(len(want), r.r.Size())
		got, err := r.r.Peek(n)
		if err != nil {
			return r.readError("GOODBYE", err)
		}
		if !bytes.Equal(got, want[:n]) {
			return h.errorf("does not describe its directory")
		}
		r.off += uint64(n)
		want = want[n:]
		if _, err := r.r.Discard(n); err != nil {
			return r.readError("GOODBYE", err)
		}
	}
	r.dirs = r.dirs[:len(r.dirs)-1]
	r.endNode()
	return nil
}

// header is the head of a record.
type header struct {
	off, size, typ uint64
}

func (h header) errorf(format string, a ...any) error {
	return &Error{Offset: h.off, Record: recordName(h.typ), Reason: fmt.Sprintf(format, a...)}
}

// header looks at the next record without consuming anything.
func (r *Reader) header() (header, error) {
	b, err := r.r.Peek(headerSize)
	if err != nil {
		return header{}, r.readError("next", err)
	}
	h := header{off: r.off, size: binary.LittleEndian.Uint64(b), typ: binary.LittleEndian.Uint64(b[8:])}
	if h.size < headerSize {
		return h, h.errorf("%d bytes long", h.size)
	}
	return h, nil
}

// body consumes a record and returns its body, valid until the next call. A
// length that is not from least to most bytes is an error.
func (r *Reader) body(h header, least, most int) ([]byte, error) {
	n := h.size - headerSize
	if n < uint64(least) || n > uint64(most) {
		return nil, h.errorf("body of %d bytes, want %d to %d", n, least, most)
	}
	if uint64(cap(r.buf)) < n {
		r.buf = make([]byte, max(n, 1<<12))
	}
	r.buf = r.buf[:n]
	if _, err := r.r.Discard(headerSize); err != nil {
		return nil, r.readError(recordName(h.typ), err)
	}
	if k, err := io.ReadFull(r.r, r.buf); err != nil {
		r.off += headerSize + uint64(k)
		return nil, r.readError(recordName(h.typ), err)
	}
	r.off += h.size
	return r.buf, nil
}

// readError turns an error of the underlying reader into one of this package:
// an early end is malformed, anything else is not the archive's fault.
func (r *Reader) readError(record string, err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return &Error{Offset: r.off, Record: record, Reason: "the archive ends early", Err: io.ErrUnexpectedEOF}
	}
	return fmt.Errorf("catar: read at offset %d: %w", r.off, err)
}
