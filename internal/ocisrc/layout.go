package ocisrc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/ociv2-sync/ociv2-sync/translate"
)

// Docker's media types of what OCI has under its own.
const (
	dockerManifest     = "application/vnd.docker.distribution.manifest.v2+json"
	dockerManifestList = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerConfig       = "application/vnd.docker.container.image.v1+json"
)

const (
	// maxDocument bounds indexes, manifests and configs, as registries do.
	maxDocument = 4 << 20
	// maxNesting is how many indexes may lead to a manifest.
	maxNesting = 8
)

// layout reads one OCI layout, or, without fsys, a repository of a registry.
type layout struct {
	fsys  fs.FS
	blobs fetcher
	want  ocispec.Platform
}

// fetcher opens the objects of images, not verified.
type fetcher interface {
	Fetch(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error)
}

// blobs are the objects of a layout.
type blobs struct{ fs.FS }

// Fetch implements fetcher.
func (b blobs) Fetch(_ context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	if err := d.Digest.Validate(); err != nil {
		return nil, fmt.Errorf("%w: digest %q: %w", translate.ErrMalformed, d.Digest, err)
	}
	f, err := b.Open(path.Join(ocispec.ImageBlobsDir, d.Digest.Algorithm().String(), d.Digest.Encoded()))
	return f, missing(err)
}

func newLayoutOf(fsys fs.FS) *layout { return &layout{fsys: fsys, blobs: blobs{fsys}} }

// openLayout opens the image called tag in the layout fsys, and calls closer if
// it cannot.
func openLayout(ctx context.Context, fsys fs.FS, closer func() error, tag string, want ocispec.Platform) (*Image, error) {
	l := newLayoutOf(fsys)
	l.want = want
	img, err := l.image(ctx, tag)
	if err != nil {
		return nil, errors.Join(err, closer())
	}
	img.close = closer
	return img, nil
}

func (l *layout) image(ctx context.Context, tag string) (*Image, error) {
	found, err := l.find(tag)
	if err != nil {
		return nil, err
	}
	desc := found[0]
	if len(found) > 1 { // one name for the images of several platforms
		if desc, err = l.forPlatform(found); err != nil {
			return nil, err
		}
	}
	return l.follow(ctx, desc)
}

// find returns what the layout has under tag, at least one; without a tag there must be
// one image.
func (l *layout) find(tag string) ([]ocispec.Descriptor, error) {
	var marker ocispec.ImageLayout
	if err := readJSON(l.fsys, ocispec.ImageLayoutFile, &marker); err != nil {
		return nil, fmt.Errorf("not an OCI layout: %w", err)
	}
	if marker.Version != ocispec.ImageLayoutVersion {
		return nil, fmt.Errorf("%w: OCI layout of version %q", translate.ErrUnsupported, marker.Version)
	}
	var index ocispec.Index
	if err := readJSON(l.fsys, ocispec.ImageIndexFile, &index); err != nil {
		return nil, err
	}
	return named(index.Manifests, tag)
}

