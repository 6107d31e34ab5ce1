package translate

import (
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Source is an OCI or Docker image whose layers can be read.
type Source interface {
	// Info describes the image. The caller must not change what it points to.
	Info() *ImageInfo
	// Open opens the stored bytes of layer i, compressed as its media type says
	// and not verified. Merge opens one layer at a time, each layer once; a
	// second time only when a content that looked hidden by an upper layer
	// turns out to be needed, which takes a hard link between layers.
	Open(ctx context.Context, i int) (io.ReadCloser, error)
}

// ImageInfo is what is known of an image before its layers are read.
type ImageInfo struct {
	// Config is the image's config, byte for byte, and ConfigMediaType its
	// media type.
	Config          []byte
	ConfigMediaType string
	// ManifestDigest names the image's manifest; empty where there is none
	// (docker-archive).
	ManifestDigest digest.Digest
	// Platform is the one that the config states.
	Platform ocispec.Platform
	// Layers are in the order in which they are applied, lowest first.
	Layers []Layer
}

// Layer describes one layer of an image.
type Layer struct {
	// Digest is of the stored bytes; empty if the source does not know it.
	Digest digest.Digest
	// Size is the number of stored bytes.
	Size int64
	// MediaType tells the compression.
	MediaType string
	// DiffID is the digest of the uncompressed layer; empty if nothing gives it.
	DiffID digest.Digest
	// Whole means that this is no layer but a filesystem, in which names that
	// begin with .wh. delete nothing.
	Whole bool
}

// NewImageInfo reads from an image config what Merge needs and ties it to the
// layers of the manifest, whose DiffID it fills in. A config that is not that
// of a layered image, or that counts other layers, is an error wrapping
// ErrMalformed.
func NewImageInfo(config []byte, mediaType string, manifest digest.Digest, layers []Layer) (*ImageInfo, error) {
	var c struct {
		ocispec.Platform
		RootFS ocispec.RootFS `json:"rootfs"`
	}
	if err := json.Unmarshal(config, &c); err != nil {
		return nil, fmt.Errorf("translate: image config: %w: %w", ErrMalformed, err)
	}
	if c.RootFS.Type != "layers" {
		return nil, fmt.Errorf("translate: image config: %w: rootfs.type is %q, not \"layers\"", ErrMalformed, c.RootFS.Type)
	}
	if len(c.RootFS.DiffIDs) != len(layers) {
		return nil, fmt.Errorf("translate: image config: %w: %d diff_ids for %d layers", ErrMalformed, len(c.RootFS.DiffIDs), len(layers))
	}
	info := &ImageInfo{
		Config: config, ConfigMediaType: mediaType, ManifestDigest: manifest,
		Platform: c.Platform, Layers: make([]Layer, len(layers)),
	}
	for i, l := range layers {
		l.DiffID = c.RootFS.DiffIDs[i]
		if err := l.DiffID.Validate(); err != nil {
			return nil, fmt.Errorf("translate: image config: %w: diff_id %d: %w", ErrMalformed, i, err)
		}
		if l.Digest != "" {
			if err := l.Digest.Validate(); err != nil {
				return nil, fmt.Errorf("translate: manifest: %w: digest of layer %d: %w", ErrMalformed, i, err)
			}
		}
		if l.Size < 0 {
			return nil, fmt.Errorf("translate: manifest: %w: layer %d has size %d", ErrMalformed, i, l.Size)
		}
		info.Layers[i] = l
	}
	return info, nil
}
