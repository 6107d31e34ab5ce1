package store

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/internal/xz"
)

// Check is [Unpack] for a chunk of which neither size nor digest algorithm are
// known: it returns the bytes if their digest under any of the algorithms is
// id. No more is expanded than the largest chunk may have.
func Check(dst []byte, p Packed, id chunk.ID) ([]byte, error) {
	return CheckWithin(dst, p, id, chunk.MaxSize)
}

// CheckWithin is [Check] for a chunk of at most limit bytes: a longer one is refused
// without more than that being expanded.
func CheckWithin(dst []byte, p Packed, id chunk.ID, limit uint64) ([]byte, error) {
	size, err := p.size()
	if err != nil {
		return nil, fmt.Errorf("store: chunk %s: %w", id, err)
	}
	out, err := expand(dst[:0], p, min(size, limit))
	if err != nil {
		return nil, fmt.Errorf("store: chunk %s: %w", id, err)
	}
	if chunk.SHA512_256.Sum(out) != id && chunk.SHA256.Sum(out) != id {
		return nil, fmt.Errorf("store: chunk %s: %w: its digest is another", id, ErrCorrupt)
	}
	return out, nil
}

// size returns what p says that it expands to; of zstd the most that it can.
func (p Packed) size() (uint64, error) {
	switch {
	case p.Form == Raw:
		return uint64(len(p.Data)), nil
	case bytes.HasPrefix(p.Data, magicZstd):
		blocks, err := zstdFrame(p.Data)
		if err != nil {
			return 0, fmt.Errorf("%w: zstd: %w", ErrCorrupt, err)
		}
		return uint64(blocks) * maxBlock, nil
	case bytes.HasPrefix(p.Data, magicXZ):
		size, err := xz.Size(p.Data)
		if err != nil {
			return 0, fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
		return size, nil
	case bytes.HasPrefix(p.Data, magicGzip) && len(p.Data) >= 18:
		return uint64(binary.LittleEndian.Uint32(p.Data[len(p.Data)-4:])), nil
	}
	return 0, fmt.Errorf("%w: neither zstd nor xz nor gzip (%d bytes)", ErrCorrupt, len(p.Data))
}
