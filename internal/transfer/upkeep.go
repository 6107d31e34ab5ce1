package transfer

import (
	"context"
	"errors"
	"time"

	"github.com/ociv2-sync/ociv2-sync/internal/repo"
	"github.com/ociv2-sync/ociv2-sync/internal/stores"
)

// Collect removes from the repository at a path or a URL what the options say.
func Collect(ctx context.Context, where string, clients stores.Clients, opts repo.CollectOptions) (_ *repo.Collected, err error) {
	space, closer, err := clients.OpenSpace(where, false)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, closer.Close()) }()
	if !opts.DryRun {
		unlock, err := stores.LockTarget(ctx, space, repo.StoreName)
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, unlock()) }()
	}
	return repo.Collect(ctx, space, opts)
}

// Untag removes a tag from its repository.
func Untag(ctx context.Context, ref repo.Ref, clients stores.Clients) (err error) {
	space, closer, err := clients.OpenSpace(ref.Repo, false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closer.Close()) }()
	return repo.Remove(ctx, space, ref, time.Now)
}
