package store

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/klauspost/compress/gzip"
)

// maxDeflate is the most bytes that one byte of deflate expands to, rounded up.
const maxDeflate = 1040

// gunzips is a free list of decoders; it holds no state that a result depends
// on.
var gunzips = sync.Pool{New: func() any { return new(gzip.Reader) }}

// expandGzip expands data, which must be one gzip member from end to end, of
// size bytes.
func expandGzip(dst, data []byte, size uint64) ([]byte, error) {
	// Before size is trusted with an allocation: can data expand to it at all?
	if size > uint64(len(data))*maxDeflate {
		return nil, fmt.Errorf("%w: gzip: %d bytes cannot hold %d", ErrCorrupt, len(data), size)
	}
	z := gunzips.Get().(*gzip.Reader)
	defer gunzips.Put(z)
	in := bytes.NewReader(data)
	if err := z.Reset(in); err != nil {
		return nil, fmt.Errorf("%w: gzip: %w", ErrCorrupt, err)
	}
	z.Multistream(false)
	dst = slices.Grow(dst[:0], int(size))[:size]
	if _, err := io.ReadFull(z, dst); err != nil {
		return nil, fmt.Errorf("%w: gzip: %w", ErrCorrupt, err)
	}
	// The end of the member, with its checksum, is still to be read.
	var more [1]byte
	if _, err := io.ReadFull(z, more[:]); err != io.EOF { //nolint:errorlint // the bare value alone is the end
		if err == nil {
			err = fmt.Errorf("more than %d bytes", size)
		}
		return nil, fmt.Errorf("%w: gzip: %w", ErrCorrupt, err)
	}
	if in.Len() != 0 {
		return nil, fmt.Errorf("%w: gzip: %d bytes after the member", ErrCorrupt, in.Len())
	}
	return dst, nil
}
