package caibx

import (
	"errors"
	"fmt"
	"slices"

	"github.com/ociv2-sync/ociv2-sync/chunk"
)

// ErrMalformed reports an index that breaks the format.
var ErrMalformed = errors.New("malformed index")

// Error tells where an index breaks the format.
type Error struct {
	Offset int64 // byte offset in the index of the field or record at fault
	Err    error // what is wrong; wraps [ErrMalformed], or is the reader's error
}

// Error implements error.
func (e *Error) Error() string { return fmt.Sprintf("caibx: offset %d: %v", e.Offset, e.Err) }

// Unwrap returns e.Err.
func (e *Error) Unwrap() error { return e.Err }

// Index is the chunk index of one stream. It is a plain value; the methods
// other than [Index.WriteTo] and [Index.Validate] expect a valid one, which
// [Read] returns. Concurrent use is safe while nobody changes it.
type Index struct {
	FeatureFlags uint64       // catar feature flags; for blobs the digest bit and exclude bits alone
	Params       chunk.Params // the sizes that the stream was cut by
	Chunks       []Chunk      // in stream order
}

// Chunk is one entry of an [Index].
type Chunk struct {
	End uint64   // offset in the stream of the byte after the chunk
	ID  chunk.ID // under the index's [Index.Algorithm]
}

// Size returns the length of the indexed stream in bytes.
func (x *Index) Size() uint64 {
	if len(x.Chunks) == 0 {
		return 0
	}
	return x.Chunks[len(x.Chunks)-1].End
}

// Algorithm returns the digest algorithm of the chunk IDs.
func (x *Index) Algorithm() chunk.Algorithm {
	if x.FeatureFlags&FlagSHA512_256 != 0 {
		return chunk.SHA512_256
	}
	return chunk.SHA256
}

// Span returns the offset in the stream and the size, both in bytes, of chunk
// i. The size is at least 1 and at most Params.Max.
func (x *Index) Span(i int) (off, size uint64) {
	if i > 0 {
		off = x.Chunks[i-1].End
	}
	return off, x.Chunks[i].End - off
}

// Find returns the index of the chunk that holds the byte at offset off, or
// len(x.Chunks) when off is at or beyond the end of the stream.
func (x *Index) Find(off uint64) int {
	i, found := slices.BinarySearchFunc(x.Chunks, off, func(c Chunk, off uint64) int {
		switch {
		case c.End < off:
			return -1
		case c.End > off:
			return 1
		}
		return 0
	})
	if found { // off is the first byte behind chunk i
		i++
	}
	return i
}

// Validate reports what [Read] would refuse in x once written, as an [*Error].
func (x *Index) Validate() error {
	if err := x.checkHeader(); err != nil {
		return err
	}
	end := uint64(0)
	for i, c := range x.Chunks {
		if err := x.checkEnd(i, end, c.End); err != nil {
			return err
		}
		end = c.End
	}
	return nil
}

// checkHeader checks the fields of the header record.
func (x *Index) checkHeader() error {
	if err := checkFlags(x.FeatureFlags); err != nil {
		return malformed(offFlags, "%w", err)
	}
	if err := x.Params.Validate(); err != nil {
		return malformed(offParams, "%w", err)
	}
	return nil
}

// checkEnd checks the end offset of chunk i, which begins at start. The minimum
// size is not checked: the last chunk may be short, and casync does not either.
func (x *Index) checkEnd(i int, start, end uint64) error {
	switch {
	case end <= start:
		return malformed(itemOffset(i), "chunk %d ends at %d, not behind its start %d", i, end, start)
	case end-start > x.Params.Max:
		return malformed(itemOffset(i), "chunk %d has %d bytes, the maximum is %d", i, end-start, x.Params.Max)
	case end > maxStream:
		return malformed(itemOffset(i), "chunk %d ends at %d, beyond any file", i, end)
	}
	return nil
}

// malformed returns an *Error at off that wraps [ErrMalformed].
func malformed(off int64, format string, args ...any) error {
	return &Error{Offset: off, Err: fmt.Errorf("%w: "+format, append([]any{ErrMalformed}, args...)...)}
}
