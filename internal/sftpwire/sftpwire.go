// Package sftpwire lets the two ends of an SFTP session that are this program say more
// than the protocol's library knows: requests and answers of their own between its
// packets (docs/format/protocol.md, sections 4.1 and 4.2).
package sftpwire

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
)

// The packets of SFTP that are of interest here.
const (
	TypeStatus   = 101
	TypeData     = 103
	TypeExtended = 200
)

// Codes of a status.
const (
	StatusNoSuchFile       = 2
	StatusPermissionDenied = 3
	StatusFailure          = 4
	StatusUnsupported      = 8
)

const (
	// ReadFile is the name of the request for a part of a file by its path.
	ReadFile = "read-file@ociv2-sync"
	// ReadImage is the name of the request for a part of a blob of an image by the path
	// of the image's TAG.json.
	ReadImage = "read-image@ociv2-sync"
	// MaxPart is the most bytes of a file that one request asks for.
	MaxPart = 256 << 10
	// OwnIDs is the least id of a request that is not the library's, which counts up
	// from 1.
	OwnIDs = 1 << 31

	// maxPacket bounds what is taken: a part and what is around it.
	maxPacket = MaxPart + 64<<10
	headSize  = 9 // length, type, id
)

// ErrMalformed reports a packet that is none.
var ErrMalformed = errors.New("malformed SFTP packet")

// Reader passes a session on but for the packets that Take takes.
type Reader struct {
	// Wants reports whether Take is to see a packet, by its type and id.
	Wants func(kind byte, id uint32) bool
	// Take takes a packet, whose body it may keep, or returns false for it to be
	// passed on.
	Take func(kind byte, id uint32, body []byte) bool

	r    *bufio.Reader
	pass []byte // to be passed on
	left int64  // of a packet that is passed on, and not read yet
	err  error
}

// NewReader returns a reader of the packets in r.
func NewReader(r io.Reader, wants func(byte, uint32) bool, take func(byte, uint32, []byte) bool) *Reader {
	return &Reader{Wants: wants, Take: take, r: bufio.NewReaderSize(r, 64<<10)}
}

// Read implements [io.Reader].
func (r *Reader) Read(p []byte) (int, error) {
	for {
		switch {
		case len(p) == 0:
			return 0, nil
		case len(r.pass) > 0:
			n := copy(p, r.pass)
			r.pass = r.pass[n:]
			return n, nil
		case r.err != nil:
			return 0, r.err
		case r.left > 0:
			n, err := r.r.Read(p[:min(int64(len(p)), r.left)])
			r.left -= int64(n)
			return n, err
		}
		r.err = r.next()
	}
}

// next reads the head of a packet, and the rest of one that is wanted.
func (r *Reader) next() error {
	head := make([]byte, headSize)
	if n, err := io.ReadFull(r.r, head); err != nil {
		r.pass = head[:n] // the library's to judge
		return err
	}
	size, kind, id := int64(binary.BigEndian.Uint32(head))+4, head[4], binary.BigEndian.Uint32(head[5:])
	if size < headSize {
		return fmt.Errorf("%w: length %d", ErrMalformed, size-4)
	}
	rest := size - headSize
	if !r.Wants(kind, id) || rest > maxPacket {
		r.pass, r.left = head, rest
		return nil
	}
	packet := append(head, make([]byte, rest)...)
	if n, err := io.ReadFull(r.r, packet[headSize:]); err != nil {
		r.pass = packet[:headSize+n]
		return err
	}
	if !r.Take(kind, id, packet[headSize:]) {
		r.pass = packet
	}
	return nil
}

// Writer writes packets of several origins, each in one piece. Write is for one of
// them, the library.
type Writer struct {
	// Opened, if not nil, is called once the first packet of the library was written,
	// which opens the session.
	Opened func()

	mu   sync.Mutex
	w    io.Writer
	part []byte // of the library's packet
}

// NewWriter returns a writer of packets to w.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w} }

