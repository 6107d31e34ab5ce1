package transfer

import (
	"context"
	"errors"

	"github.com/ociv2-sync/ociv2-sync/internal/repo"
	"github.com/ociv2-sync/ociv2-sync/internal/stores"
)

// Catalog lists the images of the repository at a path or a URL.
func Catalog(ctx context.Context, where string, clients stores.Clients) (_ []repo.Name, err error) {
	files, closer, err := clients.OpenRepo(where)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, closer.Close()) }()
	return repo.Catalog(ctx, files)
}
