package ocidest

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/ociv2-sync/ociv2-sync/internal/durable"
)

const tarBlock = 512

// checkArchive refuses a path at which no archive can be made.
func checkArchive(path string, replace bool) error {
	if err := durable.CheckFile(path, replace); err != nil {
		return err
	}
	if fi, err := os.Stat(filepath.Dir(path)); err != nil {
		return err
	} else if !fi.IsDir() {
		return fmt.Errorf("%w: %s is not a directory", durable.ErrOccupied, filepath.Dir(path))
	}
	return nil
}

// member is a file in an archive.
type member struct {
	name string
	data []byte
}

// writeArchive writes an archive whose first member is the image's layer; name
// gives its name, and others the members after it, both from what the layer came
// out as. The header of the layer is written when all that is known.
func writeArchive(ctx context.Context, path string, img Image, opts Options, name func(*layer) string, others func(*layer) ([]member, error)) (_ *layer, err error) {
	f, err := durable.Create(path, 0o644)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.Seek(tarBlock, io.SeekStart); err != nil {
		return nil, err
	}
	l, err := writeLayer(ctx, img, opts, f)
	if err != nil {
		return nil, err
	}
	rest, err := others(l)
	if err != nil {
		return nil, err
	}
	tail := bytes.NewBuffer(make([]byte, -l.Size&(tarBlock-1)))
	tw := tar.NewWriter(tail)
	for _, m := range rest {
		if err := tw.WriteHeader(memberHeader(m.name, int64(len(m.data)))); err != nil {
			return nil, err
		}
		if _, err := tw.Write(m.data); err != nil {
			return nil, err
		}
	}
	if err := tw.Close(); err != nil {
		return nil, err
	}
	if _, err := f.Write(tail.Bytes()); err != nil {
		return nil, err
	}
	var head bytes.Buffer
	if err := tar.NewWriter(&head).WriteHeader(memberHeader(name(l), l.Size)); err != nil {
		return nil, err
	}
	if head.Len() != tarBlock {
		return nil, fmt.Errorf("a header of %d bytes for %q", head.Len(), name(l))
	}
	if _, err := f.WriteAt(head.Bytes(), 0); err != nil {
		return nil, err
	}
	return l, f.Commit()
}

// memberHeader is one block long for every size: the GNU dialect has room for it.
func memberHeader(name string, size int64) *tar.Header {
	return &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644, Format: tar.FormatGNU}
}

// writeOCIArchive writes an OCI layout with one image as a tar.
func writeOCIArchive(ctx context.Context, path, ref string, img Image, opts Options) (*Written, error) {
	w := &Written{}
	blob := func(d digest.Digest) string { return blobsDir + "/" + d.Encoded() }
	l, err := writeArchive(ctx, path, img, opts, func(l *layer) string { return blob(l.Digest) }, func(l *layer) ([]member, error) {
		config, manifest, err := documents(img, l)
		if err != nil {
			return nil, err
		}
		entry := indexEntry(manifest, ref)
		w.Digest = entry.Digest
		index, err := json.Marshal(ocispec.Index{
			Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex,
			Manifests: []ocispec.Descriptor{entry},
		})
		return []member{
			{blob(digest.FromBytes(config)), config},
			{blob(w.Digest), manifest},
			{ocispec.ImageIndexFile, index},
			{ocispec.ImageLayoutFile, layoutMarker()},
		}, err
	})
	if err != nil {
		return nil, err
	}
	w.LayerSize, w.Omitted = l.Size, l.omitted
	return w, nil
}

// writeDockerArchive writes what docker load and podman load read.
func writeDockerArchive(ctx context.Context, path, ref string, img Image, opts Options) (*Written, error) {
	tag, err := dockerTag(ref)
	if err != nil {
		return nil, err
	}
	tags := []string{}
	if tag != "" {
		tags = append(tags, tag)
	}
	opts.Compression = none
	w := &Written{}
	name := func(l *layer) string { return l.Digest.Encoded() + ".tar" }
	l, err := writeArchive(ctx, path, img, opts, name, func(l *layer) ([]member, error) {
		config, _, err := documents(img, l)
		if err != nil {
			return nil, err
		}
		w.Digest = digest.FromBytes(config)
		type image struct {
			Config   string
			RepoTags []string
			Layers   []string
		}
		list, err := json.Marshal([]image{{w.Digest.Encoded() + ".json", tags, []string{name(l)}}})
		return []member{{w.Digest.Encoded() + ".json", config}, {"manifest.json", list}}, err
	})
	if err != nil {
		return nil, err
	}
	w.LayerSize, w.Omitted = l.Size, l.omitted
	return w, nil
}

// dockerTag returns the name of an image with its tag, as docker save writes it.
func dockerTag(ref string) (string, error) {
	if ref == "" {
		return "", nil
	}
	if !dockerTags.MatchString(ref) {
		return "", fmt.Errorf("%w: docker has no images called %q", ErrReference, ref)
	}
	if !strings.Contains(ref[strings.LastIndexByte(ref, '/')+1:], ":") {
		ref += ":latest"
	}
	return ref, nil
}
