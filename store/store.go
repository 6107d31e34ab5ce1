package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ociv2-sync/ociv2-sync/chunk"
)

// The errors of stores, to be matched with [errors.Is].
var (
	// ErrNotFound reports that a store does not have the chunk.
	ErrNotFound = errors.New("not found")
	// ErrTooLarge reports an object longer than the caller allows.
	ErrTooLarge = errors.New("object too large")
	// ErrCorrupt reports bytes that are not the chunk they are said to be.
	ErrCorrupt = errors.New("corrupt chunk")
	// ErrNetwork reports that a remote store could not be reached, or did not
	// answer properly, after all retries.
	ErrNetwork = errors.New("network failure")
	// ErrNoParts reports that a server gives files as a whole alone.
	ErrNoParts = errors.New("the server does not send parts of files")
	// ErrExists reports that a file was not made because there is one already.
	ErrExists = errors.New("exists already")
	// ErrChanged reports that a file was not replaced because it is not the
	// version that the caller has read.
	ErrChanged = errors.New("changed meanwhile")
)

// Entry is a file, or a directory, in a place that keeps files.
type Entry struct {
	// Path is slash-separated and relative to the place.
	Path string
	Dir  bool
	// Size in bytes and ModTime, by the clock of the place, are those of a file.
	Size    int64
	ModTime time.Time
}

// Form is how a store keeps a chunk's bytes.
type Form uint8

// The forms of a packed chunk (docs/format/chunks.md, section 4).
const (
	Compressed Form = iota // a .cacnk file; the compression is told by its first bytes
	Raw                    // the uncompressed bytes, in a file without suffix
)

// Packed is a chunk as a store keeps it. Its bytes are unverified: see [Unpack].
// Whoever shares a Packed does not change its Data.
type Packed struct {
	Form Form
	Data []byte
}

// Store gives chunks by ID. Every method may be called from several goroutines
// at once.
type Store interface {
	// Get returns the packed chunk id, unverified and owned by the caller. The
	// error wraps ErrNotFound when the store does not have it and ErrTooLarge
	// when its packed form is longer than limit bytes; no more than limit+1
	// bytes are then read of it. MaxPacked gives the limit for a chunk of known
	// size. A cancelled ctx ends the call with ctx's error.
	Get(ctx context.Context, id chunk.ID, limit int64) (Packed, error)

	// String names the store for messages: a path or a URL, without secrets.
	String() string
}

// Writer is implemented by stores that take chunks.
type Writer interface {
	// Put stores p as chunk id, whose bytes the caller has verified or made. It
	// is idempotent, and nil means that the store has the chunk, not that this
	// call put it there: a chunk that is present is kept as it is, since its
	// packed size may be published. A chunk appears whole or not at all. Put does
	// not hold on to p.Data.
	Put(ctx context.Context, id chunk.ID, p Packed) error
}

// Checker is implemented by stores that can tell what they have.
type Checker interface {
	// Missing returns those of ids that the store does not have, in their order.
	Missing(ctx context.Context, ids []chunk.ID) ([]chunk.ID, error)
}

// Statter is implemented by stores that know how long a packed chunk is.
type Statter interface {
	// StoredSize returns the length in bytes of the packed form that Get would
	// return. The error wraps ErrNotFound when the store does not have the chunk.
	StoredSize(ctx context.Context, id chunk.ID) (int64, error)
}

// Deleter is implemented by stores that can drop chunks.
type Deleter interface {
	// Delete makes the store lack chunk id. The error wraps ErrNotFound when it
	// lacked it before.
	Delete(ctx context.Context, id chunk.ID) error
}

// As returns the first of s and the stores that it wraps, as told by a method
// Unwrap() Store, which implements T.
func As[T any](s Store) (T, bool) {
	for s != nil {
		if t, ok := s.(T); ok {
			return t, true
		}
		u, ok := s.(interface{ Unwrap() Store })
		if !ok {
			break
		}
		s = u.Unwrap()
	}
	var none T
	return none, false
}

// NotFound returns the error, wrapping [ErrNotFound], by which the named store
// says that it does not have chunk id.
func NotFound(name string, id chunk.ID) error {
	return fmt.Errorf("store: %s: chunk %s: %w", name, id, ErrNotFound)
}
