package ocisrc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/ociv2-sync/ociv2-sync/translate"
)

// openTarball opens the tar of a root filesystem, plain or compressed with gzip or zstd, as an
// image of one layer, of which nothing but the archive itself is known.
func openTarball(name, want string) (*Image, error) {
	info, err := BareInfo(want)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a FIFO would have us wait
	if err != nil {
		return nil, missing(err)
	}
	l, err := describeTarball(f)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	info.Layers = []translate.Layer{l}
	return &Image{
		info: info,
		open: func(context.Context, int) (io.ReadCloser, error) {
			return io.NopCloser(io.NewSectionReader(f, 0, l.Size)), nil
		},
		close: f.Close,
	}, nil
}

func describeTarball(f *os.File) (translate.Layer, error) {
	l := translate.Layer{Whole: true}
	st, err := f.Stat()
	if err != nil {
		return l, err
	}
	if !st.Mode().IsRegular() {
		return l, fmt.Errorf("%w: not a regular file", ErrReference)
	}
	var magic [4]byte
	n, err := f.ReadAt(magic[:], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return l, err
	}
	l.Size = st.Size()
	l.MediaType, err = layerType(magic[:n])
	return l, err
}

// BareInfo is what is known of an image that is a filesystem and nothing else: a
// config that says what platform it is for, OS/ARCH[/VARIANT], the machine's if that
// is empty.
func BareInfo(want string) (*translate.ImageInfo, error) {
	p, err := platform(want)
	if err != nil {
		return nil, err
	}
	b, err := json.Marshal(ocispec.Image{Platform: p, RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{}}})
	if err != nil {
		return nil, err
	}
	return &translate.ImageInfo{Config: b, ConfigMediaType: ocispec.MediaTypeImageConfig, Platform: p}, nil
}
