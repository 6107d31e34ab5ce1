package translate

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Media types of an image in a repository; docs/format/repository.md, section 3.
const (
	// MediaTypeImage is the artifactType of the image's manifest.
	MediaTypeImage = "application/vnd.ociv2-sync.image.v1"
	// MediaTypeTOC is a table of contents (docs/format/toc.md, section 4).
	MediaTypeTOC = "application/vnd.ociv2-sync.toc.v1+zstd"
	// MediaTypeCaidx is casync's index of a directory tree.
	MediaTypeCaidx = "application/vnd.ociv2-sync.caidx.v1"
	// MediaTypeCaibx is casync's index of a blob, here of the extra stream.
	MediaTypeCaibx = "application/vnd.ociv2-sync.caibx.v1"
	// MediaTypeSizes is the stored size of each chunk of an index.
	MediaTypeSizes = "application/vnd.ociv2-sync.sizes.v1+zstd"
	// MediaTypeSpans says where all chunks lie and what they take, without their
	// ids.
	MediaTypeSpans = "application/vnd.ociv2-sync.spans.v1+zstd"
)

// Annotations of an image's manifest; docs/format/repository.md, section 3.2.
const (
	annotationPrefix = "io.github.ociv2-sync."

	annotationTOCDigest  = annotationPrefix + "toc.digest"
	annotationTOCSize    = annotationPrefix + "toc.size"
	annotationCatarSize  = annotationPrefix + "catar.size"
	annotationCatarFlags = annotationPrefix + "catar.flags"
	annotationExtraSize  = annotationPrefix + "extra.size"
	annotationSource     = annotationPrefix + "source.digest"
	annotationStore      = annotationPrefix + "store"
)

// Limits of what a manifest may announce; docs/format/repository.md, section 3.3.
const (
	// MaxManifest is the size of the largest manifest, in bytes.
	MaxManifest = 4 << 20
	// maxConfig is the size of the largest image config, in bytes.
	maxConfig = 8 << 20
	// maxTOC is the length of the longest table of contents, in bytes,
	// compressed or not.
	maxTOC = 1 << 30
	// maxIndex is the size of the largest caidx, caibx and list of chunk sizes.
	maxIndex = 1 << 30
	// maxBytes bounds the catar and the extra stream together
	// (docs/format/projection.md, section 1).
	maxBytes = 1 << 62
)

// Manifest is what the manifest of an image in a repository says. It names its
// objects by digest and holds none of them.
type Manifest struct {
	// Config is the image's own config under its own media type.
	Config ocispec.Descriptor
	// TOC is the compressed table of contents; TOCDigest and TOCSize are of its
	// canonical bytes.
	TOC       ocispec.Descriptor
	TOCDigest digest.Digest
	TOCSize   int64
	// FeatureFlags are those of the catar and of its index.
	FeatureFlags uint64
	// Catar is the tree as a catar, Extra what that leaves out; nil if nothing.
	Catar Stream
	Extra *Stream
	// Spans says where the chunks of both lie, for readers that need few of
	// their ids; nil for an image pushed without.
	Spans *ocispec.Descriptor
	// Source names the manifest of the image that this one was made from; empty
	// when there is none.
	Source digest.Digest
	// Subject is the manifest in a registry that this one is attached to; nil in a
	// repository (docs/format/repository.md, section 9).
	Subject *ocispec.Descriptor
	// Store is where the chunks are: a URL reference, to be resolved against
	// the URL of the image's directory.
	Store string
}

// Stream is a sequence of bytes that lies in a repository in chunks.
type Stream struct {
	// Index is its caidx or caibx; Sizes the stored size of each of its chunks.
	Index, Sizes ocispec.Descriptor
	// Size is its length in bytes.
	Size uint64
}

// Blobs gives every object that the manifest names, in its order.
func (m *Manifest) Blobs() []ocispec.Descriptor {
	b := []ocispec.Descriptor{m.Config, m.TOC, m.Catar.Index, m.Catar.Sizes}
	if m.Extra != nil {
		b = append(b, m.Extra.Index, m.Extra.Sizes)
	}
	if m.Spans != nil {
		b = append(b, *m.Spans)
	}
	return b
}

