package repo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/ociv2-sync/ociv2-sync/internal/durable"
	"github.com/ociv2-sync/ociv2-sync/translate"
)

// MediaTypeDelta is a delta (docs/format/delta.md), as the media type of the
// blob and as the artifactType of its manifest.
const MediaTypeDelta = "application/vnd.ociv2-sync.delta.v1"

const (
	annotationDeltaFrom = "io.github.ociv2-sync.delta.from"
	annotationDeltaHead = "io.github.ociv2-sync.delta.head"
)

// Delta is a delta that ends at an image.
type Delta struct {
	// Blob is its digest, Size its length in bytes, Head that of its head.
	Blob       digest.Digest
	Size, Head int64
	// From is the digest of the table of contents that it starts from; empty if
	// it starts from nothing.
	From digest.Digest
}

// descriptor gives the delta as TAG.json lists it: docs/format/repository.md,
// section 5.1.
func (d Delta) descriptor() ocispec.Descriptor {
	a := map[string]string{annotationDeltaHead: strconv.FormatInt(d.Head, 10)}
	if d.From != "" {
		a[annotationDeltaFrom] = d.From.String()
	}
	return ocispec.Descriptor{MediaType: MediaTypeDelta, Digest: d.Blob, Size: d.Size, Annotations: a}
}

// deltas gives the deltas that a tag lists. One whose descriptor is wrong is of
// no use, and the image can be had without it.
func (t *tagFile) deltas() []Delta {
	var list []Delta
	for _, o := range t.Others {
		if o.MediaType != MediaTypeDelta || translate.CheckDescriptor(o, maxBlobSize) != nil {
			continue
		}
		head, err := strconv.ParseInt(o.Annotations[annotationDeltaHead], 10, 64)
		from := digest.Digest(o.Annotations[annotationDeltaFrom])
		if err != nil || head < 1 || head >= o.Size ||
			from != "" && translate.CheckDescriptor(ocispec.Descriptor{Digest: from}, 0) != nil {
			continue
		}
		list = append(list, Delta{Blob: o.Digest, Size: o.Size, Head: head, From: from})
	}
	return list
}

// maxBlobSize is the size of the largest delta.
const maxBlobSize = 1 << 50

// OpenDelta opens the bytes of a delta of the image from an offset below its
// size on. They are not verified.
func (im *Image) OpenDelta(ctx context.Context, d Delta, offset, size int64) (io.ReadCloser, error) {
	path := im.blobPath(d.Blob)
	r, err := im.files.OpenAt(ctx, path, offset, size)
	if err != nil {
		return nil, objectError(im.files, path, err)
	}
	return r, nil
}

// NewDelta is a delta to be published, with its bytes.
type NewDelta struct {
	Delta
	Data io.Reader
}

// AddDeltas lists deltas under a tag whose image still is the one with the
// given manifest. A delta from where another one starts replaces that.
func AddDeltas(ctx context.Context, ref Ref, manifest digest.Digest, deltas []NewDelta, now func() time.Time) (err error) {
	w := writer{ref: ref, dir: filepath.Join(ref.Repo, filepath.FromSlash(ref.Name)), now: now}
	l, err := takeLock(ctx, ref.Repo, now)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.release()) }()
	path := filepath.Join(w.dir, ref.Tag+".json")
	b, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("repo: %w", err)
	}
	tag, err := parseTag(b)
	if err != nil {
		return fmt.Errorf("repo: %s: %w", path, err)
	}
	if tag.Manifest.Digest != manifest {
		return fmt.Errorf("repo: %s: %w: it has another image by now", ref, ErrMismatch)
	}
	if err := w.writeDeltas(tag, deltas); err != nil {
		return err
	}
	if tag.Serial, err = w.nextSerial(now()); err != nil {
		return err
	}
	if b, err = tag.encode(); err != nil {
		return err
	}
	if !l.held() {
		return fmt.Errorf("repo: %s: %w", ref, errLockLost)
	}
	return w.write(ref.Tag+".json", b)
}

// writeDeltas puts deltas into place, tells OCI tools of them in index.json, and
// lists them in tag.
func (w *writer) writeDeltas(tag *tagFile, deltas []NewDelta) error {
	var manifests []ocispec.Descriptor
	for _, d := range deltas {
		if err := w.copyBlob(d); err != nil {
			return fmt.Errorf("repo: %s: %w", w.ref, err)
		}
		desc := d.descriptor()
		subject := tag.Manifest
		subject.Data, subject.Platform, subject.Annotations = nil, nil, nil
		b, err := json.Marshal(ocispec.Manifest{
			Versioned:    specs.Versioned{SchemaVersion: 2},
			MediaType:    ocispec.MediaTypeImageManifest,
			ArtifactType: MediaTypeDelta,
			Config:       ocispec.DescriptorEmptyJSON,
			Layers:       []ocispec.Descriptor{desc},
			Subject:      &subject,
		})
		if err != nil {
			return fmt.Errorf("repo: delta: %w", err)
		}
		if err := w.writeBlob(b); err != nil {
			return err
		}
		manifests = append(manifests, ocispec.Descriptor{
			MediaType: ocispec.MediaTypeImageManifest, ArtifactType: MediaTypeDelta,
			Digest: digestOf(b), Size: int64(len(b)), Annotations: desc.Annotations,
		})
		tag.Others = slices.DeleteFunc(tag.Others, func(o ocispec.Descriptor) bool {
			return o.MediaType == MediaTypeDelta && o.Annotations[annotationDeltaFrom] == desc.Annotations[annotationDeltaFrom]
		})
		tag.Others = append(tag.Others, desc)
	}
	if len(manifests) == 0 {
		return nil
	}
	return w.updateIndex(func(index *ocispec.Index) {
		for _, m := range manifests {
			index.Manifests = slices.DeleteFunc(index.Manifests, func(o ocispec.Descriptor) bool { return o.Digest == m.Digest })
			index.Manifests = append(index.Manifests, m)
		}
	})
}

// copyBlob writes the bytes of a delta.
func (w *writer) copyBlob(d NewDelta) (err error) {
	f, err := durable.Create(filepath.Join(w.dir, filepath.FromSlash(blobPath(".", d.Blob))), 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := io.Copy(f, d.Data); err != nil {
		return err
	}
	return f.Commit()
}
