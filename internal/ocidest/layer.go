package ocidest

import (
	"bufio"
	"context"
	"crypto/sha256"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/ociv2-sync/ociv2-sync/translate"
)

// Compression is how a layer is stored.
type Compression uint8

// The compressions of layers.
const (
	Gzip Compression = iota
	Zstd
	none
)

// ParseCompression reads "gzip" or "zstd"; anything else is ErrReference.
func ParseCompression(s string) (Compression, error) {
	for c, name := range []string{"gzip", "zstd"} {
		if s == name {
			return Compression(c), nil
		}
	}
	return 0, fmt.Errorf("ocidest: %w: compression %q is neither gzip nor zstd", ErrReference, s)
}

// layerBuffer is what is compressed or hashed at a time, in bytes.
const layerBuffer = 256 << 10

// compressor returns a writer that compresses into w. Its output may depend on
// nothing but its input, so nothing follows the number of CPUs.
func (c Compression) compressor(w io.Writer) (io.WriteCloser, string, error) {
	switch c {
	case Gzip:
		z, err := gzip.NewWriterLevel(w, gzip.DefaultCompression)
		return z, ocispec.MediaTypeImageLayerGzip, err
	case Zstd:
		z, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedDefault))
		return z, ocispec.MediaTypeImageLayerZstd, err
	default:
		return plainWriter{w}, ocispec.MediaTypeImageLayer, nil
	}
}

type plainWriter struct{ io.Writer }

func (plainWriter) Close() error { return nil }

// layer is a layer that has been written.
type layer struct {
	ocispec.Descriptor
	diffID  digest.Digest
	omitted []int
}

// writeLayer writes the image's layer to w, as it is stored.
func writeLayer(ctx context.Context, img Image, opts Options, w io.Writer) (*layer, error) {
	stored, plain := sha256.New(), sha256.New()
	l := &layer{}
	z, mediaType, err := opts.Compression.compressor(writeCounter{io.MultiWriter(w, stored), func(n int64) { l.Size += n }})
	if err != nil {
		return nil, err
	}
	buffered := bufio.NewWriterSize(writeCounter{io.MultiWriter(z, plain), opts.Progress}, layerBuffer)
	l.omitted, err = translate.WriteLayer(ctx, img.Source, buffered)
	if err == nil {
		err = buffered.Flush()
	}
	// Closed in any case: the compressor may have goroutines.
	if cerr := z.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return nil, err
	}
	l.MediaType = mediaType
	l.Digest = digest.NewDigest(digest.SHA256, stored)
	l.diffID = digest.NewDigest(digest.SHA256, plain)
	return l, nil
}

// documents returns the config and the manifest of the image with layer l.
func documents(img Image, l *layer) (config, manifest []byte, err error) {
	if config, err = translate.LayerConfig(img.Config, l.diffID); err != nil {
		return nil, nil, err
	}
	manifest, err = translate.LayerManifest(config, l.Descriptor)
	return config, manifest, err
}

// indexEntry describes the manifest in the index of a layout.
func indexEntry(manifest []byte, ref string) ocispec.Descriptor {
	d := ocispec.Descriptor{
		MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromBytes(manifest), Size: int64(len(manifest)),
	}
	if ref != "" {
		d.Annotations = map[string]string{ocispec.AnnotationRefName: ref}
	}
	return d
}
