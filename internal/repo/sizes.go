package repo

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"

	"github.com/ociv2-sync/ociv2-sync/caibx"
	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/store"
)

// sizesWindow is the zstd window of a list of chunk sizes.
const sizesWindow = 1 << 20

// encodeSizes gives the list of chunk sizes (docs/format/repository.md, section
// 4) for the chunks of x, whose stored sizes are in sizes, in their order.
func encodeSizes(x *caibx.Index, sizes []int64) ([]byte, error) {
	if len(sizes) != len(x.Chunks) {
		return nil, malformed("%d sizes for %d chunks", len(sizes), len(x.Chunks))
	}
	var plain []byte
	seen := make(map[chunk.ID]int64, len(sizes))
	for i, s := range sizes {
		if known, ok := seen[x.Chunks[i].ID]; ok {
			if s != known {
				return nil, malformed("chunk %s is stored in %d and in %d bytes", x.Chunks[i].ID, known, s)
			}
			continue
		}
		if _, size := x.Span(i); s < 1 || s > store.MaxPacked(size) {
			return nil, malformed("chunk %s of %d bytes is stored in %d", x.Chunks[i].ID, size, s)
		}
		seen[x.Chunks[i].ID] = s
		plain = binary.AppendUvarint(plain, uint64(s))
	}
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBestCompression),
		zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false), zstd.WithWindowSize(sizesWindow))
	if err != nil {
		return nil, fmt.Errorf("repo: chunk sizes: %w", err)
	}
	out := enc.EncodeAll(plain, nil)
	return out, enc.Close()
}

// decodeSizes undoes encodeSizes.
func decodeSizes(b []byte, x *caibx.Index) ([]int64, error) {
	dec, err := zstd.NewReader(bytes.NewReader(b), zstd.WithDecoderConcurrency(1),
		zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(sizesWindow))
	if err != nil {
		return nil, malformed("chunk sizes: %w", err)
	}
	defer dec.Close()
	limit := int64(len(x.Chunks)) * binary.MaxVarintLen64
	plain, err := io.ReadAll(io.LimitReader(dec, limit+1))
	if err != nil {
		return nil, malformed("chunk sizes: %w", err)
	}
	sizes := make([]int64, len(x.Chunks))
	seen := make(map[chunk.ID]int64, len(sizes))
	for i := range sizes {
		id := x.Chunks[i].ID
		if s, ok := seen[id]; ok {
			sizes[i] = s
			continue
		}
		v, w := binary.Uvarint(plain)
		_, size := x.Span(i)
		if w <= 0 || v < 1 || v > uint64(store.MaxPacked(size)) || w > 1 && plain[w-1] == 0 {
			return nil, malformed("chunk sizes: entry of chunk %d", i)
		}
		plain = plain[w:]
		sizes[i] = int64(v)
		seen[id] = sizes[i]
	}
	if len(plain) > 0 {
		return nil, malformed("chunk sizes: %d bytes too many", len(plain))
	}
	return sizes, nil
}
