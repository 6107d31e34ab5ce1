package transfer

import (
	"context"
	"errors"

	"github.com/ociv2-sync/ociv2-sync/internal/repo"
	"github.com/ociv2-sync/ociv2-sync/internal/stores"
	"github.com/ociv2-sync/ociv2-sync/store/httpstore"
)

// Catalog lists the images of the repository at a path or a URL.
func Catalog(ctx context.Context, where string, client *httpstore.Client) (_ []repo.Name, err error) {
	if stores.IsURL(where) {
		d, err := client.Dir(where)
		if err != nil {
			return nil, err
		}
		return repo.Catalog(ctx, d)
	}
	d, err := repo.OpenDir(where)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	return repo.Catalog(ctx, d)
}
