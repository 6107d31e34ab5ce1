// Package casyncproto speaks casync's protocol, in which one casync pulls
// chunks, an index or an archive from another, or pushes them to it, over a
// pair of pipes (docs/format/protocol.md). The pipes are usually those of ssh.
//
// A [Conn] reads and writes frames; [ServePull] and [ServePush] are the two
// sides that casync starts on the far machine. The near side of a push is
// [Conn.PushIndex] or [Conn.PushArchive], that of a pull store/sshstore, which
// runs ssh for all of them.
//
// Whatever arrives is taken as hostile: a frame has at most [MaxFrame] bytes and
// memory grows with what arrives, never with what a header claims; a frame of
// the wrong length, with unknown flags or out of turn ends the conversation with
// an error that wraps [ErrProtocol].
package casyncproto

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/store"
)

// MaxFrame is the greatest length of a frame in bytes, header included.
const MaxFrame = 16 << 20

// MaxData is the greatest length in bytes of the chunk that a frame can carry.
const MaxData = MaxFrame - headerSize - chunkHead

// Type tells what a frame is.
type Type uint64

// The types of frames (docs/format/protocol.md, section 2).
const (
	TypeHello      Type = 0x3c71d0948ca5fbee
	TypeIndex      Type = 0xb32a91dd2b3e27f8
	TypeIndexEOF   Type = 0x4f0932f1043718f5
	TypeArchive    Type = 0x95d6428a69eddcc5
	TypeArchiveEOF Type = 0x450bef663f24cbad
	TypeRequest    Type = 0x8ab427e0f89d9210
	TypeChunk      Type = 0x5213dd180a84bc8c
	TypeMissing    Type = 0xd010f9fac82b7b6c
	TypeGoodbye    Type = 0xad205dbf1a3686c3
	TypeAbort      Type = 0xe7d9136b7efea352
)

var names = map[Type]string{
	TypeHello: "HELLO", TypeIndex: "INDEX", TypeIndexEOF: "INDEX_EOF", TypeArchive: "ARCHIVE", TypeArchiveEOF: "ARCHIVE_EOF",
	TypeRequest: "REQUEST", TypeChunk: "CHUNK", TypeMissing: "MISSING", TypeGoodbye: "GOODBYE", TypeAbort: "ABORT",
}

// String returns the name of the type.
func (t Type) String() string {
	if s, ok := names[t]; ok {
		return s
	}
	return fmt.Sprintf("frame of type %016x", uint64(t))
}

// Flags are what one side of a conversation offers and wants.
type Flags uint64

// What a server offers, and what a client wants (section 3).
const (
	ReadableStore Flags = 1 << iota
	WritableStore
	ReadableIndex
	WritableIndex
	ReadableArchive
	WritableArchive
	PullChunks
	PullIndex
	PullArchive
	PushChunks
	PushIndex
	PushIndexChunks
	PushArchive

	allFlags = PushArchive<<1 - 1
)

// ErrProtocol reports that the other side does not keep to the protocol.
var ErrProtocol = errors.New("the other side does not keep to casync's protocol")

// AbortError is the failure by which the other side ended the conversation.
type AbortError struct {
	Errno uint64 // Linux's number of the error, or 0
	Text  string
}

// Error implements error.
func (e *AbortError) Error() string {
	if e.Text == "" {
		return fmt.Sprintf("the other side gave up with error %d", e.Errno)
	}
	return fmt.Sprintf("the other side gave up: %q", e.Text)
}

// Is implements the interface of [errors.Is]: where it is a file that the other
// side does not have, the error is [store.ErrNotFound].
func (e *AbortError) Is(target error) bool {
	return target == store.ErrNotFound && e.Errno == errnoAbsent
}

const (
	headerSize  = 16
	idSize      = len(chunk.ID{})
	chunkHead   = 8 + idSize
	firstAlloc  = 256 << 10 // allocated on the word of a header
	abortText   = 4 << 10   // what is kept of the text of an ABORT
	highFlag    = 1         // in REQUEST
	packedFlag  = 1         // in CHUNK
	maxBatch    = 1024      // ids in one REQUEST of ours; 32 KiB
	streamFrame = 64 << 10  // body of our INDEX and ARCHIVE
)

// Frame is one message. Its methods decode the body; each refuses a frame of
// another type, and a body that the type cannot have.
type Frame struct {
	Type Type
	Body []byte
}

// Conn is one side of a conversation. One goroutine at a time may read, and one
// may write.
type Conn struct {
	r       *bufio.Reader
	w       *bufio.Writer
	close   func() error
	aborted bool // by us
}

// NewConn returns a conversation over r and w. Calling close ends both, with
// what is blocked in them; it is called once.
func NewConn(r io.Reader, w io.Writer, close func() error) *Conn {
	return &Conn{r: bufio.NewReaderSize(r, 64<<10), w: bufio.NewWriterSize(w, 64<<10), close: sync.OnceValue(close)}
}

// Close ends the conversation without a word.
func (c *Conn) Close() error { return c.close() }

