package catar

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Writer writes an archive: WriteEntry for each node in the order of the
// format (a directory, then its children by the bytes of their names, each with
// all below it), Write for the contents of the regular file just begun, Close
// at the end. It writes GOODBYE tables by itself. After an error every call
// returns that error.
type Writer struct {
	w     *bufio.Writer
	flags Flags
	off   uint64
	entry uint64 // offset of the last ENTRY record
	left  uint64 // contents of the current file that are still to come
	dirs  []openDir
	buf   []byte
	err   error
	began bool
}

// openDir is a directory whose GOODBYE table is still to come.
type openDir struct {
	entry    uint64 // offset of its ENTRY record
	last     string // name of its last child so far
	children []child
}

// NewWriter returns a Writer of an archive with the given feature flags. Flags
// that Validate refuses are reported by the first WriteEntry.
func NewWriter(w io.Writer, flags Flags) *Writer {
	return &Writer{w: bufio.NewWriterSize(w, 64<<10), flags: flags, err: flags.Validate()}
}

// Offset returns how many bytes the archive has so far. After WriteEntry of a
// regular file that is where its contents begin.
func (w *Writer) Offset() uint64 { return w.off }

// EntryOffset returns where the ENTRY record of the node begins that WriteEntry
// began last.
func (w *Writer) EntryOffset() uint64 { return w.entry }

// WriteEntry begins the next node. What the flags do not cover, what breaks the
// order and what casync refuses to store is an error that matches
// ErrUnsupported, before any byte of the node is written; so is an entry while
// contents are missing.
func (w *Writer) WriteEntry(e *Entry) error {
	if w.err != nil {
		return w.err
	}
	if err := w.check(e); err != nil {
		// Nothing was written, yet going on would drop a node silently.
		w.err = err
		return err
	}
	for len(w.dirs) > e.Depth {
		w.closeDir()
	}
	w.buf = w.buf[:0]
	start := w.off
	if e.Depth > 0 {
		d := &w.dirs[e.Depth-1]
		d.last = e.Name
		w.buf = appendString(w.buf, recFilename, e.Name)
		d.children = append(d.children, child{hash: nameHash([]byte(e.Name)), start: start})
	}
	w.entry = start + uint64(len(w.buf))
	w.buf = appendEntry(w.buf, w.flags, e)
	if e.IsDir() {
		w.dirs = append(w.dirs, openDir{entry: w.entry})
	}
	w.began = true
	w.write(w.buf)
	if e.IsRegular() {
		w.left = e.Size
	}
	if !e.IsDir() && w.left == 0 {
		w.endNode()
	}
	return w.err
}

// check refuses an entry that may not come next.
func (w *Writer) check(e *Entry) error {
	if w.left > 0 {
		return unsupported("entry %q while %d bytes of the file before it are missing", e.Name, w.left)
	}
	if err := w.flags.checkEntry(e); err != nil {
		return err
	}
	if e.Depth == 0 {
		if w.began {
			return unsupported("second root")
		}
		if !e.IsDir() || e.Name != "" {
			return unsupported("root %q with mode %#o: must be a directory without a name", e.Name, e.Mode)
		}
		return nil
	}
	if e.Depth < 0 || e.Depth > len(w.dirs) {
		return unsupported("entry %q at depth %d lies in no directory", e.Name, e.Depth)
	}
	if last := w.dirs[e.Depth-1].last; e.Name <= last {
		return unsupported("entry %q after %q", e.Name, last)
	}
	return nil
}

// Write writes contents of the file whose entry came last. More than its size
// is an error.
func (w *Writer) Write(p []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	if uint64(len(p)) > w.left {
		w.err = unsupported("contents longer than their size")
		return 0, w.err
	}
	if len(p) == 0 {
		return 0, nil
	}
	w.write(p)
	w.took(uint64(len(p)))
	if w.err != nil {
		return 0, w.err
	}
	return len(p), nil
}

// Skip accounts for n bytes of contents as if they had been written: a Writer
// over io.Discard then tells where everything lies without the contents.
func (w *Writer) Skip(n uint64) error {
	if w.err != nil {
		return w.err
	}
	if n > w.left {
		w.err = unsupported("contents longer than their size")
		return w.err
	}
	if n > 0 {
		w.off += n
		w.took(n)
	}
	return nil
}

func (w *Writer) took(n uint64) {
	if w.left -= n; w.left == 0 {
		w.endNode()
	}
}

// Close ends all directories and flushes. It does not close the underlying
// writer.
func (w *Writer) Close() error {
	if w.err == nil && w.left > 0 {
		w.err = unsupported("archive ends with %d bytes of contents missing", w.left)
	}
	if w.err == nil && !w.began {
		w.err = unsupported("archive without a root")
	}
	if w.err != nil {
		return w.err
	}
	for len(w.dirs) > 0 {
		w.closeDir()
	}
	if err := w.w.Flush(); err != nil && w.err == nil {
		w.err = fmt.Errorf("catar: write: %w", err)
	}
	if w.err != nil {
		return w.err
	}
	w.err = errClosed
	return nil
}

