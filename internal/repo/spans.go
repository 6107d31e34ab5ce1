package repo

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/klauspost/compress/zstd"

	"github.com/ociv2-sync/ociv2-sync/caibx"
	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/store"
	"github.com/ociv2-sync/ociv2-sync/translate"
)

// Spans says where the chunks of an image lie and what they take: all of a plan
// but their ids, of which IDs then reads those that it needs.
type Spans struct {
	// Params are those that the catar was cut with.
	Params chunk.Params
	// Catar is the number of chunks of the catar; those of the extra stream
	// follow.
	Catar int
	// Sizes and Stored are the length in bytes of each chunk, uncompressed and
	// in the store.
	Sizes  []uint64
	Stored []int64
}

// spanSize is what a chunk takes in the list, uncompressed: two numbers of four
// bytes.
const spanSize = 8

// spansHead is the most that the head of the list takes, in bytes.
const spansHead = 5 * binary.MaxVarintLen64

// encodeSpans gives the list of spans (docs/format/repository.md, section 4.1);
// nil where a chunk is too large for it.
func encodeSpans(catar Chunks, extra *Chunks) ([]byte, error) {
	head := make([]byte, 0, spansHead)
	p := catar.Index.Params
	extras := 0
	if extra != nil {
		extras = len(extra.Index.Chunks)
	}
	n := len(catar.Index.Chunks) + extras
	for _, v := range []uint64{p.Min, p.Avg, p.Max, uint64(n - extras), uint64(extras)} {
		head = binary.AppendUvarint(head, v)
	}
	plain := make([]byte, n*spanSize)
	at := 0
	for _, c := range []*Chunks{&catar, extra} {
		if c == nil {
			continue
		}
		for i, stored := range c.Sizes {
			_, size := c.Index.Span(i)
			if size > math.MaxUint32 || stored > math.MaxUint32 {
				return nil, nil
			}
			for k := range 4 {
				plain[k*n+at] = byte(size >> (8 * k))
				plain[(4+k)*n+at] = byte(stored >> (8 * k))
			}
			at++
		}
	}
	var out bytes.Buffer
	enc, err := zstd.NewWriter(&out, zstd.WithEncoderLevel(zstd.SpeedBestCompression),
		zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false), zstd.WithWindowSize(sizesWindow))
	if err != nil {
		return nil, fmt.Errorf("repo: spans: %w", err)
	}
	// The planes have little in common: each is a block of its own.
	_, err = enc.Write(head)
	for k := 0; k < spanSize && err == nil; k++ {
		if err = enc.Flush(); err == nil {
			_, err = enc.Write(plain[k*n : (k+1)*n])
		}
	}
	if err = errors.Join(err, enc.Close()); err != nil {
		return nil, fmt.Errorf("repo: spans: %w", err)
	}
	return out.Bytes(), nil
}

// decodeSpans undoes encodeSpans for the streams of a manifest.
func decodeSpans(b []byte, m *translate.Manifest) (*Spans, error) {
	counts, lengths := [2]int{caibx.ItemCount(m.Catar.Index.Size)}, [2]uint64{m.Catar.Size}
	if m.Extra != nil {
		counts[1], lengths[1] = caibx.ItemCount(m.Extra.Index.Size), m.Extra.Size
	}
	dec, err := zstd.NewReader(bytes.NewReader(b), zstd.WithDecoderConcurrency(1),
		zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(sizesWindow))
	if err != nil {
		return nil, malformed("spans: %w", err)
	}
	defer dec.Close()
	n := counts[0] + counts[1]
	plain, err := io.ReadAll(io.LimitReader(dec, int64(n)*spanSize+spansHead+1))
	if err != nil {
		return nil, malformed("spans: %w", err)
	}
	var head [5]uint64
	for i := range head {
		v, w := binary.Uvarint(plain)
		if w <= 0 || w > 1 && plain[w-1] == 0 {
			return nil, malformed("spans: number %d of the head", i)
		}
		head[i], plain = v, plain[w:]
	}
	s := &Spans{Params: chunk.Params{Min: head[0], Avg: head[1], Max: head[2]}}
	if err := s.Params.Validate(); err != nil {
		return nil, malformed("spans: %w", err)
	}
	if len(plain) != n*spanSize || head[3] != uint64(counts[0]) || head[4] != uint64(counts[1]) {
		return nil, malformed("spans: %d bytes for %d and %d chunks, not for %d", len(plain), head[3], head[4], n)
	}
	s.Catar, s.Sizes, s.Stored = counts[0], make([]uint64, n), make([]int64, n)
	for i := range n {
		for k := range 4 {
			s.Sizes[i] |= uint64(plain[k*n+i]) << (8 * k)
			s.Stored[i] |= int64(plain[(4+k)*n+i]) << (8 * k)
		}
		if s.Sizes[i] < 1 || s.Sizes[i] > s.Params.Max || s.Stored[i] < 1 || s.Stored[i] > store.MaxPacked(s.Sizes[i]) {
			return nil, malformed("spans: chunk %d of %d bytes, stored in %d", i, s.Sizes[i], s.Stored[i])
		}
	}
	if catar, extra := sum(s.Sizes[:s.Catar]), sum(s.Sizes[s.Catar:]); catar != lengths[0] || extra != lengths[1] {
		return nil, mismatch("chunks of %d and %d bytes, the manifest says %d and %d", catar, extra, lengths[0], lengths[1])
	}
	return s, nil
}

func sum(sizes []uint64) (n uint64) {
	for _, size := range sizes {
		n += size
	}
	return n
}

// Spans reads where the chunks lie, of an image whose manifest has that.
func (im *Image) Spans(ctx context.Context) (*Spans, error) {
	d := *im.Manifest.Spans
	b, err := im.blob(ctx, d)
	if err != nil {
		return nil, err
	}
	s, err := decodeSpans(b, im.Manifest)
	if err != nil {
		return nil, objectError(im.files, im.BlobPath(d.Digest), err)
	}
	return s, nil
}

// IDs reads the ids of n chunks from the one at first on, all of one stream,
// out of the index of that stream: one request for 40 bytes a chunk. A part of
// an index cannot be compared with the digest of the whole. So an id only says
// which chunk is tried: what is cut out of it is compared with the table of
// contents.
func (im *Image) IDs(ctx context.Context, s *Spans, first, n int) (_ []chunk.ID, err error) {
	stream, base := im.Manifest.Catar, 0
	if first >= s.Catar {
		stream, base = *im.Manifest.Extra, s.Catar
	}
	path := im.BlobPath(stream.Index.Digest)
	offset, size := caibx.ItemSpan(first-base, n)
	r, err := im.files.OpenAt(ctx, path, offset, size)
	if err != nil {
		return nil, objectError(im.files, path, err)
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	items := make([]byte, size)
	if _, err := io.ReadFull(r, items); err != nil {
		return nil, objectError(im.files, path, err)
	}
	end := sum(s.Sizes[base:first])
	ids := make([]chunk.ID, n)
	for i, c := range caibx.Items(items) {
		if end += s.Sizes[first+i]; c.End != end {
			return nil, objectError(im.files, path, mismatch("chunk %d ends at %d, not at %d", first-base+i, c.End, end))
		}
		ids[i] = c.ID
	}
	return ids, nil
}
