package repo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/ociv2-sync/ociv2-sync/store"
	"github.com/ociv2-sync/ociv2-sync/toc"
	"github.com/ociv2-sync/ociv2-sync/translate"
)

// StoreName is the chunk store of a repository, a directory in it.
const StoreName = "default.castr"

// Publication is an image to be published. Its chunks are in the repository's
// store and on the disk.
type Publication struct {
	// Info is the image's config and what it was made from.
	Info *translate.ImageInfo
	// TOC is the canonical bytes of the table of contents.
	TOC []byte
	// Catar is the index of the catar with the stored size of each chunk; Extra
	// that of the extra stream, nil when that is empty.
	Catar Chunks
	Extra *Chunks
	// Deltas end at this image. Links, which are published already, lead to where
	// one of them starts.
	Deltas []NewDelta
	Links  []Delta
	// Now tells the time, for the tag's date and for the lock.
	Now func() time.Time
}

// Published says what Publish has written.
type Published struct {
	// Digest names the image's manifest.
	Digest digest.Digest
	// TOCDigest names its table of contents.
	TOCDigest digest.Digest
	// Serial is that of the tag.
	Serial uint64
	// MetadataSize is the size in bytes of the objects that the manifest names.
	MetadataSize int64
}

// Publish writes the objects of an image to the repository in s and makes
// ref.Name and ref.Tag stand for it: docs/format/repository.md, section 7. It
// waits for other pushes to the repository. Stopped at any moment it leaves the
// old image or the new one, and perhaps objects that nothing names. It is called
// within Reserve, as what puts the image's chunks there is.
func Publish(ctx context.Context, s Space, ref Ref, p Publication) (*Published, error) {
	if ref.Tag == "" {
		return nil, fmt.Errorf("%w: %s: not a tag", ErrRef, ref)
	}
	objects, manifest, err := p.objects(ref.Name)
	if err != nil {
		return nil, err
	}
	w := writer{space: s, name: ref.Name, now: p.Now}
	done := &Published{Digest: digestOf(manifest), TOCDigest: digestOf(p.TOC)}
	for _, b := range objects {
		done.MetadataSize += int64(len(b))
	}
	d := ocispec.Descriptor{
		MediaType:    ocispec.MediaTypeImageManifest,
		Digest:       done.Digest,
		Size:         int64(len(manifest)),
		ArtifactType: translate.MediaTypeImage,
	}
	if p.Info.Platform.OS != "" && p.Info.Platform.Architecture != "" {
		d.Platform = &p.Info.Platform
	}
	if err := w.writeBlobs(ctx, objects...); err != nil {
		return nil, err
	}
	deltas, err := w.writeDeltas(ctx, d, p.Deltas)
	if err != nil {
		return nil, err
	}
	return done, updating(ctx, s, p.Now, func(ctx context.Context, u *updater) error {
		if done.Serial, err = w.writeTag(ctx, u, ref.Tag, d, manifest, p, deltas); err != nil {
			return err
		}
		return u.updateCatalog(ctx, ref.Name)
	})
}

// objects gives the blobs of the image under name, the manifest as the last,
// and the manifest itself.
func (p *Publication) objects(name string) (blobs [][]byte, manifest []byte, err error) {
	m := &translate.Manifest{
		TOCDigest:    digestOf(p.TOC),
		TOCSize:      int64(len(p.TOC)),
		FeatureFlags: p.Catar.Index.FeatureFlags,
		Source:       p.Info.ManifestDigest,
		Store:        strings.Repeat("../", strings.Count(name, "/")+1) + StoreName + "/",
	}
	add := func(mediaType string, b []byte) ocispec.Descriptor {
		blobs = append(blobs, b)
		return ocispec.Descriptor{MediaType: mediaType, Digest: digestOf(b), Size: int64(len(b))}
	}
	stream := func(mediaType string, c Chunks) (translate.Stream, error) {
		var index bytes.Buffer
		if _, err := c.Index.WriteTo(&index); err != nil {
			return translate.Stream{}, fmt.Errorf("repo: %w", err)
		}
		sizes, err := encodeSizes(c.Index, c.Sizes)
		return translate.Stream{
			Index: add(mediaType, index.Bytes()),
			Sizes: add(translate.MediaTypeSizes, sizes),
			Size:  c.Index.Size(),
		}, err
	}
	packed, err := toc.Compress(p.TOC)
	if err != nil {
		return nil, nil, err
	}
	m.Config = add(p.Info.ConfigMediaType, p.Info.Config)
	m.TOC = add(translate.MediaTypeTOC, packed)
	if m.Catar, err = stream(translate.MediaTypeCaidx, p.Catar); err != nil {
		return nil, nil, err
	}
	if p.Extra != nil {
		s, err := stream(translate.MediaTypeCaibx, *p.Extra)
		if err != nil {
			return nil, nil, err
		}
		m.Extra = &s
	}
	spans, err := encodeSpans(p.Catar, p.Extra)
	if err != nil {
		return nil, nil, err
	}
	if spans != nil {
		d := add(translate.MediaTypeSpans, spans)
		m.Spans = &d
	}
	if _, err := parseTree(p.TOC, m); err != nil {
		return nil, nil, fmt.Errorf("repo: table of contents: %w", err)
	}
	if manifest, err = m.Encode(); err != nil {
		return nil, nil, err
	}
	return append(blobs, ocispec.DescriptorEmptyJSON.Data, manifest), manifest, nil
}

