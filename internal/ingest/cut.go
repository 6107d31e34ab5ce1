package ingest

import (
	"context"
	"io"
	"slices"

	"github.com/ociv2-sync/ociv2-sync/caibx"
	"github.com/ociv2-sync/ociv2-sync/chunk"
)

// cut reads the stream into batches and hands them on with their chunks marked.
func (s *ingester) cut(ctx context.Context, send func(*batch) error) error {
	var rest []byte // of the batch before: the chunk that it does not hold to its end
	for eof := false; !eof; {
		zeros, err := s.run(nil)
		if err != nil {
			return err
		}
		if zeros == 0 && s.ahead > 0 {
			if rest, eof, err = s.cutAhead(ctx, rest, send); err != nil {
				return err
			}
			continue
		}
		b, err := s.batch(ctx)
		if err != nil {
			return err
		}
		zeros, err = s.run(rest)
		switch {
		case err != nil:
			return err
		case zeros > 0:
			s.skip(b, rest, zeros)
			rest = nil
		default:
			if rest, eof, err = s.read(ctx, b, rest); err != nil {
				return err
			}
		}
		if len(b.chunks) == 0 {
			return nil // the end, and nothing left over
		}
		if s.ahead > 0 {
			rest = slices.Clone(rest) // somebody else may read into b next
		}
		s.enter(b)
		if err := send(b); err != nil {
			return err
		}
	}
	return nil
}

// batch returns one that is free.
func (s *ingester) batch(ctx context.Context) (*batch, error) {
	select {
	case b := <-s.free:
		b.chunks, b.bytes, b.times, b.last = b.chunks[:0], nil, 1, false
		return b, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// minRun is the number of chunks from which a run of zeros is worth a batch.
const minRun = 2

// run returns how many chunks of a run of zeros come next: rest, which was read
// already, and what the reader tells of.
func (s *ingester) run(rest []byte) (int, error) {
	if s.sparse == nil {
		return 0, nil
	}
	n, err := s.sparse.Zeros()
	if err != nil || n == 0 {
		return 0, err
	}
	chunks := (n + int64(len(rest))) / int64(s.cutter.ZeroSize())
	if chunks < minRun || !chunk.IsZero(rest) {
		return 0, nil
	}
	return int(chunks), nil
}

// skip makes b a run of zeros that begins with rest.
func (s *ingester) skip(b *batch, rest []byte, chunks int) {
	size := s.cutter.ZeroSize()
	s.sparse.Skip(int64(chunks)*int64(size) - int64(len(rest)))
	s.cutter.Reset()
	b.times, b.bytes = chunks, b.room(size, 0)
	clear(b.bytes)
	b.chunks = append(b.chunks, b.bytes)
}

// read fills b with rest and what follows it, up to at least one chunk, and
// returns what of b belongs to the next batch.
func (s *ingester) read(ctx context.Context, b *batch, rest []byte) (_ []byte, eof bool, _ error) {
	have := copy(b.room(max(s.batchSize, len(rest)), 0), rest)
	for len(b.chunks) == 0 && !eof {
		if have == len(b.data) { // a chunk larger than the batch
			b.room(min(2*have, s.maxChunk+s.batchSize), have)
		}
		n, err := s.fill(ctx, b.data[have:])
		have += n
		eof = err == io.EOF //nolint:errorlint // the bare value alone is the end
		if err != nil && !eof {
			return nil, false, err
		}
		s.mark(b, b.data[:have], eof)
	}
	return b.data[len(b.bytes):have], eof, nil
}

// enter makes room in the index for the chunks of b.
func (s *ingester) enter(b *batch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b.first = len(s.index.Chunks)
	end := s.index.Size()
	s.index.Chunks = slices.Grow(s.index.Chunks, b.times*len(b.chunks))
	for range b.times {
		for _, c := range b.chunks {
			end += uint64(len(c))
			s.index.Chunks = append(s.index.Chunks, caibx.Chunk{End: end})
		}
	}
}

// room makes the length of b.data n, keeping its first bytes, and returns it.
func (b *batch) room(n, keep int) []byte {
	if cap(b.data) < n {
		b.data = append(make([]byte, 0, n), b.data[:keep]...)
	}
	b.data = b.data[:n]
	return b.data
}

// fill reads until p is full. io.EOF says that there is no more.
func (s *ingester) fill(ctx context.Context, p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		if err = ctx.Err(); err == nil {
			var got int
			got, err = s.r.Read(p[n:])
			n += got
		}
	}
	return n, err
}

// mark finds the chunks in data, which b begins with; at the end of the stream the
// last one is what is left over.
func (s *ingester) mark(b *batch, data []byte, eof bool) {
	at := len(b.bytes)
	for at < len(data) {
		n, ok := s.cutter.Next(data[at:])
		if !ok && !eof {
			break
		}
		if !ok {
			n = len(data) - at
		}
		b.chunks = append(b.chunks, data[at:at+n:at+n])
		at += n
	}
	b.bytes = data[:at]
}
