package ocisrc

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"

	"github.com/klauspost/compress/gzip"

	"github.com/ociv2-sync/ociv2-sync/translate"
)

// maxSplitLine bounds an entry of a record: the headers and padding between two
// files, in base64.
const maxSplitLine = 16 << 20

// splitTar reads a tar that was taken apart as github.com/vbatts/tar-split does: a
// record, compressed with gzip, of one JSON object a line, which either has a piece of
// the archive or stands for the bytes of a file.
type splitTar struct {
	record io.Closer
	files  *os.Root
	stored io.Reader      // nil until the record is read
	gz     *gzip.Reader   // of stored
	lines  *bufio.Scanner // of gz

	piece []byte // what is left of the current piece
	file  io.ReadCloser
	name  string // of file
	left  int64  // of file
}

// splitEntry is a line of the record.
type splitEntry struct {
	Type    int    `json:"type"`
	Name    string `json:"name"`
	NameRaw []byte `json:"name_raw"` // instead of Name, if that would not be UTF-8
	Size    int64  `json:"size"`
	Payload []byte `json:"payload"`
}

// The types of entries.
const (
	splitFile    = 1 // Payload is a checksum: the layer's digest says more
	splitSegment = 2
)

// newSplitTar reads a tar from its record and its files, both of which it closes.
func newSplitTar(record io.ReadCloser, files *os.Root) *splitTar {
	return &splitTar{record: record, stored: bufio.NewReader(record), files: files}
}

func (t *splitTar) Read(p []byte) (int, error) {
	for {
		switch {
		case len(t.piece) > 0:
			n := copy(p, t.piece)
			t.piece = t.piece[n:]
			return n, nil
		case t.file != nil:
			n, err := t.readFile(p)
			if n > 0 || err != nil {
				return n, err
			}
		default:
			if err := t.next(); err != nil {
				return 0, err
			}
		}
	}
}

// readFile reads from the current file; 0 and nil at its end.
func (t *splitTar) readFile(p []byte) (int, error) {
	if t.left == 0 {
		f := t.file
		t.file = nil
		return 0, f.Close()
	}
	n, err := t.file.Read(p[:min(int64(len(p)), t.left)])
	t.left -= int64(n)
	if errors.Is(err, io.EOF) {
		if err = nil; n == 0 {
			err = fmt.Errorf("%w: file %q is shorter than it was", translate.ErrMismatch, t.name)
		}
	}
	return n, err
}

// next reads the next entry; io.EOF after the last.
func (t *splitTar) next() error {
	if t.lines == nil {
		var err error
		if t.gz, err = gzip.NewReader(t.stored); err != nil {
			return t.malformed(err)
		}
		t.lines = bufio.NewScanner(t.gz)
		t.lines.Buffer(nil, maxSplitLine)
	}
	if !t.lines.Scan() {
		if err := t.lines.Err(); err != nil {
			return t.malformed(err)
		}
		return io.EOF
	}
	var e splitEntry
	if err := json.Unmarshal(t.lines.Bytes(), &e); err != nil {
		return t.malformed(err)
	}
	switch {
	case e.Type == splitSegment:
		t.piece = e.Payload
	case e.Type != splitFile || e.Size < 0:
		return t.malformed(fmt.Errorf("an entry of type %d and size %d", e.Type, e.Size))
	case e.Size > 0:
		if t.name = e.Name; len(e.NameRaw) > 0 {
			t.name = string(e.NameRaw)
		}
		// Names may be absolute; there is nothing outside.
		f, err := rootFS{t.files}.Open(path.Join(".", path.Clean("/"+t.name)))
		if err != nil {
			return missing(err)
		}
		t.file, t.left = f, e.Size
	}
	return nil
}

func (t *splitTar) malformed(err error) error {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("%w: record of the layer's archive: %w", translate.ErrMalformed, err)
}

func (t *splitTar) Close() error {
	var err error
	if t.file != nil {
		err = t.file.Close()
	}
	return errors.Join(err, t.record.Close(), t.files.Close())
}
