package ocisrc

import (
	"context"
	"errors"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/ociv2-sync/ociv2-sync/internal/registry"
)

// openRegistry opens the image that ref, what follows docker:, names.
func openRegistry(ctx context.Context, ref string, want ocispec.Platform, opts registry.Options) (*Image, error) {
	repo, err := registry.Open(ref, opts)
	if err != nil {
		return nil, err
	}
	desc, err := repo.Resolve(ctx)
	if err != nil {
		return nil, errors.Join(err, repo.Close())
	}
	l := &layout{blobs: repo, want: want}
	img, err := l.follow(ctx, desc)
	if err != nil {
		return nil, errors.Join(err, repo.Close())
	}
	img.close = repo.Close
	return img, nil
}
