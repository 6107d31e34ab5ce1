package seed

import (
	"context"
	"crypto/sha256"
	"io"
	"sync"
)

// Digest is the SHA-256 of a regular file's bytes.
type Digest = [sha256.Size]byte

// Seed is something local that may hold contents of an image.
//
// Implementations are safe for concurrent use by several goroutines.
type Seed interface {
	// Find reports the contents of want that the seed holds by calling found
	// with the digest and a path that Open takes. It may call found from
	// several goroutines at once, and reports only what [Wanted.Take] granted
	// it. A file that cannot be read is no error: it is passed over and
	// logged, since its bytes can come from elsewhere. The error is for a
	// seed that cannot be used at all, whose contents so far stay good, and for
	// ctx.
	Find(ctx context.Context, want *Wanted, found func(d Digest, path string)) error

	// Open opens a content that Find reported. The bytes are unverified and
	// may have changed since. A regular file comes as *os.File, so that the
	// caller can clone it.
	Open(ctx context.Context, path string) (io.ReadCloser, error)

	// String names the seed for messages and for the plan.
	String() string
}

// Wanted is the set of contents still to be found. It is safe for concurrent
// use. The zero value wants nothing.
type Wanted struct {
	mu     sync.Mutex
	bySize map[int64]map[Digest]struct{}
	names  map[int64]map[string]struct{}
	left   int
	// short says that contents are wanted by the beginning of their digests:
	// those in bySize have zeros behind it.
	short bool
}

// prefixSize is how much of a digest names a base.
const prefixSize = 8

// key returns what stands for a digest in the set.
func (w *Wanted) key(d Digest) Digest {
	if w.short {
		clear(d[prefixSize:])
	}
	return d
}

// add puts a content into the set; name is the last component of a path that
// has it in the image, used only to guess which seed file to look at first.
func (w *Wanted) add(d Digest, size int64, name string) {
	if w.bySize == nil {
		w.bySize = make(map[int64]map[Digest]struct{})
		w.names = make(map[int64]map[string]struct{})
	}
	if w.bySize[size] == nil {
		w.bySize[size] = make(map[Digest]struct{}, 1)
		w.names[size] = make(map[string]struct{}, 1)
	}
	w.bySize[size][d] = struct{}{}
	w.names[size][name] = struct{}{}
	w.left++
}

// Left returns the number of contents still to be found.
func (w *Wanted) Left() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.left
}

// HasSize reports whether a content of size bytes is still to be found. A
// file of another size need not be read.
func (w *Wanted) HasSize(size int64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.bySize[size]) > 0
}

// HasName reports whether the image has a wanted content of this size under
// this name: of several candidates, that one is the likeliest.
func (w *Wanted) HasName(size int64, name string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, ok := w.names[size][name]
	return ok
}

// Take claims a content. It returns true once for each content: for the first
// that found it.
func (w *Wanted) Take(d Digest, size int64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	d = w.key(d)
	if _, ok := w.bySize[size][d]; !ok {
		return false
	}
	delete(w.bySize[size], d)
	w.left--
	return true
}
