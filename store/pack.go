package store

import (
	"bytes"
	"cmp"
	"fmt"
	"math/bits"
	"strconv"
	"strings"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/ociv2-sync/ociv2-sync/internal/xz"
)

// Compression is how a chunk file is compressed (docs/format/chunks.md,
// section 4): the form in the low byte, the level above it, 0 for that of the form.
// Chunks are read whatever their compression is.
type Compression uint16

// The forms that casync knows, at their own levels.
const (
	Zstd Compression = iota // at level 3, as casync has it
	XZ                      // LZMA2 with a CRC64; slower, smaller; has one level
	Gzip                    // at level 6, for readers that know nothing else
)

// compressions are the forms with the highest levels that each has.
func compressions() []struct {
	form  Compression
	name  string
	level int
} {
	return []struct {
		form  Compression
		name  string
		level int
	}{{Zstd, "zstd", 22}, {XZ, "xz", 0}, {Gzip, "gzip", gzip.BestCompression}}
}

func (c Compression) form() Compression { return c & 0xff }

// level returns the level, or that of the form.
func (c Compression) level(usual int) int { return cmp.Or(int(c>>8), usual) }

// String returns the name that casync's option --compression uses, and the level
// after a colon if it is not that of the form.
func (c Compression) String() string {
	for _, k := range compressions() {
		switch {
		case k.form != c.form():
		case c>>8 == 0:
			return k.name
		default:
			return fmt.Sprintf("%s:%d", k.name, c>>8)
		}
	}
	return fmt.Sprintf("compression %d", uint16(c))
}

// ParseCompression returns the compression of that name: zstd, xz, gzip, zstd:LEVEL
// (1 to 22, in the numbers of the zstd program, of which several mean the same) or
// gzip:LEVEL (1 to 9).
func ParseCompression(name string) (Compression, error) {
	base, level, leveled := strings.Cut(name, ":")
	for _, k := range compressions() {
		switch {
		case k.name != base:
			continue
		case !leveled:
			return k.form, nil
		case k.level == 0:
			return 0, fmt.Errorf("store: compression %q: %s has no levels", name, base)
		}
		n, err := strconv.Atoi(level)
		if err != nil || n < 1 || n > k.level {
			return 0, fmt.Errorf("store: compression %q: the level is a number from 1 to %d", name, k.level)
		}
		return k.form | Compression(n)<<8, nil
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
	p := &Packer{form: c.form()}
	switch p.form {
	case XZ:
		p.xz = new(xz.Compressor)
	case Gzip:
		w, err := gzip.NewWriterLevel(nil, c.level(6))
		if err != nil {
			panic(err) // ParseCompression lets no other levels through
		}
		p.gzip = w
	default:
		// The window need not exceed the chunk; the encoder's buffers follow it.
		window := 1 << bits.Len64(min(max(maxSize, 2), 8<<20)-1)
		enc, err := zstd.NewWriter(nil,
			zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(c.level(zstdLevel))),
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
