package casyncproto

import (
	"bufio"
	"encoding/binary"
	"io"

	"github.com/ociv2-sync/ociv2-sync/chunk"
)

// Flush sends what has been written.
func (c *Conn) Flush() error { return c.w.Flush() }

// write writes a frame, whose body comes in parts.
func (c *Conn) write(t Type, parts ...[]byte) error {
	size := headerSize
	for _, p := range parts {
		size += len(p)
	}
	var head [headerSize]byte
	binary.LittleEndian.PutUint64(head[:], uint64(size))
	binary.LittleEndian.PutUint64(head[8:], uint64(t))
	_, err := c.w.Write(head[:])
	for _, p := range parts {
		if err == nil {
			_, err = c.w.Write(p)
		}
	}
	return err
}

func number(n uint64) []byte { return binary.LittleEndian.AppendUint64(nil, n) }

// Hello writes a HELLO and sends it: both sides begin with it.
func (c *Conn) Hello(flags Flags) error {
	if err := c.write(TypeHello, number(uint64(flags))); err != nil {
		return err
	}
	return c.w.Flush()
}

// Request writes a REQUEST of one chunk, which every server answers: desync's
// looks at the first id alone.
func (c *Conn) Request(id chunk.ID) error { return c.write(TypeRequest, number(highFlag), id[:]) }

// request writes a REQUEST of many chunks, for casync, which sends them.
func (c *Conn) request(ids []chunk.ID) error {
	b := number(0)
	for i := range ids {
		b = append(b, ids[i][:]...)
	}
	return c.write(TypeRequest, b)
}

// Chunk writes a CHUNK. The data is at most MaxData bytes, and compressed.
func (c *Conn) Chunk(id chunk.ID, data []byte) error {
	return c.write(TypeChunk, number(packedFlag), id[:], data)
}

// Missing writes a MISSING.
func (c *Conn) Missing(id chunk.ID) error { return c.write(TypeMissing, id[:]) }

// Goodbye writes a GOODBYE and sends it.
func (c *Conn) Goodbye() error {
	if err := c.write(TypeGoodbye); err != nil {
		return err
	}
	return c.w.Flush()
}

// Abort writes an ABORT and sends it.
func (c *Conn) Abort(errno uint64, text string) error {
	c.aborted = true
	text = text[:min(len(text), abortText)]
	if err := c.write(TypeAbort, number(errno), append([]byte(text), 0)); err != nil {
		return err
	}
	return c.w.Flush()
}

// stream writes what fill writes in frames of type t, and then one of type end,
// and sends them.
func (c *Conn) stream(t, end Type, fill func(io.Writer) error) error {
	w := bufio.NewWriterSize(streamWriter{c: c, t: t}, streamFrame)
	if err := fill(w); err != nil {
		return err
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if err := c.write(end); err != nil {
		return err
	}
	return c.w.Flush()
}

// copying returns a fill of stream that writes all of r.
func copying(r io.Reader) func(io.Writer) error {
	return func(w io.Writer) error {
		_, err := io.Copy(w, r)
		return err
	}
}

// streamWriter writes frames of one type.
type streamWriter struct {
	c *Conn
	t Type
}

func (s streamWriter) Write(p []byte) (n int, err error) {
	for n < len(p) {
		part := p[n:min(len(p), n+streamFrame)]
		if err := s.c.write(s.t, part); err != nil {
			return n, err
		}
		n += len(part)
	}
	return n, nil
}