// Encode gives the manifest's bytes: an OCI image manifest that is openly an
// artifact. The same m always has the same bytes. It fails when ParseManifest
// would refuse them.
func (m *Manifest) Encode() ([]byte, error) {
	annotations := map[string]string{
		annotationTOCDigest:  m.TOCDigest.String(),
		annotationTOCSize:    strconv.FormatInt(m.TOCSize, 10),
		annotationCatarSize:  strconv.FormatUint(m.Catar.Size, 10),
		annotationCatarFlags: fmt.Sprintf("%#x", m.FeatureFlags),
		annotationStore:      m.Store,
	}
	if m.Extra != nil {
		annotations[annotationExtraSize] = strconv.FormatUint(m.Extra.Size, 10)
	}
	if m.Source != "" {
		annotations[annotationSource] = m.Source.String()
	}
	b, err := json.Marshal(ocispec.Manifest{
		Versioned:    specs.Versioned{SchemaVersion: 2},
		MediaType:    ocispec.MediaTypeImageManifest,
		ArtifactType: MediaTypeImage,
		Config:       ocispec.DescriptorEmptyJSON,
		Layers:       m.Blobs(),
		Subject:      m.Subject,
		Annotations:  annotations,
	})
	if err != nil {
		return nil, fmt.Errorf("translate: manifest: %w", err)
	}
	if _, err := ParseManifest(b); err != nil {
		return nil, err
	}
	return b, nil
}

// ParseManifest reads a manifest and checks what docs/format/repository.md,
// section 3 demands; its errors wrap ErrMalformed, or ErrUnsupported for a
// manifest that is none of ours. Layers of unknown media types after the known
// ones, and unknown annotations, are ignored.
func ParseManifest(b []byte) (*Manifest, error) {
	m, err := parseManifest(b)
	if err != nil {
		return nil, fmt.Errorf("translate: manifest: %w", err)
	}
	return m, nil
}

func parseManifest(b []byte) (*Manifest, error) {
	if len(b) > MaxManifest {
		return nil, exceeded("size", MaxManifest)
	}
	var om ocispec.Manifest
	if err := json.Unmarshal(b, &om); err != nil {
		return nil, malformed("%w", err)
	}
	switch {
	case om.SchemaVersion != 2:
		return nil, malformed("schemaVersion %d", om.SchemaVersion)
	case om.MediaType != ocispec.MediaTypeImageManifest:
		return nil, malformed("media type %q", om.MediaType)
	case om.ArtifactType != MediaTypeImage:
		return nil, fmt.Errorf("%w: artifactType %q", ErrUnsupported, om.ArtifactType)
	case om.Config.MediaType != ocispec.MediaTypeEmptyJSON:
		return nil, malformed("config of media type %q", om.Config.MediaType)
	}
	m := &Manifest{Store: om.Annotations[annotationStore]}
	if s := om.Subject; s != nil {
		if err := CheckDescriptor(*s, MaxManifest); err != nil {
			return nil, fmt.Errorf("subject: %w", err)
		}
		m.Subject = &ocispec.Descriptor{MediaType: s.MediaType, Digest: s.Digest, Size: s.Size}
	}
	if err := m.layers(om.Layers); err != nil {
		return nil, err
	}
	if err := m.annotations(om.Annotations); err != nil {
		return nil, err
	}
	return m, nil
}

