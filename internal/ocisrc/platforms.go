package ocisrc

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/ociv2-sync/ociv2-sync/internal/registry"
	"github.com/ociv2-sync/ociv2-sync/translate"
)

// Platforms returns the platforms for which what ref names has images, in the order in
// which they are listed, each as Options.Platform takes it. An image alone that is not
// listed for any has "".
func Platforms(ctx context.Context, ref string, opts Options) ([]string, error) {
	list, err := platforms(ctx, ref, opts)
	if err == nil && len(list) > 1 && slices.Contains(list, "") {
		err = fmt.Errorf("%w: an image beside others is listed for no platform", translate.ErrMalformed)
	}
	if err == nil && len(list) == 0 {
		err = fmt.Errorf("%w: no image", ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("ocisrc: %s: %w", ref, err)
	}
	return list, nil
}

func platforms(ctx context.Context, ref string, opts Options) ([]string, error) {
	transport, rest, _ := strings.Cut(ref, ":")
	name, tag, _ := strings.Cut(rest, ":")
	switch transport {
	case "docker":
		repo, err := registry.Open(rest, opts.Registry)
		if err != nil {
			return nil, err
		}
		defer repo.Close()
		desc, err := repo.Resolve(ctx)
		if err != nil {
			return nil, err
		}
		return (&layout{blobs: repo}).platformsOf(ctx, desc)
	case "oci":
		root, err := os.OpenRoot(name)
		if err != nil {
			return nil, missing(err)
		}
		defer root.Close()
		return newLayoutOf(rootFS{root}).allPlatforms(ctx, tag)
	case "oci-archive":
		archive, err := openTar(ctx, name)
		if err != nil {
			return nil, missing(err)
		}
		defer archive.Close()
		return newLayoutOf(archive).allPlatforms(ctx, tag)
	}
	return []string{""}, nil
}

// allPlatforms returns the platforms of everything that is called tag.
func (l *layout) allPlatforms(ctx context.Context, tag string) ([]string, error) {
	found, err := l.find(tag)
	if err != nil {
		return nil, err
	}
	return l.platformsOf(ctx, found...)
}

// platformsOf returns the platforms of the images that descs lead to; those that state
// none have the name "".
func (l *layout) platformsOf(ctx context.Context, descs ...ocispec.Descriptor) (names []string, err error) {
	seen := map[digest.Digest]bool{}
	for _, d := range descs {
		if names, err = l.platforms(ctx, d, 0, seen, names); err != nil {
			return nil, err
		}
	}
	return names, nil
}

// platforms is platformsOf for one descriptor, which adds to names. An index that was
// seen is not read again: a few that list each other many times would never end.
func (l *layout) platforms(ctx context.Context, desc ocispec.Descriptor, nesting int, seen map[digest.Digest]bool, names []string) ([]string, error) {
	if desc.MediaType != ocispec.MediaTypeImageIndex && desc.MediaType != dockerManifestList {
		name := ""
		if desc.Platform != nil {
			name = translate.PlatformName(*desc.Platform)
		}
		// What is for no known platform is no image: attestations are listed so.
		if name != "unknown/unknown" && !slices.Contains(names, name) {
			names = append(names, name)
		}
		return names, nil
	}
	if nesting == maxNesting {
		return nil, fmt.Errorf("%w: more than %d nested indexes", translate.ErrMalformed, maxNesting)
	}
	if seen[desc.Digest] {
		return names, nil
	}
	seen[desc.Digest] = true
	var index ocispec.Index
	if _, err := l.document(ctx, "index", desc, &index); err != nil {
		return nil, err
	}
	for _, d := range index.Manifests {
		var err error
		if names, err = l.platforms(ctx, d, nesting+1, seen, names); err != nil {
			return nil, err
		}
	}
	return names, nil
}
