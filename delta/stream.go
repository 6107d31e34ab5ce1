package delta

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/andybalholm/brotli"
	"golang.org/x/sync/errgroup"
)

// windows are the logarithms of the brotli windows of the streams. Together
// they bound what applying a delta keeps of what it has decompressed.
var windows = [streams]int{
	streamAdds:    16,
	streamInserts: 16,
	streamSeeks:   16,
	streamDiffs:   22,
	streamBytes:   24,
}

const (
	// headWindow is that of the head.
	headWindow = 22
	// groupSize is how many bytes of streams go into one group.
	groupSize = 2 << 20
	// maxQueued bounds the compressed bytes that a reader holds: those of
	// streams whose turn comes later.
	maxQueued = 32 << 20
)

// groupWriter compresses the streams and writes them in groups.
type groupWriter struct {
	w       io.Writer
	enc     [streams]*brotli.Writer
	out     [streams]bytes.Buffer
	pending script
	size    int // of pending
}

// newGroupWriter returns one that compresses with brotli's given quality.
func newGroupWriter(w io.Writer, quality int) *groupWriter {
	g := &groupWriter{w: w}
	for i := range g.enc {
		g.enc[i] = brotli.NewWriterOptions(&g.out[i], brotli.WriterOptions{Quality: quality, LGWin: windows[i]})
	}
	return g
}

// add appends the instructions of a content. Those of a large one go into several
// groups, of each stream as large a part, so that a reader has not much of one
// in store when it comes to the other.
func (g *groupWriter) add(s *script) error {
	total := 0
	for _, b := range s {
		total += len(b)
	}
	parts := max(1, (total+groupSize-1)/groupSize)
	for k := range parts {
		if g.size > 0 && g.size+total/parts > groupSize {
			if err := g.flush(false); err != nil {
				return err
			}
		}
		for i, b := range s {
			part := b[len(b)*k/parts : len(b)*(k+1)/parts]
			g.pending[i] = append(g.pending[i], part...)
			g.size += len(part)
		}
	}
	return nil
}

// flush writes a group: of each stream what it got since the last one, in a
// form that can be read to its end without the next.
func (g *groupWriter) flush(last bool) error {
	var work errgroup.Group
	for i := range g.enc {
		if len(g.pending[i]) == 0 && !last {
			continue
		}
		work.Go(func() error {
			if _, err := g.enc[i].Write(g.pending[i]); err != nil {
				return err
			}
			g.pending[i] = g.pending[i][:0]
			if last {
				return g.enc[i].Close()
			}
			return g.enc[i].Flush()
		})
	}
	if err := work.Wait(); err != nil {
		return fmt.Errorf("delta: compress: %w", err)
	}
	g.size = 0
	var b []byte
	for i := range g.out {
		b = binary.AppendUvarint(b, uint64(g.out[i].Len()))
	}
	for i := range g.out {
		b = append(b, g.out[i].Bytes()...)
		g.out[i].Reset()
	}
	if _, err := g.w.Write(b); err != nil {
		return fmt.Errorf("delta: %w", err)
	}
	return nil
}

// groupReader hands out the streams of a body.
type groupReader struct {
	r      *bufio.Reader
	queue  [streams][][]byte
	queued int
	err    error // of r; sticky
}

// load reads the next group into the queue.
func (g *groupReader) load() error {
	if g.err != nil {
		return g.err
	}
	var size [streams]uint64
	for i := range size {
		n, err := binary.ReadUvarint(g.r)
		if errors.Is(err, io.EOF) && i == 0 {
			g.err = io.EOF
			return g.err
		}
		if err == nil && n > maxQueued-uint64(g.queued) {
			err = malformed("more than %d bytes wait for others", maxQueued)
		}
		if err != nil {
			g.err = g.wrap(err)
			return g.err
		}
		size[i] = n
		g.queued += int(n)
	}
	for i, n := range size {
		if n == 0 {
			continue
		}
		var b bytes.Buffer // grows with what arrives
		if _, err := io.CopyN(&b, g.r, int64(n)); err != nil {
			g.err = g.wrap(err)
			return g.err
		}
		g.queue[i] = append(g.queue[i], b.Bytes())
	}
	return nil
}

func (g *groupReader) wrap(err error) error {
	if errors.Is(err, ErrMalformed) {
		return err
	}
	return readError(err)
}

// segments is the compressed bytes of one stream.
type segments struct {
	g      *groupReader
	stream int
	begun  bool
}

// windowOf returns the logarithm of the window that the first byte of a brotli
// stream announces (RFC 7932, section 9.1); a large number for none of those.
func windowOf(b byte) int {
	switch n, m := int(b>>1&7), int(b>>4&7); {
	case b&1 == 0:
		return 16
	case n != 0:
		return 17 + n
	case m == 0:
		return 17
	case m == 1:
		return 1 << 10 // the large windows of a later version
	default:
		return 8 + m
	}
}

func (s *segments) Read(p []byte) (int, error) {
	q := &s.g.queue[s.stream]
	for len(*q) == 0 {
		if err := s.g.load(); err != nil {
			return 0, err
		}
	}
	if !s.begun {
		if w := windowOf((*q)[0][0]); w > windows[s.stream] {
			return 0, malformed("a window of 2^%d bytes where 2^%d are allowed", w, windows[s.stream])
		}
		s.begun = true
	}
	n := copy(p, (*q)[0])
	(*q)[0] = (*q)[0][n:]
	if len((*q)[0]) == 0 {
		*q = (*q)[1:]
	}
	s.g.queued -= n
	return n, nil
}

// newSources returns the streams of the body that r reads.
func newSources(r io.Reader) (*groupReader, *[streams]source) {
	g := &groupReader{r: bufio.NewReaderSize(r, 64<<10)}
	var in [streams]source
	for i := range in {
		in[i] = bufio.NewReader(brotli.NewReader(&segments{g: g, stream: i}))
	}
	return g, &in
}
