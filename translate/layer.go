package translate

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/ociv2-sync/ociv2-sync/internal/inflate"
)

// compression is how a layer is stored.
type compression uint8

const (
	plain compression = iota
	gzipped
	zstandard
)

// Docker's media types of layers.
const (
	dockerLayer       = "application/vnd.docker.image.rootfs.diff.tar"
	dockerLayerGzip   = "application/vnd.docker.image.rootfs.diff.tar.gzip"
	dockerLayerZstd   = "application/vnd.docker.image.rootfs.diff.tar.zstd"
	dockerForeign     = "application/vnd.docker.image.rootfs.foreign.diff.tar"
	dockerForeignGzip = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
	ociForeign        = "application/vnd.oci.image.layer.nondistributable.v1.tar"
	ociForeignGzip    = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
	ociForeignZstd    = "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd"
	maxZstdWindow     = 128 << 20 // what zstd --long writes without being forced
	layerBuffer       = 64 << 10
)

// layerCompression returns how a layer of the given media type is stored.
func layerCompression(mediaType string) (compression, error) {
	switch mediaType {
	case ocispec.MediaTypeImageLayer, dockerLayer:
		return plain, nil
	case ocispec.MediaTypeImageLayerGzip, dockerLayerGzip:
		return gzipped, nil
	case ocispec.MediaTypeImageLayerZstd, dockerLayerZstd:
		return zstandard, nil
	case dockerForeign, dockerForeignGzip, ociForeign, ociForeignGzip, ociForeignZstd:
		return 0, fmt.Errorf("%w: foreign layer, its bytes are not part of the image (media type %s)", ErrUnsupported, mediaType)
	}
	return 0, fmt.Errorf("%w: layer of media type %q", ErrUnsupported, mediaType)
}

// readLayer streams layer i of the image through visit, entry by entry. When it
// returns nil the stored bytes had the layer's digest and size, the uncompressed
// bytes its diff_id, and nothing but zeros followed the archive's end.
func (m *merger) readLayer(ctx context.Context, i int, visit func(ord int, h *tar.Header, content io.Reader) error) (err error) {
	layer := m.info.Layers[i]
	entry := ""
	defer func() {
		if err != nil {
			err = m.layerError(i, entry, err)
		}
	}()
	comp, err := layerCompression(layer.MediaType)
	if err != nil {
		return err
	}
	raw, err := m.src.Open(ctx, i)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := raw.Close(); err == nil {
			err = cerr
		}
	}()
	blob := newMeter(ctx, raw, layer.Digest, layer.Size,
		fmt.Errorf("%w: more than the %d bytes that the manifest gives", ErrMismatch, layer.Size))
	name, err := m.readTar(ctx, layer, comp, blob, visit)
	if err == nil {
		return verifyBlob(blob, layer)
	}
	// What went wrong may be only a symptom: bytes that are not those of the
	// image are the better answer. An error of the source itself is the best.
	if blob.err != nil {
		return blob.err
	}
	if layer.Digest != "" && (errors.Is(err, ErrMalformed) || errors.Is(err, ErrMismatch)) {
		if merr := verifyBlob(blob, layer); errors.Is(merr, ErrMismatch) {
			return fmt.Errorf("%w; reading it failed with: %w", merr, err)
		}
	}
	entry = name
	return err
}

// verifyBlob reads what is left of the stored bytes and checks their digest and
// their number.
func verifyBlob(blob *meter, layer Layer) error {
	if err := blob.verify("blob", layer.Digest); err != nil {
		return err
	}
	if blob.n != layer.Size {
		return fmt.Errorf("%w: %d bytes, the manifest gives %d", ErrMismatch, blob.n, layer.Size)
	}
	return nil
}

