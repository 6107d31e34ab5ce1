package repo

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/ociv2-sync/ociv2-sync/store"
	"github.com/ociv2-sync/ociv2-sync/translate"
)

// MediaTypeDelta is a delta (docs/format/delta.md), as the media type of the
// blob and as the artifactType of its manifest.
const MediaTypeDelta = "application/vnd.ociv2-sync.delta.v1"

const (
	annotationDeltaFrom = "io.github.ociv2-sync.delta.from"
	annotationDeltaTo   = "io.github.ociv2-sync.delta.to"
	annotationDeltaHead = "io.github.ociv2-sync.delta.head"
)

// Delta is a delta that ends at an image, or at an earlier one: a link of a
// chain that leads to it.
type Delta struct {
	// Blob is its digest, Size its length in bytes, Head that of its head.
	Blob       digest.Digest
	Size, Head int64
	// From is the digest of the table of contents that it starts from; empty if
	// it starts from nothing. To is that of the one that it ends at; empty for a
	// delta that ends at the image, else it is a link of a chain.
	From, To digest.Digest
}

// descriptor gives the delta as TAG.json lists it: docs/format/repository.md,
// section 5.1.
func (d Delta) descriptor() ocispec.Descriptor {
	a := map[string]string{annotationDeltaHead: strconv.FormatInt(d.Head, 10)}
	if d.From != "" {
		a[annotationDeltaFrom] = d.From.String()
	}
	if d.To != "" {
		a[annotationDeltaTo] = d.To.String()
	}
	return ocispec.Descriptor{MediaType: MediaTypeDelta, Digest: d.Blob, Size: d.Size, Annotations: a}
}

// deltas gives the deltas that a tag lists, those that end at its image with the
// given table of contents, and the links of chains.
func (t *tagFile) deltas(toc digest.Digest) (list, links []Delta) {
	for _, d := range t.all() {
		switch {
		case d.To == toc, d.To == "" && len(t.Images) == 1:
			d.To = ""
			list = append(list, d)
		case d.To != "" && d.From != "":
			links = append(links, d)
		}
	}
	return list, links
}

// all gives all deltas that a tag lists. One whose descriptor is wrong is of no use,
// and the image can be had without it.
func (t *tagFile) all() []Delta {
	isTOC := func(d digest.Digest) bool {
		return d == "" || translate.CheckDescriptor(ocispec.Descriptor{Digest: d}, 0) == nil
	}
	var list []Delta
	for _, o := range t.Others {
		if o.MediaType != MediaTypeDelta || translate.CheckDescriptor(o, maxBlobSize) != nil {
			continue
		}
		head, err := strconv.ParseInt(o.Annotations[annotationDeltaHead], 10, 64)
		from := digest.Digest(o.Annotations[annotationDeltaFrom])
		to := digest.Digest(o.Annotations[annotationDeltaTo])
		if err == nil && head >= 1 && head < o.Size && isTOC(from) && isTOC(to) {
			list = append(list, Delta{Blob: o.Digest, Size: o.Size, Head: head, From: from, To: to})
		}
	}
	return list
}

// maxBlobSize is the size of the largest delta.
const maxBlobSize = 1 << 50

// OpenDelta opens the bytes of a delta of the image from an offset below its
// size on. They are not verified.
func (im *Image) OpenDelta(ctx context.Context, d Delta, offset, size int64) (io.ReadCloser, error) {
	path := im.BlobPath(d.Blob)
	r, err := im.files.OpenAt(ctx, path, offset, size)
	if err != nil {
		return nil, objectError(im.files, path, err)
	}
	return r, nil
}

// NewDelta is a delta to be published, with its bytes.
type NewDelta struct {
	Delta
	Data io.ReaderAt
}

