package seed

import (
	"context"
	"crypto/sha256"
	"hash/maphash"
	"io"
	"slices"
	"sync"

	"github.com/ociv2-sync/ociv2-sync/internal/numset"
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
	mu       sync.Mutex
	contents []Content           // of these only Digest and Size are read
	index    *numset.Set[Digest] // of contents
	taken    []bool              // by content
	sizes    []int64             // of the contents, each once, in order
	left     []int32             // how many contents of each of sizes are still to be found
	total    int                 // left of all sizes
	// names has the hashes of sizes with names: of hundreds of thousands, these
	// alone are small. They are in order if sorted says so.
	names  []uint64
	sorted bool
	seed   maphash.Seed
	// short says that contents are wanted by the beginning of their digests:
	// theirs have zeros behind it.
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

// set makes the contents, no two of which have one digest, those that are wanted.
func (w *Wanted) set(contents []Content) {
	index := numset.New(len(contents), func(i int32) *Digest { return contents[i].Digest })
	for i := range contents {
		index.Add(int32(i))
	}
	w.setIndexed(contents, index)
}

// setIndexed is set with the numbers of the contents by their digests.
func (w *Wanted) setIndexed(contents []Content, index *numset.Set[Digest]) {
	w.contents, w.index, w.total = contents, index, len(contents)
	w.taken = make([]bool, len(contents))
	all := make([]int64, len(contents))
	for i := range contents {
		all[i] = contents[i].Size
	}
	slices.Sort(all)
	w.sizes, w.left = nil, nil
	for i, size := range all {
		if i == 0 || size != all[i-1] {
			w.sizes, w.left = append(w.sizes, size), append(w.left, 0)
		}
		w.left[len(w.left)-1]++
	}
}

type sizedName struct {
	size int64
	name string
}

// name notes the last component of a path that has a wanted content of this size
// in the image, used only to guess which seed file to look at first.
func (w *Wanted) name(size int64, name string) {
	if w.names == nil {
		w.seed = maphash.MakeSeed()
	}
	w.names, w.sorted = append(w.names, maphash.Comparable(w.seed, sizedName{size, name})), false
}

// ofSize returns how many contents of a size are still to be found; nil if none ever was
// wanted.
func (w *Wanted) ofSize(size int64) *int32 {
	k, ok := slices.BinarySearch(w.sizes, size)
	if !ok {
		return nil
	}
	return &w.left[k]
}

// Left returns the number of contents still to be found.
func (w *Wanted) Left() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.total
}

// HasSize reports whether a content of size bytes is still to be found. A
// file of another size need not be read.
func (w *Wanted) HasSize(size int64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	left := w.ofSize(size)
	return left != nil && *left > 0
}

// HasName reports whether the image has a wanted content of this size under
// this name: of several candidates, that one is the likeliest.
func (w *Wanted) HasName(size int64, name string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.names == nil {
		return false
	}
	if !w.sorted {
		slices.Sort(w.names)
		w.sorted = true
	}
	_, ok := slices.BinarySearch(w.names, maphash.Comparable(w.seed, sizedName{size, name}))
	return ok
}

// Take claims a content. It returns true once for each content: for the first
// that found it.
func (w *Wanted) Take(d Digest, size int64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	left := w.ofSize(size)
	if left == nil || *left == 0 {
		return false
	}
	key := w.key(d)
	i, ok := w.index.Find(&key)
	if !ok || w.taken[i] || w.contents[i].Size != size {
		return false
	}
	w.taken[i] = true
	*left--
	w.total--
	return true
}