// readTar reads an uncompressed layer from its blob. With an error it returns
// the name of the entry that the error is about, if any.
func (m *merger) readTar(ctx context.Context, layer Layer, comp compression, blob *meter, visit func(int, *tar.Header, io.Reader) error) (string, error) {
	stored := bufio.NewReaderSize(blob, layerBuffer)
	var plainText io.Reader
	switch comp {
	case plain:
		plainText = stored
	case gzipped:
		// Several members may follow each other (pigz and eStargz write them); padding of
		// zeros after the last one stays unread.
		plainText = inflate.NewReader(stored)
	case zstandard:
		d, err := zstd.NewReader(stored, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxZstdWindow))
		if err != nil {
			return "", err
		}
		defer d.Close()
		plainText = d
	}
	layerBytes := newMeter(ctx, plainText, layer.DiffID, m.limits.Bytes-m.bytes, exceeded("uncompressed bytes", m.limits.Bytes))
	defer func() { m.bytes += layerBytes.n }()

	buffered := bufio.NewReaderSize(layerBytes, layerBuffer)
	entries := &counter{r: buffered}
	tr := tar.NewReader(entries)
	previous := ""
	for ord := 0; ; ord++ {
		end := int64(0)
		if layer.DiffID == "" {
			// Nothing else would tell that the archive has been cut between entries.
			if _, err := io.Copy(io.Discard, tr); err != nil {
				return previous, readError(err)
			}
			end = (entries.n + tarBlock - 1) &^ (tarBlock - 1)
		}
		h, err := tr.Next()
		if err == io.EOF {
			if layer.DiffID == "" && entries.n < end+tarBlock {
				return previous, after(previous, malformed("truncated: no end of the archive"))
			}
			break
		}
		if err != nil {
			return previous, after(previous, readError(err))
		}
		if err := visit(ord, h, tr); err != nil {
			return h.Name, readError(err)
		}
		previous = h.Name
	}
	if err := onlyZeros(buffered); err != nil {
		return "", readError(fmt.Errorf("after the end of the archive: %w", err))
	}
	if err := onlyZeros(stored); err != nil {
		return "", readError(fmt.Errorf("after the compressed data: %w", err))
	}
	return "", layerBytes.verify("uncompressed layer (diff_id)", layer.DiffID)
}

// counter counts what is read.
type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// after words an error in the header that follows an entry.
func after(name string, err error) error {
	if name == "" {
		return fmt.Errorf("at its first header: %w", err)
	}
	return fmt.Errorf("after this entry: %w", err)
}

// readError turns what the readers of tar, gzip and zstd say into ErrMalformed
// and leaves alone what is known to be something else.
func readError(err error) error {
	for _, known := range []error{ErrMalformed, ErrLimit, ErrMismatch, ErrUnsupported, errSpool, context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, known) {
			return err
		}
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return malformed("truncated: %w", err)
	}
	return malformed("%w", err)
}

var errTrailing = errors.New("trailing garbage")

// onlyZeros reads r to its end and fails on the first byte that is not zero:
// tar pads with zeros, and so do some writers of gzip.
func onlyZeros(r io.Reader) error {
	buf := make([]byte, 32<<10)
	for {
		n, err := r.Read(buf)
		if !allZero(buf[:n]) {
			return errTrailing
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// noEOF turns an end inside something into io.ErrUnexpectedEOF.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// meter counts, hashes and limits what is read through it.
type meter struct {
	r       io.Reader
	stopped func() error // asked before each read
	h       hash.Hash    // nil if there is nothing to compare with
	n       int64
	limit   int64
	over    error // returned when there is more than limit
	err     error // what reading failed with, end of file aside
}

func newMeter(ctx context.Context, r io.Reader, id digest.Digest, limit int64, over error) *meter {
	m := &meter{r: r, stopped: ctx.Err, limit: limit, over: over}
	if id != "" {
		m.h = id.Algorithm().Hash()
	}
	return m
}

func (m *meter) Read(p []byte) (int, error) {
	if m.err != nil {
		return 0, m.err
	}
	if m.err = m.stopped(); m.err != nil {
		return 0, m.err
	}
	n, err := m.r.Read(p)
	if m.h != nil {
		m.h.Write(p[:n])
	}
	m.n += int64(n)
	if m.n > m.limit {
		m.err = m.over
		return 0, m.err
	}
	if err != nil && err != io.EOF {
		m.err = err
	}
	return n, err
}

// verify reads what is left and compares the digest of everything.
func (m *meter) verify(what string, id digest.Digest) error {
	if _, err := io.Copy(io.Discard, m); err != nil {
		return err
	}
	if m.h == nil {
		return nil
	}
	if got := digest.NewDigest(id.Algorithm(), m.h); got != id {
		return fmt.Errorf("%w: %s has digest %s, not %s", ErrMismatch, what, got, id)
	}
	return nil
}
