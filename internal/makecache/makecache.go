// Package makecache is the file in which make --cache remembers which parts of which
// files made which chunks (docs/format/cache.md).
package makecache

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/internal/durable"
)

// FileName is that of the cache in its directory.
const FileName = "chunks"

// Fingerprint stands for a part of an archive: for its records and for which parts of
// which unchanged files it has.
type Fingerprint [sha256.Size]byte

// Chunk is a chunk that was once cut.
type Chunk struct {
	Size uint64 // in bytes, at most chunk.MaxSize
	Last bool   // it ended with the archive, not where a chunk is cut
	All  Fingerprint
	ID   chunk.ID
}

// recordSize is the length of a record of the cache file.
const recordSize = 32 + 32 + 32 + 8

// Read reads the cache that was written with the same header. One that is not there, is of other options or is
// damaged is empty.
func Read(name string, header []byte) (map[Fingerprint]Chunk, error) {
	b, err := os.ReadFile(name)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("makecache: %w", err)
	}
	return parse(b, header), nil
}

func parse(b, header []byte) map[Fingerprint]Chunk {
	m := make(map[Fingerprint]Chunk)
	body, ok := bytes.CutPrefix(b, header)
	if !ok || len(body) < sha256.Size || (len(body)-sha256.Size)%recordSize != 0 {
		return m
	}
	body = body[:len(body)-sha256.Size]
	if sum := sha256.Sum256(b[:len(b)-sha256.Size]); !bytes.Equal(sum[:], b[len(b)-sha256.Size:]) {
		return m
	}
	for ; len(body) > 0; body = body[recordSize:] {
		n := binary.LittleEndian.Uint64(body[96:])
		c := Chunk{All: Fingerprint(body[32:64]), ID: chunk.ID(body[64:96]), Size: n &^ lastBit, Last: n&lastBit != 0}
		if c.Size > 0 && c.Size <= chunk.MaxSize {
			m[Fingerprint(body[:32])] = c
		}
	}
	return m
}

// lastBit marks the size of a chunk that ended with the archive.
const lastBit = 1 << 63

// Write replaces the cache, whole or not at all.
func Write(name string, header []byte, m map[Fingerprint]Chunk) error {
	b := bytes.Clone(header)
	for key, c := range m {
		n := c.Size
		if c.Last {
			n |= lastBit
		}
		b = append(b, key[:]...)
		b = append(b, c.All[:]...)
		b = append(b, c.ID[:]...)
		b = binary.LittleEndian.AppendUint64(b, n)
	}
	sum := sha256.Sum256(b)
	if err := durable.WriteFile(name, append(b, sum[:]...), 0o600); err != nil {
		return fmt.Errorf("makecache: %w", err)
	}
	return nil
}
