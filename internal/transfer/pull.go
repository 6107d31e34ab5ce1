package transfer

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/ociv2-sync/ociv2-sync/internal/assemble"
	"github.com/ociv2-sync/ociv2-sync/internal/repo"
	"github.com/ociv2-sync/ociv2-sync/internal/root"
	"github.com/ociv2-sync/ociv2-sync/internal/tree"
	"github.com/ociv2-sync/ociv2-sync/seed"
	"github.com/ociv2-sync/ociv2-sync/store"
	"github.com/ociv2-sync/ociv2-sync/store/local"
	"github.com/ociv2-sync/ociv2-sync/toc"
)

// Pulled is what Pull did.
type Pulled struct {
	// Path is where the filesystem is: for the root, the stable path; for a registry
	// the destination as it was given.
	Path string
	// Digest names the image's manifest.
	Digest digest.Digest
	// Present says that the root had the image already.
	Present bool
	// Bytes and Requests count everything that was fetched.
	Bytes, Requests int64
	// Unread counts the archives among the seeds of which the rest was passed over,
	// because they are truncated, damaged, or cannot be read.
	Unread int
	// Stats says what was built; nil if nothing was.
	Stats *assemble.Stats
	// Written says what image was made, nil if none.
	Written *Written
	// Pruned are the trees that were removed because nothing needs them now.
	Pruned []digest.Digest
}

// Pull brings an image into the root, or into opts.Dest. announce, if not nil,
// is called with the plan before anything beside metadata is fetched.
//
// It holds the lock of the root. On any error root and destination are as they
// were, but for the chunks that have been fetched: the next pull uses them.
func Pull(ctx context.Context, ref repo.Ref, opts PullOptions, announce func(*Prepared)) (_ *Pulled, err error) {
	if err := opts.check(); err != nil {
		return nil, err
	}
	r, err := root.Open(opts.Root, root.Options{})
	if err != nil {
		return nil, err
	}
	w, err := r.Lock("pull of " + ref.String())
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, w.Unlock()) }()
	opts.layers = layersInto(w, opts)
	p, err := prepare(ctx, ref, r, opts, true)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	if err := p.Check(); err != nil {
		return nil, err
	}
	if announce != nil {
		announce(p)
	}
	out := &Pulled{Path: opts.Dest.Path, Digest: p.Image.Digest, Present: p.Present}
	if opts.Dest.Kind == Docker {
		out.Path = opts.Dest.String()
	}
	switch build := func(dir string) error { return p.build(ctx, dir, false, out) }; {
	case opts.updates():
		err = p.update(ctx, out)
	case opts.Dest.tree():
		err = opts.Dest.writeTree(ctx, opts.Replace, p.tree.TOC.Nodes, p.Image.Config, build)
	case opts.Dest.Kind != "":
		out.Written, err = p.export(ctx, w, out)
	default:
		err = p.intoRoot(ctx, r, w, out)
	}
	if errors.Is(err, store.ErrNotFound) && !errors.Is(err, repo.ErrIncomplete) {
		err = fmt.Errorf("%w: %w", repo.ErrIncomplete, err)
	}
	if err != nil {
		return nil, err
	}
	p.fetched(out)
	if opts.Dest.Kind == "" {
		img, err := r.Image(ref.Name, rootTag(ref))
		if err != nil {
			return nil, err
		}
		out.Path = img.Path
		// The image is in its place; that an old one cannot be removed, because
		// something in the root is damaged, is no reason to say that it is not.
		if out.Pruned, err = w.Prune(ctx); err != nil {
			if ctx.Err() != nil {
				return nil, err
			}
			p.opts.Logger.Warn("what no image needs is not removed", "root", opts.Root, "reason", err)
		}
	}
	return out, w.ClearChunkCache()
}

