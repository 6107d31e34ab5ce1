package repo

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/ociv2-sync/ociv2-sync/store"
	"github.com/ociv2-sync/ociv2-sync/translate"
)

const (
	// maxTag is the size of the largest TAG.json and index.json.
	maxTag = 16 << 20

	annotationSerial = "io.github.ociv2-sync.serial"
)

// tagFile is what TAG.json says: docs/format/repository.md, section 5.
type tagFile struct {
	// Images name the manifests of the tag's images, one for each platform, with
	// their bytes in Data if TAG.json embeds them.
	Images []ocispec.Descriptor
	// Others are the other descriptors: the images' configs, deltas, and kinds that
	// this version does not know.
	Others []ocispec.Descriptor
	Serial uint64
	Pushed time.Time
}

func (t *tagFile) encode() ([]byte, error) {
	index := ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageIndex,
		Manifests: append(t.Images[:len(t.Images):len(t.Images)], t.Others...),
		Annotations: map[string]string{
			annotationSerial:          strconv.FormatUint(t.Serial, 10),
			ocispec.AnnotationCreated: t.Pushed.UTC().Format(time.RFC3339),
		},
	}
	b, err := json.Marshal(index)
	if err != nil {
		return nil, fmt.Errorf("repo: encode tag: %w", err)
	}
	return b, nil
}

// parseTag reads TAG.json. What is embedded in it is not verified yet.
func parseTag(b []byte) (*tagFile, error) {
	var index ocispec.Index
	if err := json.Unmarshal(b, &index); err != nil {
		if bytes.HasPrefix(bytes.TrimSpace(b), []byte("<")) {
			return nil, malformed("it is a web page: does the network ask for a login, and is the URL that of a repository?")
		}
		return nil, malformed("%w", err)
	}
	if index.SchemaVersion != 2 || index.MediaType != ocispec.MediaTypeImageIndex {
		return nil, malformed("schemaVersion %d, media type %q", index.SchemaVersion, index.MediaType)
	}
	t := &tagFile{}
	for _, d := range index.Manifests {
		if d.ArtifactType != translate.MediaTypeImage {
			t.Others = append(t.Others, d)
			continue
		}
		if d.MediaType != ocispec.MediaTypeImageManifest {
			return nil, malformed("manifest of media type %q", d.MediaType)
		}
		if err := translate.CheckDescriptor(d, translate.MaxManifest); err != nil {
			return nil, err
		}
		t.Images = append(t.Images, d)
	}
	if err := t.checkPlatforms(); err != nil {
		return nil, err
	}
	var err error
	if t.Serial, err = strconv.ParseUint(index.Annotations[annotationSerial], 10, 63); err != nil {
		return nil, malformed("annotation %s is %q", annotationSerial, index.Annotations[annotationSerial])
	}
	if t.Pushed, err = time.Parse(time.RFC3339, index.Annotations[ocispec.AnnotationCreated]); err != nil {
		return nil, malformed("annotation %s is %q", ocispec.AnnotationCreated, index.Annotations[ocispec.AnnotationCreated])
	}
	return t, nil
}

// checkPlatforms refuses a tag without images, and several of which no platform picks
// one.
func (t *tagFile) checkPlatforms() error {
	if len(t.Images) == 0 {
		return malformed("no image")
	}
	seen := make(map[string]bool)
	for _, d := range t.Images {
		name := ""
		if d.Platform != nil {
			name = translate.PlatformName(*d.Platform)
		}
		if len(t.Images) > 1 && (name == "" || seen[name]) {
			return malformed("more than one image, of platform %q", name)
		}
		seen[name] = true
	}
	return nil
}

// image returns the image for a platform, OS/ARCH[/VARIANT]; "" is the machine's,
// where there are several, and any where there is one. The error wraps
// store.ErrNotFound if there is none.
func (t *tagFile) image(platform string) (ocispec.Descriptor, error) {
	if len(t.Images) == 1 && (platform == "" || t.Images[0].Platform == nil) {
		return t.Images[0], nil
	}
	want, err := translate.ParsePlatform(platform)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("%w: %w", ErrRef, err)
	}
	var names []string
	for _, d := range t.Images {
		if translate.MatchPlatform(want, *d.Platform) {
			return d, nil
		}
		names = append(names, translate.PlatformName(*d.Platform))
	}
	return ocispec.Descriptor{}, fmt.Errorf("%w: no image for %s, only for %s", store.ErrNotFound, translate.PlatformName(want), strings.Join(names, ", "))
}

// platforms are the names of the platforms that are known.
func (t *tagFile) platforms() (names []string) {
	for _, d := range t.Images {
		if d.Platform != nil {
			names = append(names, translate.PlatformName(*d.Platform))
		}
	}
	return names
}

// embedded gives the bytes of the object d as far as TAG.json has them, not
// verified.
func (t *tagFile) embedded(d ocispec.Descriptor) ([]byte, bool) {
	for _, o := range slices.Concat(t.Others, t.Images) {
		if o.Digest == d.Digest && o.Data != nil {
			return o.Data, true
		}
	}
	return nil, false
}

// checkBlob compares bytes with the descriptor that names them.
func checkBlob(d ocispec.Descriptor, b []byte) error {
	if int64(len(b)) != d.Size {
		return mismatch("%d bytes, not %d", len(b), d.Size)
	}
	if got := digest.FromBytes(b); got != d.Digest {
		return mismatch("digest %s, not %s", got, d.Digest)
	}
	return nil
}

// Blobs returns where the blobs are that whoever has nothing of the image needs of it,
// given TAG.json and, for where there are several images, a platform: the table of contents, the index of the catar and the sizes of its
// chunks, and where there is one those of the extra stream. The paths are relative to the
// directory of TAG.json. Nothing is verified.
func Blobs(tag []byte, platform string) ([]string, error) {
	t, err := parseTag(tag)
	if err != nil {
		return nil, err
	}
	d := t.Images[0]
	if len(t.Images) > 1 {
		if d, err = t.image(platform); err != nil {
			return nil, err
		}
	}
	b, ok := t.embedded(d)
	if !ok {
		return nil, fmt.Errorf("%w: the manifest is not embedded", store.ErrNotFound)
	}
	m, err := translate.ParseManifest(b)
	if err != nil {
		return nil, err
	}
	blobs := []ocispec.Descriptor{m.TOC, m.Catar.Index, m.Catar.Sizes}
	if m.Extra != nil {
		blobs = append(blobs, m.Extra.Index, m.Extra.Sizes)
	}
	paths := make([]string, len(blobs))
	for i, d := range blobs {
		paths[i] = blobPath(".", d.Digest)[2:]
	}
	return paths, nil
}
