package offline

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// Base is a content that the device has: the first bytes of its SHA-256, and its length
// in bytes, at least 1.
type Base struct {
	Prefix [8]byte
	Size   int64
}

// Part says that a chunk, by its number in the image, lies in a base, by its index, from
// an offset in bytes on.
type Part struct {
	Chunk, Base int
	At          int64
}

// Bases says which chunks of the image are not in a bundle because the device has them
// inside contents of other images (docs/format/offline.md, section 3). The chunks are in
// ascending order, the bases in the order in which the parts first name them.
type Bases struct {
	Bases []Base
	Parts []Part
}

const (
	basesMagic = "ociv2-sync bases 1\n"
	// maxValue bounds every number, so that the sum of two is one too.
	maxValue = 1 << 61
)

// Append appends the bytes of b to data.
func (b *Bases) Append(data []byte) []byte {
	data = append(data, basesMagic...)
	data = binary.AppendUvarint(data, uint64(len(b.Bases)))
	for i := range b.Bases {
		data = append(data, b.Bases[i].Prefix[:]...)
		data = binary.AppendUvarint(data, uint64(b.Bases[i].Size))
	}
	next := 0
	for _, p := range b.Parts {
		data = binary.AppendUvarint(data, uint64(p.Chunk-next))
		data = binary.AppendUvarint(data, uint64(p.Base))
		data = binary.AppendUvarint(data, uint64(p.At))
		next = p.Chunk + 1
	}
	return data
}

var errBases = errors.New("not a list of bases")

// parseBases reads what Append has made; anything else is an error.
func parseBases(data []byte) (*Bases, error) {
	rest, ok := bytes.CutPrefix(data, []byte(basesMagic))
	if !ok {
		return nil, errBases
	}
	number := func() int64 {
		v, n := binary.Uvarint(rest)
		if n <= 0 || v > maxValue {
			ok = false
			return 0
		}
		rest = rest[n:]
		return int64(v)
	}
	b := &Bases{}
	known := make(map[Base]bool)
	for count := number(); ok && int64(len(b.Bases)) < count; {
		var base Base
		if len(rest) < len(base.Prefix) {
			return nil, errBases
		}
		rest = rest[copy(base.Prefix[:], rest):]
		base.Size = number()
		if base.Size == 0 || known[base] {
			return nil, errBases
		}
		known[base] = true
		b.Bases = append(b.Bases, base)
	}
	next, used := int64(0), int64(0)
	for ok && len(rest) > 0 {
		chunk, base, at := next+number(), number(), number()
		if chunk > math.MaxInt32 || base > used || base >= int64(len(b.Bases)) {
			return nil, errBases
		}
		next, used = chunk+1, max(used, base+1)
		b.Parts = append(b.Parts, Part{int(chunk), int(base), at})
	}
	// Numbers have one encoding.
	if !ok || used < int64(len(b.Bases)) || used == 0 || !bytes.Equal(b.Append(nil), data) {
		return nil, errBases
	}
	return b, nil
}

// basesName is where the bases of an image are.
func basesName(image string) string { return image + "/bases" }

// Bases returns which chunks the device is to have, of an image whose chunk indexes have
// size bytes in all; nil if the bundle does not say.
func (b *Bundle) Bases(ctx context.Context, size int64) (*Bases, error) {
	name := basesName(b.ref.Name)
	data, err := b.ReadFile(ctx, name, basesLimit(size))
	if errors.Is(err, ErrLacks) {
		return nil, nil
	}
	var list *Bases
	if err == nil {
		list, err = parseBases(data)
	}
	if err != nil && ctx.Err() == nil {
		err = fmt.Errorf("offline: %s/%s: %w: %w", b, name, ErrMalformed, err)
	}
	return list, err
}

// basesLimit is the most that a list of bases takes: an index has 40 bytes for each chunk.
func basesLimit(index int64) int64 { return 64 + 2*index }

// Bases writes which chunks the device is to have.
func (w *Writer) Bases(image string, b *Bases) error {
	data := b.Append(nil)
	return w.File(basesName(image), int64(len(data)), bytes.NewReader(data))
}