// fetched says in out what was fetched in all.
func (p *Prepared) fetched(out *Pulled) {
	p.count() // the delta, and the index if a seed changed, have come since
	out.Bytes, out.Requests = p.MetaBytes, p.MetaRequests
	for _, a := range p.archived {
		out.Unread += a.Unread()
	}
	if out.Stats != nil && !p.Layers {
		out.Bytes += out.Stats.FetchedBytes
		out.Requests += int64(out.Stats.Fetched)
		early := p.Plan.PerOrigin(seed.Early)
		out.Bytes += early.Wire
		out.Requests += int64(early.Chunks)
	}
}

// intoRoot builds the image in the root and shows it under its tag.
func (p *Prepared) intoRoot(ctx context.Context, r *root.Root, w *root.Writer, out *Pulled) (err error) {
	ref := p.Image.Ref
	if p.Present {
		return w.Tag(ref.Name, rootTag(ref), p.Image.Digest, ref.String())
	}
	t, err := w.TempTree()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.Remove()) }()
	if err := p.intoTree(ctx, r, t.Path, out); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	canonical, err := toc.Marshal(p.tree.TOC)
	if err != nil {
		return err
	}
	blobs := root.Blobs{Manifest: p.Image.ManifestBytes, Config: p.Image.Config, TOC: canonical}
	return w.Commit(t, blobs, ref.Name, rootTag(ref), ref.String())
}

// rootTag is the tag that an image has in the root: its own, or one made of
// the digest that it was pulled by.
func rootTag(ref repo.Ref) string {
	if ref.Digest != "" {
		return strings.ReplaceAll(ref.Digest.String(), ":", "-")
	}
	return ref.Tag
}

// export makes an image of the contents, which wait in the root for their turn.
func (p *Prepared) export(ctx context.Context, w *root.Writer, out *Pulled) (_ *Written, err error) {
	src, err := p.source(ctx, w, out)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	return p.opts.Dest.writeImage(ctx, src, p.Image.Config, p.opts)
}

// source brings all contents of the image into a temporary directory of the root and
// returns the filesystem. Closing it removes them.
func (p *Prepared) source(ctx context.Context, w *root.Writer, out *Pulled) (_ *toc.Source, err error) {
	t, err := w.TempTree()
	if err != nil {
		return nil, err
	}
	err = p.build(ctx, t.Path, true, out)
	if err == nil {
		var src *toc.Source
		if src, err = contentsSource(p.tree.TOC.Nodes, t); err == nil {
			return src, nil
		}
	}
	return nil, errors.Join(err, t.Remove())
}

// build carries the plan out in an empty directory; with contentsOnly the result
// is no tree but what assemble.Options.ContentsOnly says.
func (p *Prepared) build(ctx context.Context, dir string, contentsOnly bool, out *Pulled) error {
	return p.carryOut(ctx, dir, out, assemble.Run, assemble.Options{UIDShift: p.opts.UIDShift, ContentsOnly: contentsOnly})
}

// job returns what is to be built, and from what.
func (p *Prepared) job() (assemble.Job, error) {
	st, err := p.openStore()
	if err != nil {
		return assemble.Job{}, err
	}
	job := assemble.Job{
		Nodes: p.tree.TOC.Nodes, Plan: p.Plan, Space: p.loadSpace,
		Delta: p.deltaJob(), Store: st, Cache: p.cache,
	}
	_, job.Near = store.As[*local.Store](st)
	if p.space != nil {
		job.Algorithm = p.space.Algorithm
	}
	return job, nil
}

// UnrestoredError means that the system did not let us make the image as it is.
type UnrestoredError struct {
	// Notes says what is missing, at least one thing.
	Notes []tree.Unrestored
}

func (e *UnrestoredError) Error() string {
	return fmt.Sprintf("transfer: %d attributes could not be restored, the first: %v", len(e.Notes), e.Notes[0])
}

// Unwrap returns the first cause.
func (e *UnrestoredError) Unwrap() error { return e.Notes[0] }
