package ocisrc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/ociv2-sync/ociv2-sync/translate"
)

// dockerImage is an element of manifest.json in an archive of docker save. Config
// and Layers are names in the archive: HEX.json and ID/layer.tar until Docker 24,
// blobs/sha256/HEX from 25 on.
type dockerImage struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// openDocker opens the image called tag in an archive of docker save, and closes
// the archive if it cannot.
func openDocker(archive *tarFS, tag string) (*Image, error) {
	img, err := dockerSource(archive, tag)
	if err != nil {
		return nil, errors.Join(err, archive.Close())
	}
	img.close = archive.Close
	return img, nil
}

func dockerSource(archive *tarFS, tag string) (*Image, error) {
	var images []dockerImage
	if err := readJSON(archive, "manifest.json", &images); err != nil {
		return nil, fmt.Errorf("not an archive of docker save: %w", err)
	}
	d, err := pickDocker(images, tag)
	if err != nil {
		return nil, err
	}
	config, err := dockerConfigOf(archive, d.Config)
	if err != nil {
		return nil, fmt.Errorf("config %s: %w", d.Config, err)
	}
	layers := make([]translate.Layer, len(d.Layers))
	for i, name := range d.Layers {
		if layers[i], err = dockerLayer(archive, name); err != nil {
			return nil, fmt.Errorf("layer %s: %w", name, err)
		}
	}
	info, err := translate.NewImageInfo(config, dockerConfig, "", layers)
	if err != nil {
		return nil, err
	}
	return &Image{
		info: info,
		open: func(_ context.Context, i int) (io.ReadCloser, error) {
			f, err := archive.Open(d.Layers[i])
			return f, missing(err)
		},
	}, nil
}

// pickDocker returns the image that tag means: NAME[:TAG], @INDEX, or the only one.
func pickDocker(images []dockerImage, tag string) (*dockerImage, error) {
	if tag == "" {
		switch len(images) {
		case 0:
			return nil, fmt.Errorf("%w: the archive holds no image", ErrNotFound)
		case 1:
			return &images[0], nil
		}
	}
	if index, ok := strings.CutPrefix(tag, "@"); ok {
		i, err := strconv.Atoi(index)
		if err != nil || i < 0 {
			return nil, fmt.Errorf("%w: no index %q", ErrReference, tag)
		}
		if i >= len(images) {
			return nil, fmt.Errorf("%w: no image %d of %d", ErrNotFound, i, len(images))
		}
		return &images[i], nil
	}
	var names []string
	for i := range images {
		for _, t := range images[i].RepoTags {
			if tag != "" && familiar(t) == familiar(tag) {
				return &images[i], nil
			}
			names = append(names, t)
		}
	}
	if tag == "" {
		return nil, fmt.Errorf("%w: which of %q?", ErrReference, names)
	}
	return nil, fmt.Errorf("%w: no image %q, only %q", ErrNotFound, tag, names)
}

// familiar is a docker reference without what docker adds by itself.
func familiar(ref string) string {
	ref = strings.TrimPrefix(strings.TrimPrefix(ref, "docker.io/"), "library/")
	if !strings.Contains(path.Base(ref), ":") {
		ref += ":latest"
	}
	return ref
}

// dockerConfigOf reads a config; its name is its digest, which is checked.
func dockerConfigOf(archive *tarFS, name string) ([]byte, error) {
	e, err := archive.entry(name)
	if err != nil {
		return nil, missing(err)
	}
	if e.size > maxDocument {
		return nil, fmt.Errorf("%w: %d bytes, more than %d", translate.ErrLimit, e.size, maxDocument)
	}
	b := make([]byte, e.size)
	if _, err := archive.f.ReadAt(b, e.off); err != nil {
		return nil, err
	}
	if id := namedDigest(strings.TrimSuffix(name, ".json")); id != "" && id != digest.FromBytes(b) {
		return nil, fmt.Errorf("%w: it has digest %s", translate.ErrMismatch, digest.FromBytes(b))
	}
	return b, nil
}

// dockerLayer describes a layer. Archives do not tell how layers are compressed.
func dockerLayer(archive *tarFS, name string) (translate.Layer, error) {
	e, err := archive.entry(name)
	if err != nil {
		return translate.Layer{}, missing(err)
	}
	var magic [4]byte
	n, err := archive.f.ReadAt(magic[:min(int64(len(magic)), e.size)], e.off)
	if err != nil {
		return translate.Layer{}, err
	}
	l := translate.Layer{Size: e.size}
	if l.MediaType, err = layerType(magic[:n]); err != nil {
		return l, err
	}
	if strings.HasPrefix(name, ocispec.ImageBlobsDir+"/") {
		l.Digest = namedDigest(name)
	}
	return l, nil
}

// namedDigest returns the SHA-256 that is the last part of name, if it is one.
func namedDigest(name string) digest.Digest {
	d := digest.NewDigestFromEncoded(digest.SHA256, path.Base(name))
	if d.Validate() != nil {
		return ""
	}
	return d
}

// layerType is the media type of a layer that begins with magic.
func layerType(magic []byte) (string, error) {
	switch c := sniff(magic); c {
	case "":
		return ocispec.MediaTypeImageLayer, nil
	case "gzip":
		return ocispec.MediaTypeImageLayerGzip, nil
	case "zstd":
		return ocispec.MediaTypeImageLayerZstd, nil
	default:
		return "", fmt.Errorf("%w: compressed with %s", translate.ErrUnsupported, c)
	}
}
