package chunkserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/ociv2-sync/ociv2-sync/store"
)

// streamed is the length in bytes from which on an object is passed on while it is being
// fetched: who waits for it takes the server for dead otherwise. Less is fetched,
// verified and then served.
const streamed = 1 << 20

// flight is a fetch that is under way. Its results are set when done is closed.
type flight struct {
	done chan struct{}
	data []byte
	from source
	err  error

	begun chan struct{} // closed when size is known, of an object that is streamed

	limit int64
	size  int64 // of an object that is streamed

	mu   sync.Mutex
	part []byte        // what has come
	more chan struct{} // closed when part has grown, and replaced
}

// source is where the bytes of a response come from.
type source string

const (
	hit   source = "hit"
	miss  source = "miss"
	stale source = "stale"
)

// newFlight returns a fetch of an object of at most limit bytes.
func newFlight(limit int64) *flight {
	return &flight{limit: limit, done: make(chan struct{}), begun: make(chan struct{}), more: make(chan struct{})}
}

// begin is told the length of the object, or -1, before it comes.
func (f *flight) begin(size int64) error {
	switch {
	case size > f.limit:
		return fmt.Errorf("%w: %d bytes", store.ErrTooLarge, size)
	case f.size > 0 && size != f.size:
		return fmt.Errorf("%w: %d bytes, and then %d", store.ErrCorrupt, f.size, size)
	case f.size == 0 && size >= streamed:
		f.size = size
		close(f.begun)
	}
	return nil
}

// Write takes more of the object.
func (f *flight) Write(b []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if int64(len(f.part)+len(b)) > f.limit {
		return 0, store.ErrTooLarge
	}
	f.part = append(f.part, b...)
	close(f.more)
	f.more = make(chan struct{})
	return len(b), nil
}

// arriving reads an object of which the flight has begun. Its last byte comes when all
// of it has been verified: nobody takes for whole what is not.
type arriving struct {
	ctx context.Context //nolint:containedctx // of the request that is answered
	*flight
	at int64
}

// Read implements [io.Reader]. It waits for what has not come yet.
func (a *arriving) Read(p []byte) (int, error) {
	for a.at < a.size {
		a.mu.Lock()
		ready, more := a.part[:min(int64(len(a.part)), a.size-1)], a.more
		a.mu.Unlock()
		select {
		case <-a.done:
			if a.err != nil {
				return 0, a.err
			}
			ready = a.data
		default:
		}
		if a.at < int64(len(ready)) {
			n := copy(p, ready[a.at:])
			a.at += int64(n)
			return n, nil
		}
		select {
		case <-more:
		case <-a.done:
			if a.err == nil && a.at >= int64(len(a.data)) {
				return 0, io.ErrUnexpectedEOF // it is shorter than was said
			}
		case <-a.ctx.Done():
			return 0, a.ctx.Err()
		}
	}
	return 0, io.EOF
}

// Seek implements [io.Seeker].
func (a *arriving) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += a.at
	case io.SeekEnd:
		offset += a.size
	}
	if offset < 0 {
		return 0, errors.New("chunkserver: before the beginning")
	}
	a.at = offset
	return offset, nil
}