var errClosed = errors.New("catar: write to a closed archive")

// endNode completes the GOODBYE item of the node that just ended.
func (w *Writer) endNode() {
	if len(w.dirs) == 0 {
		return
	}
	d := &w.dirs[len(w.dirs)-1]
	c := &d.children[len(d.children)-1]
	c.size = w.off - c.start
}

func (w *Writer) closeDir() {
	d := &w.dirs[len(w.dirs)-1]
	w.buf = appendGoodbye(w.buf[:0], d.children, w.off, d.entry)
	w.write(w.buf)
	w.dirs = w.dirs[:len(w.dirs)-1]
	w.endNode()
}

func (w *Writer) write(b []byte) {
	if w.err != nil {
		return
	}
	if _, err := w.w.Write(b); err != nil {
		w.err = fmt.Errorf("catar: write: %w", err)
		return
	}
	w.off += uint64(len(b))
}

func appendHeader(b []byte, typ uint64, body int) []byte {
	b = binary.LittleEndian.AppendUint64(b, headerSize+uint64(body))
	return binary.LittleEndian.AppendUint64(b, typ)
}

// appendString appends a record whose body is s and a NUL.
func appendString(b []byte, typ uint64, s string) []byte {
	b = appendHeader(b, typ, len(s)+1)
	return append(append(b, s...), 0)
}

func appendUint64s(b []byte, typ uint64, v ...uint64) []byte {
	b = appendHeader(b, typ, 8*len(v))
	for _, x := range v {
		b = binary.LittleEndian.AppendUint64(b, x)
	}
	return b
}

// appendEntry appends the records of e from ENTRY to the last before its
// contents or children.
func appendEntry(b []byte, flags Flags, e *Entry) []byte {
	b = appendUint64s(b, recEntry, uint64(flags), uint64(e.Mode), uint64(e.FileFlags), uint64(e.UID), uint64(e.GID), e.MTime)
	if e.User != "" {
		b = appendString(b, recUser, e.User)
	}
	if e.Group != "" {
		b = appendString(b, recGroup, e.Group)
	}
	for _, x := range e.XAttrs {
		b = appendHeader(b, recXAttr, len(x.Name)+1+len(x.Value))
		b = append(append(b, x.Name...), 0)
		b = append(b, x.Value...)
	}
	if a := e.ACL; a != nil {
		b = appendACLEntries(b, recACLUser, a.Users)
		b = appendACLEntries(b, recACLGroup, a.Groups)
		if a.HasMask {
			b = appendUint64s(b, recACLGroupObj, uint64(a.GroupObj))
		}
	}
	if a := e.DefaultACL; a != nil {
		mask := uint64(noMask)
		if a.HasMask {
			mask = uint64(a.Mask)
		}
		b = appendUint64s(b, recACLDefault, uint64(a.UserObj), uint64(a.GroupObj), uint64(a.Other), mask)
		b = appendACLEntries(b, recACLDefaultUser, a.Users)
		b = appendACLEntries(b, recACLDefaultGroup, a.Groups)
	}
	if e.SELinux != "" {
		b = appendString(b, recSELinux, e.SELinux)
	}
	if len(e.FCaps) > 0 {
		b = appendHeader(b, recFCaps, len(e.FCaps))
		b = append(b, e.FCaps...)
	}
	if e.ProjID != 0 {
		b = appendUint64s(b, recProjID, uint64(e.ProjID))
	}
	switch e.Mode & ModeType {
	case ModeSymlink:
		b = appendString(b, recSymlink, e.Target)
	case ModeBlock, ModeChar:
		b = appendUint64s(b, recDevice, uint64(e.Major), uint64(e.Minor))
	case ModeRegular:
		b = binary.LittleEndian.AppendUint64(b, headerSize+e.Size)
		b = binary.LittleEndian.AppendUint64(b, recPayload)
	}
	return b
}

// noMask stands in an ACL_DEFAULT record for the lack of a mask.
const noMask = 1<<64 - 1

func appendACLEntries(b []byte, typ uint64, l []ACLEntry) []byte {
	for _, x := range l {
		n := 16
		if x.Name != "" {
			n += len(x.Name) + 1
		}
		b = appendHeader(b, typ, n)
		b = binary.LittleEndian.AppendUint64(b, uint64(x.ID))
		b = binary.LittleEndian.AppendUint64(b, uint64(x.Perm))
		if x.Name != "" {
			b = append(append(b, x.Name...), 0)
		}
	}
	return b
}