// Write implements [io.Writer] for the library, which may write a packet in pieces.
func (w *Writer) Write(p []byte) (int, error) {
	w.part = append(w.part, p...)
	for len(w.part) >= 4 {
		size := 4 + int64(binary.BigEndian.Uint32(w.part))
		if int64(len(w.part)) < size {
			break
		}
		if err := w.send(w.part[:size]); err != nil {
			return 0, err
		}
		w.part = w.part[:copy(w.part, w.part[size:])]
		if opened := w.Opened; opened != nil {
			w.Opened = nil
			opened()
		}
	}
	return len(p), nil
}

// Send writes a packet of one's own.
func (w *Writer) Send(kind byte, id uint32, body []byte) error {
	packet := make([]byte, 0, headSize+len(body))
	packet = binary.BigEndian.AppendUint32(packet, uint32(headSize-4+len(body)))
	packet = append(packet, kind)
	packet = binary.BigEndian.AppendUint32(packet, id)
	return w.send(append(packet, body...))
}

func (w *Writer) send(packet []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, err := w.w.Write(packet)
	return err
}

// AppendString appends a string as SFTP has it.
func AppendString[T string | []byte](b []byte, s T) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(s))), s...)
}

// CutString splits a string off, which is a part of b.
func CutString(b []byte) (s, rest []byte, ok bool) {
	if len(b) < 4 {
		return nil, nil, false
	}
	n := binary.BigEndian.Uint32(b)
	if int64(n) > int64(len(b)-4) {
		return nil, nil, false
	}
	return b[4 : 4+n], b[4+n:], true
}

// Part is a request for a part of a file: at most Size bytes from Offset on. A shorter
// answer ends with the file.
type Part struct {
	Path   string
	Offset int64
	Size   int
	// Blob is 0 for the file at Path, else the number of a blob of the image that Path
	// is the TAG.json of, for Platform: see docs/format/protocol.md, section 4.2.
	Blob     int
	Platform string
}

// MaxBlob is the greatest number of a blob.
const MaxBlob = 5

// Append appends the body of the request.
func (p Part) Append(b []byte) []byte {
	name := ReadFile
	if p.Blob > 0 {
		name = ReadImage
	}
	b = AppendString(AppendString(b, name), p.Path)
	b = binary.BigEndian.AppendUint64(b, uint64(p.Offset))
	b = binary.BigEndian.AppendUint32(b, uint32(p.Size))
	if p.Blob > 0 {
		b = AppendString(binary.BigEndian.AppendUint32(b, uint32(p.Blob)), p.Platform)
	}
	return b
}

// ParsePart reads the body of an extended request. It reports mine = false for one of
// another name; a request of these names that is wrong wraps [ErrMalformed].
func ParsePart(b []byte) (p Part, mine bool, err error) {
	name, b, ok := CutString(b)
	if !ok || string(name) != ReadFile && string(name) != ReadImage {
		return p, false, nil
	}
	path, b, ok := CutString(b)
	if !ok || len(b) < 12 {
		return p, true, fmt.Errorf("%w: %s", ErrMalformed, name)
	}
	offset, size, b := binary.BigEndian.Uint64(b), binary.BigEndian.Uint32(b[8:]), b[12:]
	if offset > 1<<62 || size > MaxPart {
		return p, true, fmt.Errorf("%w: %s: %d bytes at %d", ErrMalformed, name, size, offset)
	}
	p = Part{Path: string(path), Offset: int64(offset), Size: int(size)}
	if string(name) == ReadImage && len(b) >= 4 {
		blob := binary.BigEndian.Uint32(b)
		var platform []byte
		if platform, b, ok = CutString(b[4:]); !ok || blob < 1 || blob > MaxBlob || len(platform) > 255 {
			return p, true, fmt.Errorf("%w: %s: blob %d", ErrMalformed, name, blob)
		}
		p.Blob, p.Platform = int(blob), string(platform)
	}
	if len(b) != 0 || p.Blob == 0 && string(name) == ReadImage {
		return p, true, fmt.Errorf("%w: %s", ErrMalformed, name)
	}
	return p, true, nil
}
