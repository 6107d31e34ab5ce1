package translate

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/ociv2-sync/ociv2-sync/toc"
)

// memImage is a Source in memory that counts how often each layer is opened.
type memImage struct {
	info   *ImageInfo
	blobs  [][]byte
	opened []int
}

func (m *memImage) Info() *ImageInfo { return m.info }

func (m *memImage) Open(_ context.Context, i int) (io.ReadCloser, error) {
	m.opened[i]++
	return io.NopCloser(bytes.NewReader(m.blobs[i])), nil
}

// stored is one layer as an image keeps it.
type stored struct {
	mediaType string
	blob, tar []byte
}

// newImage makes an image of layers that are all right.
func newImage(t testing.TB, layers ...stored) *memImage {
	t.Helper()
	m := &memImage{opened: make([]int, len(layers))}
	var diffIDs []digest.Digest
	var descs []Layer
	for _, l := range layers {
		m.blobs = append(m.blobs, l.blob)
		diffIDs = append(diffIDs, digest.FromBytes(l.tar))
		descs = append(descs, Layer{Digest: digest.FromBytes(l.blob), Size: int64(len(l.blob)), MediaType: l.mediaType})
	}
	config, err := json.Marshal(ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"}, RootFS: ocispec.RootFS{Type: "layers", DiffIDs: diffIDs}})
	if err != nil {
		t.Fatal(err)
	}
	if m.info, err = NewImageInfo(config, ocispec.MediaTypeImageConfig, "", descs); err != nil {
		t.Fatal(err)
	}
	return m
}

func plainLayer(raw []byte) stored { return stored{ocispec.MediaTypeImageLayer, raw, raw} }

func gzipLayer(t testing.TB, raw []byte) stored {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(raw); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return stored{ocispec.MediaTypeImageLayerGzip, b.Bytes(), raw}
}

func zstdLayer(t testing.TB, raw []byte) stored {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	return stored{ocispec.MediaTypeImageLayerZstd, w.EncodeAll(raw, nil), raw}
}

// item is one tar entry of a test's layer.
type item struct {
	h    tar.Header
	body string
}

var stamp = time.Unix(1_600_000_000, 123_456_789)

func file(name, body string) item {
	return item{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, ModTime: stamp}, body}
}

func dir(name string) item {
	return item{tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755, ModTime: stamp}, ""}
}

func symlink(name, target string) item {
	return item{tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, ModTime: stamp}, ""}
}

func link(name, target string) item {
	return item{tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target, ModTime: stamp}, ""}
}

// tarOf writes items in their order, as PAX where their Format does not say.
func tarOf(t testing.TB, items ...item) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, it := range items {
		h := it.h
		h.Size = int64(len(it.body))
		if h.Format == tar.FormatUnknown {
			h.Format = tar.FormatPAX
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			h = tar.Header{Typeflag: h.Typeflag, Name: h.Name, PAXRecords: h.PAXRecords}
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatalf("%s: %v", h.Name, err)
		}
		if _, err := io.WriteString(w, it.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// merge merges src, checks that the result is a valid TOC whose contents are
// what their digests say, and closes it.
func merge(t testing.TB, src Source) []toc.Node {
	t.Helper()
	s, err := Merge(t.Context(), src, MergeOptions{TempDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	if err := (&toc.TOC{Nodes: s.Nodes}).Validate(); err != nil {
		t.Fatal(err)
	}
	for i, n := range s.Nodes {
		if !n.IsRegular() || n.Size == 0 {
			continue
		}
		r, err := s.Open(t.Context(), i)
		if err != nil {
			t.Fatal(err)
		}
		if d, err := digest.FromReader(r); err != nil || d != digest.NewDigestFromBytes(digest.SHA256, n.Digest[:]) {
			t.Errorf("%s: content has digest %s, node says %x (%v)", toc.Path(s.Nodes, i), d, n.Digest, err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
	return s.Nodes
}

// sketch writes a tree as one line a node: path, what it is, and for a hard link
// its leader.
func sketch(nodes []toc.Node) string {
	var b strings.Builder
	for i := range nodes {
		n := &nodes[i]
		fmt.Fprintf(&b, "%s", toc.Path(nodes, i))
		switch {
		case n.Link >= 0:
			fmt.Fprintf(&b, " = %s", toc.Path(nodes, int(n.Link)))
		case n.IsDir():
			b.WriteString("/")
		case n.IsRegular():
			fmt.Fprintf(&b, " %d %x", n.Size, n.Digest[:2])
		case n.Type() == toc.TypeSymlink:
			fmt.Fprintf(&b, " -> %s", n.Target)
		default:
			fmt.Fprintf(&b, " %#o %d:%d", n.Mode, n.Major, n.Minor)
		}
		if n.Sec == 0 && i > 0 {
			b.WriteString(" (implied)")
		}
		b.WriteByte('\n')
	}
	return b.String()
}
