package repo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/ociv2-sync/ociv2-sync/internal/durable"
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
	// Deltas end at this image.
	Deltas []NewDelta
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

// Publish writes the objects of an image to the repository in the directory
// ref.Repo and makes ref.Name and ref.Tag stand for it: docs/format/repository.md,
// section 7. It waits for other pushes to the repository. Stopped at any moment
// it leaves the old image or the new one, and perhaps objects that nothing names.
func Publish(ctx context.Context, ref Ref, p Publication) (_ *Published, err error) {
	if ref.Remote() || ref.Tag == "" {
		return nil, fmt.Errorf("%w: %s: not a tag in a directory", ErrRef, ref)
	}
	objects, manifest, err := p.objects(ref.Name)
	if err != nil {
		return nil, err
	}
	w := writer{ref: ref, dir: filepath.Join(ref.Repo, filepath.FromSlash(ref.Name)), now: p.Now}
	if err := w.makeDirs(); err != nil {
		return nil, err
	}
	for _, b := range objects {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if err := w.writeBlob(b); err != nil {
			return nil, err
		}
	}
	l, err := takeLock(ctx, ref.Repo, p.Now)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, l.release()) }()
	done := &Published{Digest: digestOf(manifest), TOCDigest: digestOf(p.TOC)}
	for _, b := range objects {
		done.MetadataSize += int64(len(b))
	}
	if done.Serial, err = w.writeTag(ctx, l, manifest, p); err != nil {
		return nil, err
	}
	return done, writeCatalog(ref.Repo)
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
	ref Ref
	dir string // of the name
	now func() time.Time
}

// makeDirs makes the directories of the name, and sees them on the disk.
func (w *writer) makeDirs() error {
	dir := filepath.Join(w.dir, "blobs", "sha256")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("repo: %w", err)
	}
	for at := filepath.Dir(dir); ; at = filepath.Dir(at) {
		if err := durable.SyncDir(at); err != nil {
			return fmt.Errorf("repo: %s: %w", w.ref, err)
		}
		if at == filepath.Clean(w.ref.Repo) {
			return nil
		}
	}
}

func (w *writer) write(name string, b []byte) error {
	if err := durable.WriteFile(filepath.Join(w.dir, name), b, 0o644); err != nil {
		return fmt.Errorf("repo: %s: %w", w.ref, err)
	}
	return nil
}

// writeBlob writes b unless it is there already. One that is there and damaged
// is replaced.
func (w *writer) writeBlob(b []byte) error {
	name := filepath.FromSlash(blobPath(".", digestOf(b)))
	have, err := os.ReadFile(filepath.Join(w.dir, name))
	if err == nil && bytes.Equal(have, b) {
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("repo: %s: %w", w.ref, err)
	}
	return w.write(name, b)
}

// writeTag writes, in this order, what names the image: oci-layout, index.json,
// TAG.caidx and TAG.json.
func (w *writer) writeTag(ctx context.Context, l *lock, manifest []byte, p Publication) (serial uint64, err error) {
	d := ocispec.Descriptor{
		MediaType:    ocispec.MediaTypeImageManifest,
		Digest:       digestOf(manifest),
		Size:         int64(len(manifest)),
		ArtifactType: translate.MediaTypeImage,
	}
	if p.Info.Platform.OS != "" && p.Info.Platform.Architecture != "" {
		d.Platform = &p.Info.Platform
	}
	layout, err := json.Marshal(ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion})
	if err != nil {
		return 0, fmt.Errorf("repo: %w", err)
	}
	if err := w.write(ocispec.ImageLayoutFile, layout); err != nil {
		return 0, err
	}
	if err := w.writeIndex(d); err != nil {
		return 0, err
	}
	var index bytes.Buffer
	if _, err := p.Catar.Index.WriteTo(&index); err != nil {
		return 0, fmt.Errorf("repo: %w", err)
	}
	if err := w.write(w.ref.Tag+".caidx", index.Bytes()); err != nil {
		return 0, err
	}
	tag := tagFile{Manifest: d, Pushed: p.Now()}
	tag.Manifest.Data = manifest
	tag.Others = []ocispec.Descriptor{{
		MediaType: p.Info.ConfigMediaType,
		Digest:    digestOf(p.Info.Config),
		Size:      int64(len(p.Info.Config)),
		Data:      p.Info.Config,
	}}
	// The deltas of the same image, pushed before, still end here.
	if old, err := os.ReadFile(filepath.Join(w.dir, w.ref.Tag+".json")); err == nil {
		if before, err := parseTag(old); err == nil && before.Manifest.Digest == d.Digest {
			for _, o := range before.deltas() {
				tag.Others = append(tag.Others, o.descriptor())
			}
		}
	}
	if err := w.writeDeltas(&tag, p.Deltas); err != nil {
		return 0, err
	}
	if tag.Serial, err = w.nextSerial(tag.Pushed); err != nil {
		return 0, err
	}
	b, err := tag.encode()
	if err != nil {
		return 0, err
	}
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if !l.held() {
		return 0, fmt.Errorf("repo: %s: %w", w.ref, errLockLost)
	}
	return tag.Serial, w.write(w.ref.Tag+".json", b)
}

// writeIndex makes d the image of the tag in index.json, and keeps all else.
func (w *writer) writeIndex(d ocispec.Descriptor) error {
	return w.updateIndex(func(index *ocispec.Index) {
		index.Manifests = slices.DeleteFunc(index.Manifests, func(o ocispec.Descriptor) bool {
			return o.Annotations[ocispec.AnnotationRefName] == w.ref.Tag
		})
		d.Annotations = map[string]string{ocispec.AnnotationRefName: w.ref.Tag}
		index.Manifests = append(index.Manifests, d)
	})
}

// updateIndex changes index.json, which may not exist yet.
func (w *writer) updateIndex(change func(*ocispec.Index)) error {
	path := filepath.Join(w.dir, ocispec.ImageIndexFile)
	index := &ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	b, err := os.ReadFile(path)
	switch {
	case err == nil:
		if index, err = parseLayoutIndex(b); err != nil {
			return fmt.Errorf("repo: %s: %w", path, err)
		}
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("repo: %w", err)
	}
	change(index)
	if b, err = json.Marshal(index); err != nil {
		return fmt.Errorf("repo: %w", err)
	}
	return w.write(ocispec.ImageIndexFile, b)
}

func parseLayoutIndex(b []byte) (*ocispec.Index, error) {
	index := &ocispec.Index{}
	if err := json.Unmarshal(b, index); err != nil {
		return nil, malformed("%w", err)
	}
	if index.SchemaVersion != 2 {
		return nil, malformed("schemaVersion %d", index.SchemaVersion)
	}
	return index, nil
}

// nextSerial gives the serial of the push: more than the tag's last one, and no
// less than the time, so that it grows even when the tag was removed between.
func (w *writer) nextSerial(now time.Time) (uint64, error) {
	serial := uint64(max(now.Unix(), 1))
	b, err := os.ReadFile(filepath.Join(w.dir, w.ref.Tag+".json"))
	if errors.Is(err, fs.ErrNotExist) {
		return serial, nil
	}
	if err != nil {
		return 0, fmt.Errorf("repo: %w", err)
	}
	// A tag that is damaged is replaced; the time then decides.
	if last, err := parseTag(b); err == nil && last.Serial >= serial {
		serial = last.Serial + 1
	}
	return serial, nil
}