// follow opens the image that desc leads to.
func (l *layout) follow(ctx context.Context, desc ocispec.Descriptor) (*Image, error) {
	for range maxNesting {
		if desc.MediaType != ocispec.MediaTypeImageIndex && desc.MediaType != dockerManifestList {
			return l.manifest(ctx, desc)
		}
		var index ocispec.Index
		if _, err := l.document(ctx, "index", desc, &index); err != nil {
			return nil, err
		}
		var err error
		if desc, err = l.forPlatform(index.Manifests); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("%w: more than %d nested indexes", translate.ErrMalformed, maxNesting)
}

// named picks the descriptors called tag.
func named(descs []ocispec.Descriptor, tag string) ([]ocispec.Descriptor, error) {
	var found []ocispec.Descriptor
	var names []string
	for _, d := range descs {
		name := d.Annotations[ocispec.AnnotationRefName]
		names = append(names, fmt.Sprintf("%q", name))
		if tag == "" || name == tag || d.Digest.String() == tag {
			found = append(found, d)
		}
	}
	switch {
	case len(found) == 0 && tag == "":
		return nil, fmt.Errorf("%w: the layout holds no image", ErrNotFound)
	case len(found) == 0:
		return nil, fmt.Errorf("%w: no image %q, only %s", ErrNotFound, tag, strings.Join(names, ", "))
	case len(found) > 1 && tag == "":
		return nil, fmt.Errorf("%w: which of %s?", ErrReference, strings.Join(names, ", "))
	}
	return found, nil
}

// forPlatform picks the descriptor for the platform that is wanted.
func (l *layout) forPlatform(descs []ocispec.Descriptor) (ocispec.Descriptor, error) {
	var names []string
	for _, d := range descs {
		if d.Platform == nil {
			continue
		}
		if translate.MatchPlatform(l.want, *d.Platform) {
			return d, nil
		}
		names = append(names, translate.PlatformName(*d.Platform))
	}
	if len(names) == 0 && len(descs) == 1 {
		return descs[0], nil
	}
	return ocispec.Descriptor{}, fmt.Errorf("%w: nothing for platform %s, only for [%s]", ErrNotFound, translate.PlatformName(l.want), strings.Join(names, ", "))
}

// manifest opens the image whose manifest desc is.
func (l *layout) manifest(ctx context.Context, desc ocispec.Descriptor) (*Image, error) {
	if desc.MediaType != ocispec.MediaTypeImageManifest && desc.MediaType != dockerManifest {
		return nil, fmt.Errorf("%w: %s is of media type %q, no image manifest", translate.ErrUnsupported, desc.Digest, desc.MediaType)
	}
	var m ocispec.Manifest
	if _, err := l.document(ctx, "manifest", desc, &m); err != nil {
		return nil, err
	}
	if m.Config.MediaType != ocispec.MediaTypeImageConfig && m.Config.MediaType != dockerConfig {
		return nil, fmt.Errorf("%w: manifest %s has a config of media type %q, it is no image", translate.ErrUnsupported, desc.Digest, m.Config.MediaType)
	}
	config, err := l.document(ctx, "config", m.Config, &struct{}{})
	if err != nil {
		return nil, err
	}
	layers := make([]translate.Layer, len(m.Layers))
	for i, d := range m.Layers {
		layers[i] = translate.Layer{Digest: d.Digest, Size: d.Size, MediaType: d.MediaType}
	}
	info, err := translate.NewImageInfo(config, m.Config.MediaType, desc.Digest, layers)
	if err != nil {
		return nil, err
	}
	return &Image{
		info: info,
		open: func(ctx context.Context, i int) (io.ReadCloser, error) {
			return l.blobs.Fetch(ctx, m.Layers[i])
		},
	}, nil
}

// document reads the blob that desc describes, verifies it and decodes it into
// v. It returns the blob's bytes.
func (l *layout) document(ctx context.Context, what string, desc ocispec.Descriptor, v any) ([]byte, error) {
	b, err := l.blob(ctx, desc)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", what, desc.Digest, err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return nil, fmt.Errorf("%s %s: %w: %w", what, desc.Digest, translate.ErrMalformed, err)
	}
	return b, nil
}

func (l *layout) blob(ctx context.Context, desc ocispec.Descriptor) (b []byte, err error) {
	if desc.Size < 0 || desc.Size > maxDocument {
		return nil, fmt.Errorf("%w: %d bytes, more than %d", translate.ErrLimit, desc.Size, maxDocument)
	}
	if err := desc.Digest.Validate(); err != nil {
		return nil, fmt.Errorf("%w: digest %q: %w", translate.ErrMalformed, desc.Digest, err)
	}
	r, err := l.blobs.Fetch(ctx, desc)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	b, err = io.ReadAll(io.LimitReader(r, desc.Size+1))
	switch {
	case err != nil:
		return nil, err
	case int64(len(b)) != desc.Size:
		return nil, fmt.Errorf("%w: other than %d bytes", translate.ErrMismatch, desc.Size)
	}
	if got := desc.Digest.Algorithm().FromBytes(b); got != desc.Digest {
		return nil, fmt.Errorf("%w: it has digest %s", translate.ErrMismatch, got)
	}
	return b, nil
}

// readJSON decodes the file name of fsys into v.
func readJSON(fsys fs.FS, name string, v any) error {
	_, err := readDocument(fsys, name, v)
	return err
}

// readDocument is readJSON that returns the bytes of the file.
func readDocument(fsys fs.FS, name string, v any) (b []byte, err error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, missing(err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if b, err = io.ReadAll(io.LimitReader(f, maxDocument+1)); err != nil {
		return nil, err
	}
	if len(b) > maxDocument {
		return nil, fmt.Errorf("%s: %w: more than %d bytes", name, translate.ErrLimit, maxDocument)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return nil, fmt.Errorf("%s: %w: %w", name, translate.ErrMalformed, err)
	}
	return b, nil
}
