package repo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/ociv2-sync/ociv2-sync/internal/durable"
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

// writeCatalog writes catalog.json of the repository in dir from what is there.
func writeCatalog(dir string) error {
	c := catalogFile{SchemaVersion: 1, Images: []Name{}}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() || path == dir {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if checkName(filepath.ToSlash(name)) != nil {
			return fs.SkipDir // a chunk store, blobs, or none of ours
		}
		tags, err := layoutTags(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		c.Images = append(c.Images, Name{Name: filepath.ToSlash(name), Tags: tags})
		return nil
	})
	if err != nil {
		return fmt.Errorf("repo: catalog: %w", err)
	}
	slices.SortFunc(c.Images, func(a, b Name) int { return strings.Compare(a.Name, b.Name) })
	b, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("repo: catalog: %w", err)
	}
	return durable.WriteFile(filepath.Join(dir, catalogName), b, 0o644)
}

// layoutTags gives the tags of the image layout in dir that are images of ours.
func layoutTags(dir string) ([]string, error) {
	b, err := os.ReadFile(filepath.Join(dir, ocispec.ImageIndexFile))
	if err != nil {
		return nil, err
	}
	index, err := parseLayoutIndex(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, ocispec.ImageIndexFile), err)
	}
	tags := []string{}
	for _, d := range index.Manifests {
		tag := d.Annotations[ocispec.AnnotationRefName]
		if checkTag(tag) != nil {
			continue
		}
		if _, err := os.Stat(filepath.Join(dir, tag+".json")); err == nil {
			tags = append(tags, tag)
		}
	}
	slices.Sort(tags)
	return slices.Compact(tags), nil
}
