package store

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/klauspost/compress/zstd"

	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/internal/xz"
)

// The first bytes by which the compression of a .cacnk file is told
// (docs/format/chunks.md, section 4).
var (
	magicZstd = []byte{0x28, 0xb5, 0x2f, 0xfd}
	magicXZ   = []byte{0xfd, '7', 'z', 'X', 'Z', 0}
	magicGzip = []byte{0x1f, 0x8b}
)

// maxBlock is the most that one zstd block expands to (RFC 8878, 3.1.1.2.4).
const maxBlock = 128 << 10

// MaxPacked returns the length in bytes that the packed form of a chunk of size
// bytes does not exceed: the limit to give to [Store.Get]. It leaves room for
// what any of casync's compressions adds to data that does not compress.
func MaxPacked(size uint64) int64 {
	size = min(size, chunk.MaxSize)
	return int64(size + size/64 + 1024)
}

// Unpack returns the bytes of chunk id from its packed form p, once it has
// decompressed them to exactly size bytes and their digest under alg is id. The
// result uses dst's storage, whatever its length, if the capacity is enough,
// and is never part of p. p.Data must be one compressed frame and nothing else.
//
// The error names the chunk and wraps [ErrCorrupt]. Nothing is decompressed
// beyond size. Unpack may be called from several
// goroutines at once.
func Unpack(dst []byte, p Packed, alg chunk.Algorithm, id chunk.ID, size uint64) ([]byte, error) {
	one := [][]byte{dst}
	if err := UnpackAll(one, []Packed{p}, alg, []chunk.ID{id}, []uint64{size}); err != nil {
		return nil, err
	}
	return one[0], nil
}

// UnpackAll is [Unpack] for several chunks of one index, whose digests are
// computed together: dst[i] becomes the bytes of chunk ids[i], from ps[i], in
// dst[i]'s storage if the capacity is enough. The slices must be of one length.
// On error what dst has is not verified.
func UnpackAll(dst [][]byte, ps []Packed, alg chunk.Algorithm, ids []chunk.ID, sizes []uint64) error {
	for i, p := range ps {
		out, err := expand(dst[i][:0], p, sizes[i])
		if err == nil && uint64(len(out)) != sizes[i] {
			err = fmt.Errorf("%w: %d bytes, want %d", ErrCorrupt, len(out), sizes[i])
		}
		if err != nil {
			return fmt.Errorf("store: chunk %s: %w", ids[i], err)
		}
		dst[i] = out
	}
	got := make([]chunk.ID, len(ids))
	alg.SumAll(got, dst)
	for i, id := range ids {
		if got[i] != id {
			return fmt.Errorf("store: chunk %s: %w: its digest is %s", id, ErrCorrupt, got[i])
		}
	}
	return nil
}

// expand undoes the compression of p, for at most size bytes of output.
func expand(dst []byte, p Packed, size uint64) ([]byte, error) {
	switch {
	case size > chunk.MaxSize:
		return nil, fmt.Errorf("%w: a chunk of %d bytes", ErrCorrupt, size)
	case p.Form == Raw:
		if uint64(len(p.Data)) != size {
			return nil, fmt.Errorf("%w: %d raw bytes, want %d", ErrCorrupt, len(p.Data), size)
		}
		return append(dst, p.Data...), nil
	case bytes.HasPrefix(p.Data, magicZstd):
		return expandZstd(dst, p.Data, size)
	case bytes.HasPrefix(p.Data, magicXZ):
		out, err := xz.Expand(dst, p.Data, int(size))
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
		return out, nil
	case bytes.HasPrefix(p.Data, magicGzip):
		return expandGzip(dst, p.Data, size)
	}
	return nil, fmt.Errorf("%w: neither zstd nor xz nor gzip (%d bytes)", ErrCorrupt, len(p.Data))
}

// decoders is a free list of decoders, which are costly to make; it holds no
// state that a result depends on.
var decoders = sync.Pool{New: func() any {
	d, err := zstd.NewReader(nil,
		zstd.WithDecoderConcurrency(1),
		zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(chunk.MaxSize),
		zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		panic(err) // these options are valid
	}
	return d
}}

func expandZstd(dst, data []byte, size uint64) ([]byte, error) {
	blocks, err := zstdFrame(data)
	if err != nil {
		return nil, fmt.Errorf("%w: zstd: %w", ErrCorrupt, err)
	}
	// Before size is trusted with an allocation: can data expand to it at all?
	if size > uint64(blocks)*maxBlock {
		return nil, fmt.Errorf("%w: zstd: %d blocks cannot hold %d bytes", ErrCorrupt, blocks, size)
	}
	d := decoders.Get().(*zstd.Decoder)
	defer decoders.Put(d)
	dst = slices.Grow(dst, int(size))
	out, err := d.DecodeAll(data, dst[:0:size])
	if err != nil {
		return nil, fmt.Errorf("%w: zstd: %w", ErrCorrupt, err)
	}
	if len(out) > 0 && &out[0] == &dst[:1][0] {
		out = dst[:len(out)] // the limit has hidden what room there is for another chunk
	}
	return out, nil
}

// zstdFrame checks that data is one zstd frame from end to end, which the
// decoder does not (it takes several, and skippable ones), and returns the
// number of its blocks. The frame header ends where the decoder's package says;
// each block has a header of 3 bytes: last block, type (2 bits), size (21 bits).
func zstdFrame(data []byte) (blocks int, err error) {
	var h zstd.Header
	if err := h.Decode(data); err != nil {
		return 0, err
	}
	rest := data[h.HeaderSize:]
	for last := false; !last; blocks++ {
		if len(rest) < 3 {
			return 0, errors.New("cut short")
		}
		head := uint32(rest[0]) | uint32(rest[1])<<8 | uint32(rest[2])<<16
		last = head&1 != 0
		length := int(head >> 3)
		if head>>1&3 == 1 { // one byte, repeated
			length = 1
		}
		if len(rest)-3 < length {
			return 0, errors.New("cut short")
		}
		rest = rest[3+length:]
	}
	if h.HasCheckSum {
		if len(rest) < 4 {
			return 0, errors.New("cut short")
		}
		rest = rest[4:]
	}
	if len(rest) != 0 {
		return 0, fmt.Errorf("%d bytes after the frame", len(rest))
	}
	return blocks, nil
}
