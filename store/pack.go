package store

import (
	"bytes"
	"fmt"
	"math/bits"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/ociv2-sync/ociv2-sync/internal/xz"
)

// Compression is how a chunk file is compressed (docs/format/chunks.md,
// section 4). Chunks are read whatever their compression is.
type Compression uint8

// The compressions that casync knows.
const (
	Zstd Compression = iota // at level 3, as casync has it
	XZ                      // LZMA2 with a CRC64; slower, smaller
	Gzip                    // at level 6, for readers that know nothing else
)

// String returns the name that casync's option --compression uses.
func (c Compression) String() string {
	switch c {
	case Zstd:
		return "zstd"
	case XZ:
		return "xz"
	case Gzip:
		return "gzip"
	}
	return fmt.Sprintf("compression %d", uint8(c))
}

// ParseCompression returns the compression of that name.
func ParseCompression(name string) (Compression, error) {
	for _, c := range []Compression{Zstd, XZ, Gzip} {
		if c.String() == name {
			return c, nil
		}
	}
	return 0, fmt.Errorf("store: compression %q is not zstd, xz or gzip", name)
}

// zstdLevel is casync's.
const zstdLevel = 3

// Packer compresses chunks for a store. It may be used by several goroutines at
// once, which then may wait for each other.
type Packer struct {
	form Compression
	zstd *zstd.Encoder

	mu   sync.Mutex
	xz   *xz.Compressor
	gzip *gzip.Writer
}

// NewPacker returns a Packer for chunks of up to maxSize bytes; larger ones
// merely compress less well. Memory is about 4 times maxSize.
func NewPacker(c Compression, maxSize uint64) *Packer {
	p := &Packer{form: c}
	switch c {
	case XZ:
		p.xz = new(xz.Compressor)
	case Gzip:
		p.gzip = gzip.NewWriter(nil) // its default is level 6
	default:
		// The window need not exceed the chunk; the encoder's buffers follow it.
		window := 1 << bits.Len64(min(max(maxSize, 2), 8<<20)-1)
		enc, err := zstd.NewWriter(nil,
			zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(zstdLevel)),
			zstd.WithWindowSize(max(window, zstd.MinWindowSize)),
			zstd.WithEncoderConcurrency(1),
			zstd.WithLowerEncoderMem(true),
			zstd.WithEncoderCRC(false)) // the chunk's ID says more
		if err != nil {
			panic(err) // these options are valid
		}
		p.zstd = enc
	}
	return p
}

// Pack returns b compressed, as one zstd frame, xz stream or gzip member. The
// result uses dst's storage if its capacity is enough. b must not be empty:
// there are no empty chunks.
func (p *Packer) Pack(dst, b []byte) Packed {
	if p.form == Zstd {
		return Packed{Form: Compressed, Data: p.zstd.EncodeAll(b, dst[:0])}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.form == XZ {
		return Packed{Form: Compressed, Data: p.xz.Compress(dst, b)}
	}
	out := bytes.NewBuffer(dst[:0])
	p.gzip.Reset(out)
	_, err := p.gzip.Write(b)
	if err == nil {
		err = p.gzip.Close()
	}
	if err != nil {
		panic(err) // a buffer takes everything
	}
	return Packed{Form: Compressed, Data: out.Bytes()}
}
