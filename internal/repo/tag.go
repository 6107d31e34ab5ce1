package repo

import (
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/ociv2-sync/ociv2-sync/translate"
)

const (
	// maxTag is the size of the largest TAG.json and index.json.
	maxTag = 16 << 20

	annotationSerial = "io.github.ociv2-sync.serial"
)

// tagFile is what TAG.json says: docs/format/repository.md, section 5.
type tagFile struct {
	// Manifest names the image's manifest, with its bytes in Data if TAG.json
	// embeds them.
	Manifest ocispec.Descriptor
	// Others are the other descriptors: the image's config, and kinds that this
	// version does not know.
	Others []ocispec.Descriptor
	Serial uint64
	Pushed time.Time
}

func (t *tagFile) encode() ([]byte, error) {
	index := ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageIndex,
		Manifests: append([]ocispec.Descriptor{t.Manifest}, t.Others...),
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
		return nil, malformed("%w", err)
	}
	if index.SchemaVersion != 2 || index.MediaType != ocispec.MediaTypeImageIndex {
		return nil, malformed("schemaVersion %d, media type %q", index.SchemaVersion, index.MediaType)
	}
	t := &tagFile{}
	found := false
	for _, d := range index.Manifests {
		if d.ArtifactType != translate.MediaTypeImage {
			t.Others = append(t.Others, d)
			continue
		}
		if found {
			return nil, malformed("more than one image")
		}
		found, t.Manifest = true, d
	}
	if !found {
		return nil, malformed("no image")
	}
	if t.Manifest.MediaType != ocispec.MediaTypeImageManifest {
		return nil, malformed("manifest of media type %q", t.Manifest.MediaType)
	}
	if err := translate.CheckDescriptor(t.Manifest, translate.MaxManifest); err != nil {
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

// embedded gives the bytes of the object d as far as TAG.json has them, not
// verified.
func (t *tagFile) embedded(d ocispec.Descriptor) ([]byte, bool) {
	for _, o := range append(t.Others, t.Manifest) {
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