// writer writes the files of one image name.
type writer struct {
	space Space
	name  string
	now   func() time.Time
}

// blobsAtOnce is how many blobs are written at a time.
const blobsAtOnce = 8

// writeBlobs writes blobs, the last one when the others are there: it names them.
func (w *writer) writeBlobs(ctx context.Context, blobs ...[]byte) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(blobsAtOnce)
	for _, b := range blobs[:len(blobs)-1] {
		g.Go(func() error { return w.writeBlob(gctx, b) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return w.writeBlob(ctx, blobs[len(blobs)-1])
}

// writeBlob writes b unless it is there already. One that is there and damaged
// is replaced.
func (w *writer) writeBlob(ctx context.Context, b []byte) error {
	path := blobPath(w.name, digestOf(b))
	have, err := w.space.ReadFile(ctx, path, int64(len(b)))
	switch {
	case err == nil && bytes.Equal(have, b):
		return nil
	case err == nil, errors.Is(err, store.ErrNotFound), errors.Is(err, store.ErrTooLarge):
		return put(ctx, w.space, path, b)
	}
	return fmt.Errorf("repo: %w", err)
}

// writeTag writes, in this order, what names the image d: oci-layout,
// index.json, TAG.caidx and TAG.json. It returns the serial of the tag.
func (w *writer) writeTag(ctx context.Context, u *updater, name string, d ocispec.Descriptor, manifest []byte, p Publication, deltas []madeDelta) (serial uint64, err error) {
	layout, err := json.Marshal(ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion})
	if err != nil {
		return 0, fmt.Errorf("repo: %w", err)
	}
	if err := put(ctx, w.space, w.name+"/"+ocispec.ImageLayoutFile, layout); err != nil {
		return 0, err
	}
	var index bytes.Buffer
	if _, err := p.Catar.Index.WriteTo(&index); err != nil {
		return 0, fmt.Errorf("repo: %w", err)
	}
	// With another push to the same tag beside it, whoever is last writes all of
	// these files once more: they are of one image.
	err = again(ctx, func() error {
		path := w.name + "/" + name + ".json"
		old, version, err := u.load(ctx, path, maxTag)
		if err != nil {
			return err
		}
		if err := w.updateIndex(ctx, u, name, d, deltas); err != nil {
			return err
		}
		if err := put(ctx, w.space, w.name+"/"+name+".caidx", index.Bytes()); err != nil {
			return err
		}
		tag := tagFile{Manifest: d, Pushed: p.Now()}
		tag.Manifest.Data = manifest
		tag.Others = []ocispec.Descriptor{{
			MediaType: p.Info.ConfigMediaType,
			Digest:    digestOf(p.Info.Config),
			Size:      int64(len(p.Info.Config)),
			Data:      p.Info.Config,
		}}
		before, err := parseTag(old)
		if err != nil {
			before = nil // a tag that is damaged is replaced; the time then decides
		}
		if before != nil && before.Manifest.Digest == d.Digest {
			// The deltas of the same image, pushed before, still end here.
			for _, o := range before.all() {
				tag.Others = append(tag.Others, o.descriptor())
			}
		}
		for _, o := range p.Links {
			tag.Others = append(tag.Others, o.descriptor())
		}
		tag.add(deltas)
		tag.Serial = before.nextSerial(tag.Pushed)
		serial = tag.Serial
		b, err := tag.encode()
		if err != nil {
			return err
		}
		return u.store(ctx, path, b, version)
	})
	return serial, err
}

// updateIndex makes d the image of the tag in index.json, with its deltas, and
// keeps all else.
func (w *writer) updateIndex(ctx context.Context, u *updater, tag string, d ocispec.Descriptor, deltas []madeDelta) error {
	return u.updateIndex(ctx, w.name, func(index *ocispec.Index) {
		index.Manifests = slices.DeleteFunc(index.Manifests, func(o ocispec.Descriptor) bool {
			return o.Annotations[ocispec.AnnotationRefName] == tag
		})
		d.Annotations = map[string]string{ocispec.AnnotationRefName: tag}
		index.Manifests = append(index.Manifests, d)
		listDeltas(index, deltas)
	})
}

// nextSerial gives the serial of a push at the given time over the tag t, which
// may be nil: more than the tag's last one, and no less than the time, so that
// it grows even when the tag was removed between.
func (t *tagFile) nextSerial(now time.Time) uint64 {
	serial := uint64(max(now.Unix(), 1))
	if t != nil && t.Serial >= serial {
		serial = t.Serial + 1
	}
	return serial
}
