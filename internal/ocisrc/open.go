package ocisrc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/ociv2-sync/ociv2-sync/internal/registry"
	"github.com/ociv2-sync/ociv2-sync/translate"
)

var (
	// ErrReference says that a reference is malformed, names a kind of source
	// there is none of, or does not say which of several images is meant.
	ErrReference = registry.ErrReference
	// ErrNotFound says that there is no such image, or that a part of it is
	// not there.
	ErrNotFound = registry.ErrNotFound
)

// Options steer Open.
type Options struct {
	// Platform, as OS/ARCH or OS/ARCH/VARIANT, is the one wanted; an image that
	// is for another is an error. Empty means the machine's where an image
	// comes for several platforms, and any where it comes for one.
	Platform string
	// Registry is for images in registries.
	Registry registry.Options
	// Storage is the directory of podman's and buildah's storage, where a
	// reference names no other.
	Storage string
}

// Image is an open image. It implements translate.Source.
type Image struct {
	info *translate.ImageInfo
	open func(ctx context.Context, i int) (io.ReadCloser, error)
	// close frees what open needs.
	close func() error
}

// Info describes the image.
func (m *Image) Info() *translate.ImageInfo { return m.info }

// Open opens the stored bytes of layer i, not verified.
func (m *Image) Open(ctx context.Context, i int) (io.ReadCloser, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return m.open(ctx, i)
}

// Close frees the image; readers that Open returned must not be used any more.
func (m *Image) Close() error { return m.close() }

// Open opens the image that ref names, with the transport names and the meaning
// of containers-transports(5):
//
//	oci:DIR[:REF]              an OCI layout; REF is a name in its index
//	oci-archive:FILE[:REF]     the same in a tar
//	docker-archive:FILE[:REF]  from docker save; REF is NAME[:TAG] or @INDEX
//	docker://HOST/NAME[:TAG|@DIGEST]  an image in a registry
//	containers-storage:[[[DRIVER@]DIR]]NAME  an image of podman or buildah
//	tar:FILE                   the tar of a root filesystem, not of an image
//
// The first colon after the transport ends DIR or FILE. REF may be left out where
// there is only one image.
//
// Errors wrap ErrReference, ErrNotFound, registry.ErrNetwork, or one of translate's ErrMalformed,
// ErrMismatch and ErrUnsupported, where it is not the file system that fails.
func Open(ctx context.Context, ref string, opts Options) (*Image, error) {
	img, err := open(ctx, ref, opts)
	if err != nil {
		return nil, fmt.Errorf("ocisrc: %s: %w", ref, err)
	}
	return img, nil
}

func open(ctx context.Context, ref string, opts Options) (*Image, error) {
	want, err := platform(opts.Platform)
	if err != nil {
		return nil, err
	}
	var img *Image
	switch transport, rest, _ := strings.Cut(ref, ":"); transport {
	case "docker":
		img, err = openRegistry(ctx, rest, want, opts.Registry)
	case "containers-storage":
		img, err = openStorage(ctx, rest, opts.Storage)
	case "tar":
		img, err = openTarball(rest, opts.Platform)
	default:
		img, err = openFile(ctx, transport, rest, want)
	}
	if err != nil {
		return nil, err
	}
	return img.checked(want, opts)
}

// openFile opens an image in a layout or an archive.
func openFile(ctx context.Context, transport, ref string, want ocispec.Platform) (*Image, error) {
	name, tag, tagged := strings.Cut(ref, ":")
	if name == "" || tagged && tag == "" {
		return nil, fmt.Errorf("%w: want TRANSPORT:PATH[:REF]", ErrReference)
	}
	switch transport {
	case "oci":
		root, err := os.OpenRoot(name)
		if err != nil {
			return nil, missing(err)
		}
		return openLayout(ctx, rootFS{root}, root.Close, tag, want)
	case "oci-archive", "docker-archive":
		archive, err := openTar(ctx, name)
		if err != nil {
			return nil, missing(err)
		}
		if transport == "docker-archive" {
			return openDocker(archive, tag)
		}
		return openLayout(ctx, archive, archive.Close, tag, want)
	}
	return nil, fmt.Errorf("%w: no transport %q", ErrReference, transport)
}

// checked closes an image that is not for the platform that was asked for.
func (m *Image) checked(want ocispec.Platform, opts Options) (*Image, error) {
	if opts.Platform != "" && !translate.MatchPlatform(want, m.info.Platform) {
		return nil, errors.Join(fmt.Errorf("%w: the image is for %s, not %s", ErrNotFound, translate.PlatformName(m.info.Platform), opts.Platform), m.Close())
	}
	return m, nil
}

// rootFS gives the regular files of a directory, and nothing outside it.
type rootFS struct{ root *os.Root }

// Open opens without waiting: a FIFO in a layout must not stop us.
func (r rootFS) Open(name string) (fs.File, error) {
	f, err := r.root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = &fs.PathError{Op: "open", Path: name, Err: errors.New("not a regular file")}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// missing adds ErrNotFound to the error of a file that does not exist.
func missing(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%w: %w", ErrNotFound, err)
	}
	return err
}

// platform is translate.ParsePlatform with an error of this package.
func platform(s string) (ocispec.Platform, error) {
	p, err := translate.ParsePlatform(s)
	if err != nil {
		err = fmt.Errorf("%w: %w", ErrReference, err)
	}
	return p, err
}
