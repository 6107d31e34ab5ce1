package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/ociv2-sync/ociv2-sync/delta"
	"github.com/ociv2-sync/ociv2-sync/internal/assemble"
	"github.com/ociv2-sync/ociv2-sync/internal/durable"
	"github.com/ociv2-sync/ociv2-sync/internal/repo"
	"github.com/ociv2-sync/ociv2-sync/internal/root"
	"github.com/ociv2-sync/ociv2-sync/internal/stores"
	"github.com/ociv2-sync/ociv2-sync/internal/tree"
	"github.com/ociv2-sync/ociv2-sync/seed"
	"github.com/ociv2-sync/ociv2-sync/toc"
)

// Deltas lists the deltas that end at an image.
func Deltas(ctx context.Context, ref repo.Ref, clients stores.Clients) ([]repo.Delta, error) {
	im, c, err := openImage(ctx, ref, clients)
	if err != nil {
		return nil, err
	}
	return im.Deltas, c.Close()
}

// DeltaApply makes in opts.Dest the filesystem at which the delta in a file ends,
// from the delta, the root and the seeds alone.
func DeltaApply(ctx context.Context, path string, opts PullOptions) (stats *assemble.Stats, err error) {
	if err := durable.CheckDir(opts.Dest.Path, opts.Replace); err != nil {
		return nil, err
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("transfer: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	r, err := root.Open(opts.Root, root.Options{ReadOnly: true})
	if errors.Is(err, fs.ErrNotExist) {
		r = nil
	} else if err != nil {
		return nil, err
	}
	head, err := delta.ReadHead(f, delta.MaxTOC)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	opener := seedOpener{root: r, log: opts.Logger, spool: filepath.Dir(opts.Dest.Path)}
	err = opener.open(opts.Seeds)
	defer func() {
		for _, c := range opener.closers {
			err = errors.Join(err, c.Close())
		}
	}()
	if err != nil {
		return nil, err
	}
	job, err := offlineJob(ctx, head, r, opener.seeds, opts)
	if err != nil {
		return nil, err
	}
	job.Delta = &assemble.Delta{Head: head, Only: true, Body: func(context.Context) (io.ReadCloser, error) { return io.NopCloser(f), nil }}
	err = durable.Dir(ctx, opts.Dest.Path, opts.Replace, func(temp string) (err error) {
		dest, err := tree.OpenDir(temp)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, dest.Close()) }()
		stats, err = assemble.Run(ctx, *job, dest, assemble.Options{Logger: opts.Logger})
		return err
	})
	return stats, err
}

// offlineJob plans what a delta alone makes.
func offlineJob(ctx context.Context, head *delta.Head, r *root.Root, seeds []seed.Seed, opts PullOptions) (*assemble.Job, error) {
	var old []byte
	if from := digestOf(head.From); from != "" {
		if r == nil {
			return nil, fmt.Errorf("transfer: %w: there are no images in %s to apply it to", root.ErrNotFound, opts.Root)
		}
		var err error
		if old, err = r.Blob(from); err != nil {
			return nil, fmt.Errorf("the image that the delta begins at: %w", err)
		}
	}
	canonical, err := head.PatchTOC(old)
	if err != nil {
		return nil, err
	}
	t, err := toc.Parse(canonical)
	if err != nil {
		return nil, err
	}
	p := &Prepared{opts: opts}
	if p.Plan, err = seed.Match(ctx, t.Nodes, seeds, opts.Logger); err != nil {
		return nil, err
	}
	if _, err := p.use(ctx, head); err != nil {
		return nil, err
	}
	if len(p.Plan.Missing) > 0 {
		return nil, p.noDelta()
	}
	return &assemble.Job{Nodes: t.Nodes, Plan: p.Plan}, nil
}
