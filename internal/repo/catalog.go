package repo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/ociv2-sync/ociv2-sync/store"
)

const (
	catalogName = "catalog.json"
	maxCatalog  = 64 << 20
)

// Name is an image name of a repository and its tags, sorted.
type Name struct {
	Name string   `json:"name"`
	Tags []string `json:"tags"`
}

// catalogFile is catalog.json: docs/format/repository.md, section 8.
type catalogFile struct {
	SchemaVersion int    `json:"schemaVersion"`
	Images        []Name `json:"images"`
}

// Catalog reads what images a repository has, sorted by name.
func Catalog(ctx context.Context, files Files) ([]Name, error) {
	b, err := files.ReadFile(ctx, catalogName, maxCatalog)
	if errors.Is(err, store.ErrNotFound) {
		return nil, fmt.Errorf("repo: %s: %w: %w", files, ErrNoRepository, err)
	}
	if err != nil {
		return nil, fmt.Errorf("repo: %w", err)
	}
	names, err := parseCatalog(b)
	if err != nil {
		return nil, objectError(files, catalogName, err)
	}
	return names, nil
}

func parseCatalog(b []byte) ([]Name, error) {
	var c catalogFile
	if err := json.Unmarshal(b, &c); err != nil {
		return nil, malformed("%w", err)
	}
	if c.SchemaVersion != 1 {
		return nil, malformed("schemaVersion %d", c.SchemaVersion)
	}
	last := ""
	for _, n := range c.Images {
		if err := checkName(n.Name); err != nil {
			return nil, malformed("%w", err)
		}
		if n.Name <= last {
			return nil, malformed("name %q after %q", n.Name, last)
		}
		last = n.Name
		lastTag := ""
		for _, t := range n.Tags {
			if err := checkTag(t); err != nil {
				return nil, malformed("%w", err)
			}
			if t <= lastTag {
				return nil, malformed("tag %q after %q", t, lastTag)
			}
			lastTag = t
		}
	}
	return c.Images, nil
}

// updateCatalog brings what catalog.json says of one name up to date. Where it
// is missing or wrong, it is made anew from the index.json of every name.
func (u *updater) updateCatalog(ctx context.Context, name string) error {
	return u.update(ctx, catalogName, maxCatalog, func(old []byte) ([]byte, error) {
		images, err := parseCatalog(old)
		if err != nil {
			return u.makeCatalog(ctx)
		}
		images = slices.DeleteFunc(images, func(n Name) bool { return n.Name == name })
		tags, err := listTags(ctx, u.space, name)
		if err != nil {
			return nil, err
		}
		if len(tags) > 0 {
			images = append(images, Name{Name: name, Tags: tags})
		}
		return encodeCatalog(images)
	})
}

// makeCatalog makes catalog.json from what is there.
func (u *updater) makeCatalog(ctx context.Context) ([]byte, error) {
	var images []Name
	err := walkNames(ctx, u.space, ".", func(name string) error {
		tags, err := listTags(ctx, u.space, name)
		if len(tags) > 0 {
			images = append(images, Name{Name: name, Tags: tags})
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return encodeCatalog(images)
}

func encodeCatalog(images []Name) ([]byte, error) {
	slices.SortFunc(images, func(a, b Name) int { return strings.Compare(a.Name, b.Name) })
	return json.Marshal(catalogFile{SchemaVersion: 1, Images: append([]Name{}, images...)})
}

// walkNames calls f with every directory that may be a name's, below dir.
func walkNames(ctx context.Context, s Space, dir string, f func(name string) error) error {
	for e, err := range s.List(ctx, dir, false) {
		if err != nil {
			return fmt.Errorf("repo: %w", err)
		}
		if !e.Dir || checkName(e.Path) != nil {
			continue // a chunk store, blobs, or none of ours
		}
		if err := f(e.Path); err != nil {
			return err
		}
		if err := walkNames(ctx, s, e.Path, f); err != nil {
			return err
		}
	}
	return nil
}

// listTags gives the tags of a name that are images of ours, sorted; none where
// there is no such name.
func listTags(ctx context.Context, s Space, name string) ([]string, error) {
	path := name + "/" + ocispec.ImageIndexFile
	b, err := s.ReadFile(ctx, path, maxTag)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("repo: %w", err)
	}
	index, err := parseLayoutIndex(b)
	if err != nil {
		return nil, objectError(s, path, err)
	}
	there := make(map[string]bool)
	for e, err := range s.List(ctx, name, false) {
		if err != nil {
			return nil, fmt.Errorf("repo: %w", err)
		}
		there[e.Path] = true
	}
	var tags []string
	for _, d := range index.Manifests {
		tag := d.Annotations[ocispec.AnnotationRefName]
		if checkTag(tag) == nil && there[name+"/"+tag+".json"] {
			tags = append(tags, tag)
		}
	}
	slices.Sort(tags)
	return slices.Compact(tags), nil
}
