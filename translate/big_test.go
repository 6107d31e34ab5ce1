package translate

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// generated is an image of one layer whose bytes are made as they are read.
type generated struct {
	info *ImageInfo
	r    *counter
}

func (g *generated) Info() *ImageInfo { return g.info }
func (g *generated) Open(context.Context, int) (io.ReadCloser, error) {
	return io.NopCloser(g.r), nil
}

// newGenerated is a layer whose bytes next appends to a buffer, until it appends none.
func newGenerated(mediaType string, next func(b *bytes.Buffer)) *generated {
	return &generated{
		info: &ImageInfo{Layers: []Layer{{MediaType: mediaType, Size: 1 << 50}}},
		r:    &counter{r: &generator{next: next}},
	}
}

type generator struct {
	b    bytes.Buffer
	next func(b *bytes.Buffer)
}

func (g *generator) Read(p []byte) (int, error) {
	if g.b.Len() == 0 {
		g.next(&g.b)
	}
	return g.b.Read(p)
}

// An archive of ten million entries is read as far as the limit and no further, and
// so is a name of any length, an attribute, or a content.
func TestMergeEndlessLayers(t *testing.T) {
	const entries = 10_000_000
	header := tarOf(t, item{tar.Header{Typeflag: tar.TypeReg, Name: "0123456789", Format: tar.FormatUSTAR}, ""})[:512]
	i := 0
	many := newGenerated(ocispec.MediaTypeImageLayer, func(b *bytes.Buffer) {
		if i == entries {
			b.Write(make([]byte, 1024))
			return
		}
		b.Write(header)
		copy(b.Bytes(), fmt.Sprintf("%010d", i))
		sum := 0
		for k, c := range b.Bytes() {
			if k >= 148 && k < 156 {
				c = ' '
			}
			sum += int(c)
		}
		copy(b.Bytes()[148:], fmt.Sprintf("%06o\x00 ", sum))
		i++
	})
	_, err := Merge(t.Context(), many, MergeOptions{TempDir: t.TempDir(), Limits: Limits{Entries: 50_000}})
	le, ok := errors.AsType[*LayerError](err)
	if !ok || !errors.Is(err, ErrLimit) || le.Entry != "0000050000" || many.r.n > 50_000*512+1<<20 {
		t.Errorf("after %d bytes: %v", many.r.n, err)
	}

	// A thousandth of this is on the wire.
	var head bytes.Buffer
	w := tar.NewWriter(&head)
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "bomb", Size: 1 << 40, Format: tar.FormatGNU}); err != nil {
		t.Fatal(err)
	}
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer enc.Close()
	zeros := enc.EncodeAll(make([]byte, 8<<20), nil)
	first := enc.EncodeAll(head.Bytes(), nil)
	started := false
	bomb := newGenerated(ocispec.MediaTypeImageLayerZstd, func(b *bytes.Buffer) {
		if b.Write(zeros); !started {
			b.Reset()
			b.Write(first)
		}
		started = true
	})
	dir := t.TempDir()
	if _, err := Merge(t.Context(), bomb, MergeOptions{TempDir: dir, Limits: Limits{Bytes: 64 << 20}}); !errors.Is(err, ErrLimit) || !strings.Contains(err.Error(), `entry "bomb"`) {
		t.Error(err)
	}
	// Padding that never ends, which no entry announces.
	padding := newGenerated(ocispec.MediaTypeImageLayerZstd, func(b *bytes.Buffer) { b.Write(zeros) })
	if _, err := Merge(t.Context(), padding, MergeOptions{TempDir: dir, Limits: Limits{Bytes: 64 << 20}}); !errors.Is(err, ErrLimit) || !strings.Contains(err.Error(), "uncompressed bytes above 67108864") {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// TestMergeEStargz merges a layer that the snapshotter's own library has made: each
// entry is a gzip member, and so is a table of contents, and the last one is empty and
// says where that table is. To whoever does not know of it, the table is a file.
func TestMergeEStargz(t *testing.T) {
	items := []item{dir("d"), file("d/f", strings.Repeat("content", 20_000)), link("d/l", "d/f"), symlink("s", "d"), file("d/.wh.gone", "")}
	raw := tarOf(t, items...)
	built, err := estargz.Build(io.NewSectionReader(bytes.NewReader(raw), 0, int64(len(raw))), estargz.WithChunkSize(10_000))
	if err != nil {
		t.Fatal(err)
	}
	defer built.Close()
	blob, err := io.ReadAll(built)
	if err != nil {
		t.Fatal(err)
	}
	r, err := gzip.NewReader(bytes.NewReader(blob))
	if err != nil {
		t.Fatal(err)
	}
	uncompressed, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if built.DiffID() != digest.FromBytes(uncompressed) {
		t.Fatal("the library gives another diff_id")
	}
	below := gzipLayer(t, tarOf(t, file("d/gone", "1")))
	var got strings.Builder
	for line := range strings.Lines(sketch(merge(t, newImage(t, below, stored{ocispec.MediaTypeImageLayerGzip, blob, uncompressed})))) {
		if name, _, _ := strings.Cut(line, " "); name != estargz.TOCTarName && name != estargz.NoPrefetchLandmark {
			got.WriteString(line)
		}
	}
	if w := sketch(merge(t, newImage(t, gzipLayer(t, raw)))); got.String() != w {
		t.Errorf("got\n%swant\n%s", got.String(), w)
	}
}
