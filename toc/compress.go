package toc

import (
	"bytes"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
)

// maxWindow is the largest zstd window that Decompress allocates, and so the
// largest that a writer may use (docs/format/toc.md, section 4).
const maxWindow = 8 << 20

// Compress gives canonical bytes in the form in which they are stored: one zstd
// frame. The sections are compressed as blocks of their own, for their bytes
// have little in common. The identity of a TOC is the SHA-256 of the canonical
// bytes; the compressed ones may differ from one version of the program to the
// next.
func Compress(canonical []byte) ([]byte, error) {
	var out bytes.Buffer
	w, err := zstd.NewWriter(&out,
		zstd.WithEncoderLevel(zstd.SpeedBestCompression),
		zstd.WithWindowSize(maxWindow),
		zstd.WithEncoderConcurrency(1),
		zstd.WithEncoderCRC(false))
	if err != nil {
		return nil, fmt.Errorf("toc: compress: %w", err)
	}
	from := 0
	for _, to := range boundaries(canonical) {
		if _, err := w.Write(canonical[from:to]); err != nil {
			return nil, fmt.Errorf("toc: compress: %w", err)
		}
		if err := w.Flush(); err != nil {
			return nil, fmt.Errorf("toc: compress: %w", err)
		}
		from = to
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("toc: compress: %w", err)
	}
	return bytes.Clone(out.Bytes()), nil // without the room that a growing buffer has
}

// Decompress undoes Compress. More than limit bytes of output are an error, and
// no more than that (and the window) is allocated. It does not check what the
// bytes say: that is for their digest and for Parse.
func Decompress(b []byte, limit int64) ([]byte, error) {
	// Not DecodeAll: it would believe the length that the frame claims.
	r, err := zstd.NewReader(bytes.NewReader(b),
		zstd.WithDecoderConcurrency(1),
		zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		return nil, fmt.Errorf("%w: decompress: %w", ErrInvalid, err)
	}
	defer r.Close()
	// Most are not four times as long as what they are compressed to, so that nothing need be
	// moved while the buffer grows.
	var out bytes.Buffer
	out.Grow(int(min(max(limit, 0), 4*int64(len(b)))) + bytes.MinRead)
	n, err := io.Copy(&out, io.LimitReader(r, limit+1))
	if err != nil {
		return nil, fmt.Errorf("%w: decompress: offset %d: %w", ErrInvalid, n, err)
	}
	if n > limit {
		return nil, fmt.Errorf("%w: decompress: more than %d bytes", ErrInvalid, limit)
	}
	if out.Available() > out.Len()/16+bytes.MinRead {
		return bytes.Clone(out.Bytes()), nil // see Compress
	}
	return out.Bytes(), nil
}