// Read returns the next frame, or io.EOF if the other side has ended the
// conversation between two frames, and io.ErrUnexpectedEOF within one.
func (c *Conn) Read() (Frame, error) {
	var head [headerSize]byte
	if _, err := io.ReadFull(c.r, head[:]); err != nil {
		return Frame{}, err
	}
	size := binary.LittleEndian.Uint64(head[:])
	f := Frame{Type: Type(binary.LittleEndian.Uint64(head[8:]))}
	if size < headerSize || size > MaxFrame {
		return Frame{}, fmt.Errorf("%w: a frame of %d bytes", ErrProtocol, size)
	}
	if _, ok := names[f.Type]; !ok {
		return Frame{}, fmt.Errorf("%w: %s", ErrProtocol, f.Type)
	}
	want := int(size) - headerSize
	f.Body = make([]byte, 0, min(want, firstAlloc))
	for len(f.Body) < want {
		if len(f.Body) == cap(f.Body) {
			f.Body = append(f.Body, 0)[:len(f.Body)]
		}
		n, err := c.r.Read(f.Body[len(f.Body):min(cap(f.Body), want)])
		f.Body = f.Body[:len(f.Body)+n]
		if err == io.EOF && len(f.Body) < want {
			err = io.ErrUnexpectedEOF
		}
		if err != nil && len(f.Body) < want {
			return Frame{}, err
		}
	}
	return f, nil
}

// Expected returns the error that f is not what the conversation is at: the
// other side's own error if it is an ABORT.
func (f Frame) Expected(what string) error {
	if f.Type == TypeAbort {
		return f.abort()
	}
	return fmt.Errorf("%w: %s in place of %s", ErrProtocol, f.Type, what)
}

func (f Frame) malformed() error {
	return fmt.Errorf("%w: %s with a body of %d bytes", ErrProtocol, f.Type, len(f.Body))
}

// Hello decodes a HELLO.
func (f Frame) Hello() (Flags, error) {
	switch {
	case f.Type != TypeHello:
		return 0, f.Expected("HELLO")
	case len(f.Body) != 8:
		return 0, f.malformed()
	}
	flags := Flags(binary.LittleEndian.Uint64(f.Body))
	if flags&^allFlags != 0 {
		return 0, fmt.Errorf("%w: HELLO with unknown flags %x", ErrProtocol, uint64(flags&^allFlags))
	}
	return flags, nil
}

// Request decodes a REQUEST: the chunks that the other side wants, and whether
// before all others.
func (f Frame) Request() (high bool, ids []chunk.ID, err error) {
	switch {
	case f.Type != TypeRequest:
		return false, nil, f.Expected("REQUEST")
	case len(f.Body) < 8+idSize || (len(f.Body)-8)%idSize != 0:
		return false, nil, f.malformed()
	}
	flags := binary.LittleEndian.Uint64(f.Body)
	if flags&^highFlag != 0 {
		return false, nil, fmt.Errorf("%w: REQUEST with unknown flags %x", ErrProtocol, flags)
	}
	ids = make([]chunk.ID, 0, (len(f.Body)-8)/idSize)
	for rest := f.Body[8:]; len(rest) > 0; rest = rest[idSize:] {
		ids = append(ids, chunk.ID(rest[:idSize]))
	}
	return flags&highFlag != 0, ids, nil
}

// Chunk decodes a CHUNK. The data is part of the frame, and unverified.
func (f Frame) Chunk() (id chunk.ID, compressed bool, data []byte, err error) {
	switch {
	case f.Type != TypeChunk:
		return id, false, nil, f.Expected("CHUNK")
	case len(f.Body) <= chunkHead:
		return id, false, nil, f.malformed()
	}
	flags := binary.LittleEndian.Uint64(f.Body)
	if flags&^packedFlag != 0 {
		return id, false, nil, fmt.Errorf("%w: CHUNK with unknown flags %x", ErrProtocol, flags)
	}
	return chunk.ID(f.Body[8:chunkHead]), flags&packedFlag != 0, f.Body[chunkHead:], nil
}

// Missing decodes a MISSING: the chunk that the other side does not have.
func (f Frame) Missing() (id chunk.ID, err error) {
	switch {
	case f.Type != TypeMissing:
		return id, f.Expected("MISSING")
	case len(f.Body) != idSize:
		return id, f.malformed()
	}
	return chunk.ID(f.Body), nil
}

// Empty checks a frame of a type that has no body.
func (f Frame) Empty() error {
	if len(f.Body) != 0 {
		return f.malformed()
	}
	return nil
}

// abort decodes an ABORT.
func (f Frame) abort() error {
	if len(f.Body) < 8 {
		return f.malformed()
	}
	text := f.Body[8:]
	if n := len(text); n > 0 && text[n-1] == 0 {
		text = text[:n-1]
	}
	return &AbortError{Errno: binary.LittleEndian.Uint64(f.Body), Text: string(text[:min(len(text), abortText)])}
}