// AddDeltas lists deltas under a tag whose image, or one of them, still is the one
// with the given manifest and table of contents. A delta from where another one
// starts replaces that. It is called within Reserve.
func AddDeltas(ctx context.Context, s Space, ref Ref, manifest, to digest.Digest, deltas []NewDelta, now func() time.Time) error {
	w := writer{space: s, name: ref.Name, now: now}
	path := ref.Name + "/" + ref.Tag + ".json"
	return updating(ctx, s, now, func(ctx context.Context, u *updater) error {
		return again(ctx, func() error {
			b, version, err := u.load(ctx, path, maxTag)
			if err != nil {
				return err
			}
			if b == nil {
				return fmt.Errorf("repo: %s: %w", ref, store.ErrNotFound)
			}
			tag, err := parseTag(b)
			if err != nil {
				return objectError(s, path, err)
			}
			i := slices.IndexFunc(tag.Images, func(d ocispec.Descriptor) bool { return d.Digest == manifest })
			if i < 0 {
				return fmt.Errorf("repo: %s: %w: it has another image by now", ref, ErrMismatch)
			}
			made, err := w.writeDeltas(ctx, tag.Images[i], ends(deltas, to, len(tag.Images) > 1))
			if err != nil {
				return err
			}
			err = u.updateIndex(ctx, ref.Name, func(index *ocispec.Index) { listDeltas(index, made) })
			if err != nil {
				return err
			}
			tag.add(made)
			tag.Serial = tag.nextSerial(now())
			if b, err = tag.encode(); err != nil {
				return err
			}
			return u.store(ctx, path, b, version)
		})
	})
}

// ends gives deltas that say where they end if several images have the tag.
func ends(deltas []NewDelta, to digest.Digest, several bool) []NewDelta {
	if !several {
		return deltas
	}
	deltas = slices.Clone(deltas)
	for i := range deltas {
		deltas[i].To = to
	}
	return deltas
}

// madeDelta is a delta whose blob and manifest are in place: how TAG.json and
// how index.json list it.
type madeDelta struct{ blob, manifest ocispec.Descriptor }

// writeDeltas puts deltas that end at the image d into place, each with the
// manifest that tells OCI tools of it.
func (w *writer) writeDeltas(ctx context.Context, d ocispec.Descriptor, deltas []NewDelta) ([]madeDelta, error) {
	d.Data, d.Platform, d.Annotations = nil, nil, nil
	var made []madeDelta
	for _, delta := range deltas {
		if err := w.space.Put(ctx, blobPath(w.name, delta.Blob), delta.Data, delta.Size); err != nil {
			return nil, fmt.Errorf("repo: delta: %w", err)
		}
		desc := delta.descriptor()
		b, err := json.Marshal(ocispec.Manifest{
			Versioned:    specs.Versioned{SchemaVersion: 2},
			MediaType:    ocispec.MediaTypeImageManifest,
			ArtifactType: MediaTypeDelta,
			Config:       ocispec.DescriptorEmptyJSON,
			Layers:       []ocispec.Descriptor{desc},
			Subject:      &d,
		})
		if err != nil {
			return nil, fmt.Errorf("repo: delta: %w", err)
		}
		if err := w.writeBlob(ctx, b); err != nil {
			return nil, err
		}
		made = append(made, madeDelta{desc, ocispec.Descriptor{
			MediaType: ocispec.MediaTypeImageManifest, ArtifactType: MediaTypeDelta,
			Digest: digestOf(b), Size: int64(len(b)), Annotations: desc.Annotations,
		}})
	}
	return made, nil
}

// add lists deltas in the tag, each in place of one that starts at the same tree.
func (t *tagFile) add(deltas []madeDelta) {
	for _, d := range deltas {
		t.Others = slices.DeleteFunc(t.Others, func(o ocispec.Descriptor) bool {
			return o.MediaType == MediaTypeDelta && o.Annotations[annotationDeltaFrom] == d.blob.Annotations[annotationDeltaFrom] &&
				o.Annotations[annotationDeltaTo] == d.blob.Annotations[annotationDeltaTo]
		})
		t.Others = append(t.Others, d.blob)
	}
}

// listDeltas lists the manifests of deltas in an index.json.
func listDeltas(index *ocispec.Index, deltas []madeDelta) {
	for _, d := range deltas {
		index.Manifests = slices.DeleteFunc(index.Manifests, func(o ocispec.Descriptor) bool { return o.Digest == d.manifest.Digest })
		index.Manifests = append(index.Manifests, d.manifest)
	}
}
