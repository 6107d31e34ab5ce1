package chunkserver

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"path"
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
	data []byte // of an object that is not streamed
	from source
	err  error

	begun chan struct{} // closed when size is known, of an object that is streamed

	limit int64 // of what is in memory
	size  int64 // of an object that is streamed
	as    source
	spool func(size int64) (*spooled, error)
	sum   hash.Hash // SHA-256 of what has come

	mu     sync.Mutex
	users  int
	file   *spooled      // where an object that is streamed is written to
	onDisk int64         // how much of it
	part   []byte        // what has come after that
	more   chan struct{} // closed when there is more, and replaced
}

// source is where the bytes of a response come from.
type source string

const (
	hit   source = "hit"
	miss  source = "miss"
	stale source = "stale"
)

// newFlight returns a fetch with one user. At most limit bytes of it are in memory; spool
// makes the file for what is streamed.
func newFlight(limit int64, spool func(size int64) (*spooled, error)) *flight {
	return &flight{
		limit: limit, spool: spool, sum: sha256.New(), users: 1,
		done: make(chan struct{}), begun: make(chan struct{}), more: make(chan struct{}),
	}
}

// use is for who reads what comes: release follows.
func (f *flight) use() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.users++
}

// release closes the file after its last user.
func (f *flight) release() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.users--; f.users == 0 && f.file != nil {
		_ = f.file.Close() // it was only read at last
	}
}

// begin is told the length of the object, or -1, before it comes.
func (f *flight) begin(size int64) error {
	switch {
	case f.size > 0 && size != f.size:
		return fmt.Errorf("%w: %d bytes, and then %d", store.ErrCorrupt, f.size, size)
	case f.size == 0 && size >= streamed:
		file, err := f.spool(size)
		if err != nil && size > f.limit {
			return fmt.Errorf("%w: %d bytes: %w", store.ErrTooLarge, size, err)
		}
		f.stream(file, size, miss)
	}
	return nil
}

// stream passes on what comes.
func (f *flight) stream(file *spooled, size int64, as source) {
	f.file, f.size, f.as = file, size, as
	close(f.begun)
}

// Write takes more of the object: into the file, and from when that takes no more on into
// memory.
func (f *flight) Write(b []byte) (int, error) {
	onDisk := 0
	if f.file != nil && len(f.part) == 0 {
		onDisk, _ = f.file.Write(b) // what is left goes where there is room
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if int64(len(f.part)+len(b)-onDisk) > f.limit || f.size > 0 && f.onDisk+int64(len(f.part)+len(b)) > f.size {
		return 0, store.ErrTooLarge
	}
	f.sum.Write(b)
	f.onDisk += int64(onDisk)
	f.part = append(f.part, b[onDisk:]...)
	close(f.more)
	f.more = make(chan struct{})
	return len(b), nil
}

// verify checks all that has come of an object that is streamed.
func (f *flight) verify(name string) error {
	if n := f.onDisk + int64(len(f.part)); n != f.size {
		return fmt.Errorf("chunkserver: %s: %d bytes of %d have come: %w", name, n, f.size, io.ErrUnexpectedEOF)
	}
	if hex.EncodeToString(f.sum.Sum(nil)) != path.Base(name) {
		return notThat(name)
	}
	return nil
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
		ready := a.size - 1
		select {
		case <-a.done:
			if ready = a.size; a.err != nil {
				return 0, a.err
			}
		default:
		}
		a.mu.Lock()
		onDisk, part, more := a.onDisk, a.part, a.more
		a.mu.Unlock()
		to := p[:min(int64(len(p)), ready-a.at)]
		switch at := a.at - onDisk; {
		case len(to) == 0: // the last byte
		case at < 0:
			n, err := a.file.ReadAt(to[:min(int64(len(to)), -at)], a.at)
			a.at += int64(n)
			return n, err
		case at < int64(len(part)):
			n := copy(to, part[at:])
			a.at += int64(n)
			return n, nil
		}
		select {
		case <-more:
		case <-a.done:
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
