package repo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/ociv2-sync/ociv2-sync/store"
)

// Remove removes a tag. What it alone needs stays until the next collection, and
// so do the tag's deltas. The error wraps store.ErrNotFound if there is no such
// tag.
func Remove(ctx context.Context, s Space, ref Ref, now func() time.Time) error {
	if ref.Tag == "" {
		return fmt.Errorf("%w: %s: not a tag", ErrRef, ref)
	}
	return updating(ctx, s, now, func(ctx context.Context, u *updater) error {
		b, _, err := u.load(ctx, ref.Name+"/"+ref.Tag+".json", maxTag)
		if err != nil {
			return err
		}
		if b == nil {
			return fmt.Errorf("repo: %s: %w", ref, store.ErrNotFound)
		}
		if err := u.dropTags(ctx, ref.Name, []string{ref.Tag}); err != nil {
			return err
		}
		return u.updateCatalog(ctx, ref.Name)
	})
}

// dropTags removes tags of a name: what readers begin with comes first. The
// deltas that end nowhere then are listed no more either.
func (u *updater) dropTags(ctx context.Context, name string, tags []string) error {
	for _, tag := range tags {
		files := []string{tag + ".json", tag + ".caidx"}
		b, _, err := u.load(ctx, name+"/"+tag+".json", maxTag)
		if err != nil {
			return err
		}
		// Of a tag that is damaged nothing more is known.
		if t, err := parseTag(b); err == nil {
			files = append(files, t.indexes(tag)...)
		}
		for _, file := range files {
			if err := u.space.Remove(ctx, name+"/"+file); err != nil {
				return fmt.Errorf("repo: %w", err)
			}
		}
	}
	live, err := u.liveDeltas(ctx, name)
	if err != nil {
		return err
	}
	return u.tidyIndex(ctx, name, tags, live)
}

// liveDeltas returns the deltas that the tags of a name list.
func (u *updater) liveDeltas(ctx context.Context, name string) (map[digest.Digest]bool, error) {
	live := make(map[digest.Digest]bool)
	tags, err := listTags(ctx, u.space, name)
	if err != nil {
		return nil, err
	}
	for _, tag := range tags {
		path := name + "/" + tag + ".json"
		b, err := u.space.ReadFile(ctx, path, maxTag)
		if err != nil {
			return nil, fmt.Errorf("repo: %w", err)
		}
		t, err := parseTag(b)
		if err != nil {
			return nil, objectError(u.space, path, err)
		}
		for _, o := range t.Others {
			live[o.Digest] = true
		}
	}
	return live, nil
}

// tidyIndex takes tags, and the manifests of deltas that are not live, out of the
// index.json of a name; a layout without an image goes.
func (u *updater) tidyIndex(ctx context.Context, name string, tags []string, live map[digest.Digest]bool) error {
	path := name + "/" + ocispec.ImageIndexFile
	if b, _, err := u.load(ctx, path, maxTag); err != nil || b == nil {
		return err
	}
	empty := false
	dead := make(map[digest.Digest]bool) // what was found out of deltas
	err := u.updateIndex(ctx, name, func(index *ocispec.Index) {
		index.Manifests = slices.DeleteFunc(index.Manifests, func(d ocispec.Descriptor) bool {
			if d.ArtifactType != MediaTypeDelta {
				return slices.Contains(tags, d.Annotations[ocispec.AnnotationRefName])
			}
			gone, known := dead[d.Digest]
			if !known {
				gone = !u.ofLiveDelta(ctx, name, d, live)
				dead[d.Digest] = gone
			}
			return gone
		})
		empty = len(index.Manifests) == 0
	})
	if err != nil || !empty {
		return err
	}
	for _, file := range []string{ocispec.ImageIndexFile, ocispec.ImageLayoutFile} {
		if err := u.space.Remove(ctx, name+"/"+file); err != nil {
			return fmt.Errorf("repo: %w", err)
		}
	}
	return nil
}

// ofLiveDelta reports whether d is the manifest of a delta that is live, or may
// be.
func (u *updater) ofLiveDelta(ctx context.Context, name string, d ocispec.Descriptor, live map[digest.Digest]bool) bool {
	m, err := readManifest(ctx, u.space, name, d)
	if err != nil {
		return !errors.Is(err, store.ErrNotFound)
	}
	return slices.ContainsFunc(m.Layers, func(l ocispec.Descriptor) bool { return live[l.Digest] })
}

// readManifest reads an OCI manifest or index that index.json lists.
func readManifest(ctx context.Context, s Space, name string, d ocispec.Descriptor) (*anyManifest, error) {
	if blobName(d.Digest) == "" {
		return nil, objectError(s, name, malformed("digest %q", d.Digest))
	}
	path := blobPath(name, d.Digest)
	b, err := s.ReadFile(ctx, path, maxTag)
	if err != nil {
		return nil, fmt.Errorf("repo: %w", err)
	}
	m := &anyManifest{}
	if err := errors.Join(checkBlob(d, b), json.Unmarshal(b, m)); err != nil {
		return nil, objectError(s, path, err)
	}
	return m, nil
}

// anyManifest is what manifests and indexes name.
type anyManifest struct {
	Config    *ocispec.Descriptor  `json:"config"`
	Layers    []ocispec.Descriptor `json:"layers"`
	Manifests []ocispec.Descriptor `json:"manifests"`
}
