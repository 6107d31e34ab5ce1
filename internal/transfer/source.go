package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/ociv2-sync/ociv2-sync/internal/assemble"
	"github.com/ociv2-sync/ociv2-sync/internal/ocisrc"
	"github.com/ociv2-sync/ociv2-sync/internal/root"
	"github.com/ociv2-sync/ociv2-sync/internal/tree"
	"github.com/ociv2-sync/ociv2-sync/seed"
	"github.com/ociv2-sync/ociv2-sync/toc"
	"github.com/ociv2-sync/ociv2-sync/translate"
)

// rootfsPrefix begins the only kind of source that is no image.
const rootfsPrefix = RootFS + ":"

// source returns how a source is opened.
func (o *PushOptions) source() ocisrc.Options {
	return ocisrc.Options{Platform: o.Platform, Registry: o.Registry, Storage: o.Storage}
}

// openSource reads the tree and the config of a source.
func openSource(ctx context.Context, source string, opts PushOptions) (*toc.Source, *translate.ImageInfo, error) {
	if dir, ok := strings.CutPrefix(source, rootfsPrefix); ok {
		info, err := ocisrc.BareInfo(opts.Platform)
		if err != nil {
			return nil, nil, err
		}
		src, err := tree.Scan(ctx, dir)
		return src, info, err
	}
	image, err := ocisrc.Open(ctx, source, opts.source())
	if err != nil {
		return nil, nil, err
	}
	defer image.Close()
	src, err := translate.Merge(ctx, image, translate.MergeOptions{TempDir: opts.TempDir, Limits: opts.Limits})
	if err != nil {
		return nil, nil, fmt.Errorf("transfer: %s: %w", source, err)
	}
	return src, image.Info(), nil
}

// contentsSource is a filesystem with the given nodes whose contents lie in the
// temporary directory t, each under its digest. Closing it removes them.
func contentsSource(nodes []toc.Node, t *root.TempTree) (*toc.Source, error) {
	dir, err := os.OpenRoot(t.Path)
	if err != nil {
		return nil, fmt.Errorf("transfer: %w", err)
	}
	return &toc.Source{
		Nodes: nodes,
		Open: func(_ context.Context, i int) (io.ReadCloser, error) {
			return dir.Open(assemble.ContentName(nodes[i].Digest))
		},
		Close: func() error { return errors.Join(dir.Close(), t.Remove()) },
	}, nil
}

// sourceSeed has all contents of a source, so that a tree can be made of it.
type sourceSeed struct{ src *toc.Source }

func (s sourceSeed) String() string { return "source" }

func (s sourceSeed) Find(_ context.Context, want *seed.Wanted, found func(seed.Digest, string)) error {
	for i := range s.src.Nodes {
		n := &s.src.Nodes[i]
		if n.IsRegular() && n.Link < 0 && n.Size > 0 && want.Take(n.Digest, n.Size) {
			found(n.Digest, strconv.Itoa(i))
		}
	}
	return nil
}

func (s sourceSeed) Open(ctx context.Context, path string) (io.ReadCloser, error) {
	i, err := strconv.Atoi(path)
	if err != nil {
		return nil, err
	}
	return s.src.Open(ctx, i)
}

// buildTree makes the tree of a source in an empty directory.
func buildTree(ctx context.Context, src *toc.Source, dir string, opts PullOptions) (_ *assemble.Stats, err error) {
	contents := toc.NewCopier(src)
	for i := range src.Nodes {
		n := &src.Nodes[i]
		if n.IsRegular() && n.Link < 0 && n.Size > 0 && n.Digest == [32]byte{} {
			if err := contents.Copy(ctx, io.Discard, i); err != nil {
				return nil, err
			}
		}
	}
	contents.Spread()
	if err := (&toc.TOC{Nodes: src.Nodes}).Validate(); err != nil {
		return nil, err
	}
	plan, err := seed.Match(ctx, src.Nodes, []seed.Seed{sourceSeed{src}}, opts.Logger)
	if err != nil {
		return nil, err
	}
	dest, err := tree.OpenDir(dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, dest.Close()) }()
	job := assemble.Job{
		Nodes: src.Nodes, Plan: plan,
		Space: func(context.Context) (*seed.Space, error) {
			return nil, fmt.Errorf("transfer: %w: the source has changed while it was read", toc.ErrContent)
		},
	}
	stats, err := assemble.Run(ctx, job, dest, assemble.Options{Logger: opts.Logger, Progress: opts.Progress, UIDShift: opts.UIDShift})
	if err == nil && len(stats.Unrestored) > 0 && !opts.Lenient {
		err = &UnrestoredError{stats.Unrestored}
	}
	return stats, err
}
