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
// ref.Name and ref.Tag stand for it: docs/format/repository.md, section 7. Of several
// images the tag has one for each platform; what is returned is in their order. Publish
// waits for other pushes to the repository. Stopped at any moment it leaves the
// old image or the new one, and perhaps objects that nothing names. It is called
// within Reserve, as what puts the image's chunks there is.
func Publish(ctx context.Context, s Space, ref Ref, images ...Publication) ([]*Published, error) {
	if ref.Tag == "" || len(images) == 0 {
		return nil, fmt.Errorf("%w: %s: not a tag", ErrRef, ref)
	}
	now := images[0].Now
	w := writer{space: s, name: ref.Name, now: now}
	var done []*Published
	tagged := make([]taggedImage, len(images))
	for i, p := range images {
		objects, manifest, err := p.objects(ref.Name)
		if err != nil {
			return nil, err
		}
		d := &Published{Digest: digestOf(manifest), TOCDigest: digestOf(p.TOC)}
		for _, b := range objects {
			d.MetadataSize += int64(len(b))
		}
		done = append(done, d)
		t := &tagged[i]
		t.Publication = p
		t.manifest = ocispec.Descriptor{
			MediaType:    ocispec.MediaTypeImageManifest,
			Digest:       d.Digest,
			Size:         int64(len(manifest)),
			ArtifactType: translate.MediaTypeImage,
		}
		if p.Info.Platform.OS != "" && p.Info.Platform.Architecture != "" {
			t.manifest.Platform = &p.Info.Platform
		}
		if err := w.writeBlobs(ctx, objects...); err != nil {
			return nil, err
		}
		if t.deltas, err = w.writeDeltas(ctx, t.manifest, ends(p.Deltas, d.TOCDigest, len(images) > 1)); err != nil {
			return nil, err
		}
		t.manifest.Data = manifest
	}
	err := updating(ctx, s, now, func(ctx context.Context, u *updater) error {
		serial, err := w.writeTag(ctx, u, ref.Tag, tagged)
		if err != nil {
			return err
		}
		for _, d := range done {
			d.Serial = serial
		}
		return u.updateCatalog(ctx, ref.Name)
	})
	return done, err
}

// taggedImage is an image whose objects are in place.
type taggedImage struct {
	Publication
	manifest ocispec.Descriptor
	deltas   []madeDelta
}

// indexName is the name of the index of an image for casync and desync.
func indexName(tag string, d ocispec.Descriptor, several bool) string {
	if several {
		tag += "." + strings.ReplaceAll(translate.PlatformName(*d.Platform), "/", "-")
	}
	return tag + ".caidx"
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

// indexes are the names of the indexes of a tag's images for casync and desync.
func (t *tagFile) indexes(tag string) (names []string) {
	for _, d := range t.Images {
		names = append(names, indexName(tag, d, len(t.Images) > 1))
	}
	return names
}

// writeTag writes, in this order, what names the images: oci-layout, index.json,
// TAG.caidx, or one for each platform, and TAG.json. It returns the serial of the tag.
func (w *writer) writeTag(ctx context.Context, u *updater, name string, images []taggedImage) (serial uint64, err error) {
	layout, err := json.Marshal(ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion})
	if err != nil {
		return 0, fmt.Errorf("repo: %w", err)
	}
	if err := put(ctx, w.space, w.name+"/"+ocispec.ImageLayoutFile, layout); err != nil {
		return 0, err
	}
	// With another push to the same tag beside it, whoever is last writes all of
	// these files once more: they are of one push.
	err = again(ctx, func() error {
		path := w.name + "/" + name + ".json"
		old, version, err := u.load(ctx, path, maxTag)
		if err != nil {
			return err
		}
		before, err := parseTag(old)
		if err != nil {
			before = nil // a tag that is damaged is replaced; the time then decides
		}
		tag := newTag(images, before)
		if err := tag.checkPlatforms(); err != nil {
			return fmt.Errorf("repo: %s/%s: %w", w.name, name, err)
		}
		if err := w.updateIndex(ctx, u, name, images); err != nil {
			return err
		}
		if err := w.writeIndexes(ctx, name, images); err != nil {
			return err
		}
		serial = tag.Serial
		b, err := tag.encode()
		if err != nil {
			return err
		}
		if err := u.store(ctx, path, b, version); err != nil {
			return err
		}
		return w.removeIndexes(ctx, name, before, tag)
	})
	return serial, err
}

// newTag is the tag of images in place of what was before, which may be nil.
func newTag(images []taggedImage, before *tagFile) *tagFile {
	tag := &tagFile{Pushed: images[0].Now()}
	for i := range images {
		tag.Images = append(tag.Images, images[i].manifest)
	}
	for _, p := range images {
		tag.Others = append(tag.Others, ocispec.Descriptor{
			MediaType: p.Info.ConfigMediaType,
			Digest:    digestOf(p.Info.Config),
			Size:      int64(len(p.Info.Config)),
			Data:      p.Info.Config,
		})
		links := p.Links
		if before.has(p.manifest.Digest) {
			// The deltas of the same image, pushed before, still end here.
			to := digestOf(p.TOC)
			list, old := before.deltas(to)
			for _, o := range list {
				if len(images) > 1 {
					o.To = to
				}
				tag.Others = append(tag.Others, o.descriptor())
			}
			links = slices.Concat(old, links)
		}
		for _, o := range links {
			if !slices.ContainsFunc(tag.Others, func(d ocispec.Descriptor) bool { return d.Digest == o.Blob }) {
				tag.Others = append(tag.Others, o.descriptor())
			}
		}
		tag.add(p.deltas)
	}
	tag.Serial = before.nextSerial(tag.Pushed)
	return tag
}

// has reports whether an image of the tag t, which may be nil, has the manifest.
func (t *tagFile) has(manifest digest.Digest) bool {
	return t != nil && slices.ContainsFunc(t.Images, func(d ocispec.Descriptor) bool { return d.Digest == manifest })
}

// writeIndexes writes the indexes of the catars under plain names.
func (w *writer) writeIndexes(ctx context.Context, tag string, images []taggedImage) error {
	for _, p := range images {
		var index bytes.Buffer
		if _, err := p.Catar.Index.WriteTo(&index); err != nil {
			return fmt.Errorf("repo: %w", err)
		}
		if err := put(ctx, w.space, w.name+"/"+indexName(tag, p.manifest, len(images) > 1), index.Bytes()); err != nil {
			return err
		}
	}
	return nil
}

// removeIndexes removes the indexes of platforms that the tag has no longer.
func (w *writer) removeIndexes(ctx context.Context, name string, before, now *tagFile) error {
	if before == nil {
		return nil
	}
	kept := now.indexes(name)
	for _, index := range before.indexes(name) {
		if !slices.Contains(kept, index) {
			if err := w.space.Remove(ctx, w.name+"/"+index); err != nil {
				return fmt.Errorf("repo: %w", err)
			}
		}
	}
	return nil
}

// updateIndex makes the images those of the tag in index.json, with their deltas, and
// keeps all else.
func (w *writer) updateIndex(ctx context.Context, u *updater, tag string, images []taggedImage) error {
	return u.updateIndex(ctx, w.name, func(index *ocispec.Index) {
		index.Manifests = slices.DeleteFunc(index.Manifests, func(o ocispec.Descriptor) bool {
			return o.Annotations[ocispec.AnnotationRefName] == tag
		})
		for _, p := range images {
			d := p.manifest
			d.Data, d.Annotations = nil, map[string]string{ocispec.AnnotationRefName: tag}
			index.Manifests = append(index.Manifests, d)
			listDeltas(index, p.deltas)
		}
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