// layers takes the image's objects from the manifest's layers.
func (m *Manifest) layers(ls []ocispec.Descriptor) error {
	if len(ls) < 4 {
		return malformed("%d layers", len(ls))
	}
	for i, l := range ls {
		// Nothing else of a descriptor counts: not its URLs, not its data.
		ls[i] = ocispec.Descriptor{MediaType: l.MediaType, Digest: l.Digest, Size: l.Size}
	}
	m.Config, m.TOC = ls[0], ls[1]
	m.Catar.Index, m.Catar.Sizes = ls[2], ls[3]
	if m.Config.MediaType == "" || strings.HasPrefix(m.Config.MediaType, "application/vnd.ociv2-sync.") {
		return malformed("layer 0 of media type %q", m.Config.MediaType)
	}
	want := []string{m.Config.MediaType, MediaTypeTOC, MediaTypeCaidx, MediaTypeSizes}
	limits := []int64{maxConfig, maxTOC, maxIndex, maxIndex}
	if len(ls) > 4 && ls[4].MediaType == MediaTypeCaibx {
		if len(ls) < 6 {
			return malformed("%d layers", len(ls))
		}
		m.Extra = &Stream{Index: ls[4], Sizes: ls[5]}
		want = append(want, MediaTypeCaibx, MediaTypeSizes)
		limits = append(limits, maxIndex, maxIndex)
	}
	if n := len(want); len(ls) > n && ls[n].MediaType == MediaTypeSpans {
		m.Spans = &ls[n]
		want = append(want, MediaTypeSpans)
		limits = append(limits, maxIndex)
	}
	for i, mediaType := range want {
		l := ls[i]
		if l.MediaType != mediaType {
			return malformed("layer %d of media type %q, not %q", i, l.MediaType, mediaType)
		}
		if err := CheckDescriptor(l, limits[i]); err != nil {
			return fmt.Errorf("layer %d: %w", i, err)
		}
	}
	return nil
}

// CheckDescriptor checks that d names an object of at most limit bytes by its
// SHA-256.
func CheckDescriptor(d ocispec.Descriptor, limit int64) error {
	switch err := d.Digest.Validate(); {
	case err != nil:
		return malformed("digest %q: %w", d.Digest, err)
	case d.Digest.Algorithm() != digest.SHA256:
		return malformed("digest %q is no SHA-256", d.Digest)
	case d.Size < 0:
		return malformed("size %d", d.Size)
	case d.Size > limit:
		return exceeded("size of "+d.Digest.String(), limit)
	}
	return nil
}

// annotations takes what the manifest says of its objects.
func (m *Manifest) annotations(a map[string]string) error {
	var err error
	number := func(key string, base, bits int) uint64 {
		s, ok := a[key]
		// One spelling for each number.
		v, perr := strconv.ParseUint(strings.TrimPrefix(s, "0x"), base, bits)
		if err == nil && (!ok || perr != nil || s != format(v, base)) {
			err = malformed("annotation %s is %q", key, s)
		}
		return v
	}
	m.TOCSize = int64(number(annotationTOCSize, 10, 63))
	m.Catar.Size = number(annotationCatarSize, 10, 63)
	m.FeatureFlags = number(annotationCatarFlags, 16, 64)
	if m.Extra != nil {
		m.Extra.Size = number(annotationExtraSize, 10, 63)
	}
	if err != nil {
		return err
	}
	m.TOCDigest = digest.Digest(a[annotationTOCDigest])
	if err := CheckDescriptor(ocispec.Descriptor{Digest: m.TOCDigest}, 0); err != nil {
		return fmt.Errorf("annotation %s: %w", annotationTOCDigest, err)
	}
	total := m.Catar.Size
	if m.Extra != nil {
		total += m.Extra.Size
	}
	switch {
	case m.TOCSize > maxTOC:
		return exceeded("size of the table of contents", maxTOC)
	case total > maxBytes:
		return malformed("%d bytes of contents", total)
	case m.Extra != nil && m.Extra.Size == 0:
		return malformed("an extra stream without contents")
	case m.Extra == nil && a[annotationExtraSize] != "":
		return malformed("annotation %s without an extra stream", annotationExtraSize)
	case m.Store == "":
		return malformed("annotation %s is missing", annotationStore)
	}
	if s, ok := a[annotationSource]; ok {
		m.Source = digest.Digest(s)
		if err := m.Source.Validate(); err != nil {
			return malformed("annotation %s: %w", annotationSource, err)
		}
	}
	return nil
}

func format(v uint64, base int) string {
	if base == 16 {
		return fmt.Sprintf("%#x", v)
	}
	return strconv.FormatUint(v, base)
}
