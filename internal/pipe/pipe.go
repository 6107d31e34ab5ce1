// Package pipe joins what writes a stream to what reads one.
package pipe

import (
	"context"
	"io"

	"golang.org/x/sync/errgroup"
)

const (
	// blockSize is how much is handed over at once, and blocks is how many of
	// that size there are, so that neither side waits for each step of the other.
	blockSize = 128 << 10
	blocks    = 4
)

// Run runs the writer and the reader of one stream side by side and returns
// when both have ended. The error is that of the side that failed first; the
// other side's next call then fails, also when ctx ends while it waits. Up to
// half a megabyte may have been written that is not read yet. Each side is for
// one goroutine.
func Run(ctx context.Context, write func(context.Context, io.Writer) error, read func(context.Context, io.Reader) error) error {
	g, ctx := errgroup.WithContext(ctx)
	p := &pipe{ctx: ctx, full: make(chan []byte, blocks), free: make(chan []byte, blocks)}
	for range blocks {
		p.free <- nil
	}
	g.Go(func() error {
		err := write(ctx, (*writer)(p))
		if err == nil {
			(*writer)(p).end()
		}
		return err
	})
	g.Go(func() error {
		err := read(ctx, (*reader)(p))
		if err == nil {
			// Whatever the reader left over, the writer may finish.
			_, err = io.Copy(io.Discard, (*reader)(p))
		}
		return err
	})
	return g.Wait()
}

// pipe is the blocks between both sides. Each side uses its own part alone.
type pipe struct {
	ctx  context.Context //nolint:containedctx // io.Writer and io.Reader have no room for it
	full chan []byte     // closed at the end of the stream
	free chan []byte

	in []byte // of the writer: what is not yet handed over

	block []byte // of the reader: where out lies
	out   []byte // of the reader: what is not yet read
}

type writer pipe

// Write copies b into blocks, and hands over those that are full.
func (w *writer) Write(b []byte) (int, error) {
	n := 0
	for n < len(b) {
		if w.in == nil {
			select {
			case block := <-w.free:
				if w.in = block[:0]; block == nil {
					w.in = make([]byte, 0, blockSize)
				}
			case <-w.ctx.Done():
				return n, w.ctx.Err()
			}
		}
		k := min(len(b)-n, blockSize-len(w.in))
		w.in = append(w.in, b[n:n+k]...)
		n += k
		if len(w.in) == blockSize {
			w.full <- w.in // there is room for all
			w.in = nil
		}
	}
	return n, w.ctx.Err()
}

// end hands over the rest and ends the stream.
func (w *writer) end() {
	if len(w.in) > 0 {
		w.full <- w.in
	}
	close(w.full)
}

type reader pipe

// Read returns what there is of a block.
func (r *reader) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	if len(r.out) == 0 {
		if r.block != nil {
			r.free <- r.block // there is room for all
			r.block = nil
		}
		select {
		case block, ok := <-r.full:
			if !ok {
				return 0, io.EOF
			}
			r.block, r.out = block, block
		case <-r.ctx.Done():
			return 0, r.ctx.Err()
		}
	}
	n := copy(b, r.out)
	r.out = r.out[n:]
	return n, nil
}
