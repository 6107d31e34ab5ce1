package translate

import (
	"encoding/json"
	"fmt"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// LayerConfig returns the image config for an image whose only layer has the
// given diff_id: config with another rootfs.diff_ids and without its history,
// which tells of layers that are no more. The members of the result are in the order of their names;
// their values are those of config. A config that is no JSON object is an error
// wrapping ErrMalformed. docs/format/export.md, section 3.
func LayerConfig(config []byte, diffID digest.Digest) ([]byte, error) {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(config, &members); err != nil || members == nil {
		return nil, fmt.Errorf("translate: image config: %w: no JSON object: %w", ErrMalformed, err)
	}
	rootfs, err := json.Marshal(ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{diffID}})
	if err != nil {
		return nil, fmt.Errorf("translate: image config: %w", err)
	}
	members["rootfs"] = rootfs
	delete(members, "history")
	b, err := json.Marshal(members)
	if err != nil {
		return nil, fmt.Errorf("translate: image config: %w", err)
	}
	return b, nil
}

// LayerManifest returns the OCI manifest of an image of one layer.
func LayerManifest(config []byte, layer ocispec.Descriptor) ([]byte, error) {
	b, err := json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest,
		Config: ocispec.Descriptor{
			MediaType: ocispec.MediaTypeImageConfig, Digest: digest.FromBytes(config), Size: int64(len(config)),
		},
		Layers: []ocispec.Descriptor{layer},
	})
	if err != nil {
		return nil, fmt.Errorf("translate: manifest: %w", err)
	}
	return b, nil
}
