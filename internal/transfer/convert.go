package transfer

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"strings"

	"github.com/ociv2-sync/ociv2-sync/internal/assemble"
	"github.com/ociv2-sync/ociv2-sync/internal/repo"
	"github.com/ociv2-sync/ociv2-sync/internal/root"
	"github.com/ociv2-sync/ociv2-sync/toc"
	"github.com/ociv2-sync/ociv2-sync/translate"
)

// ConvertOptions are the options of Convert: those of a push and of a pull, as
// far as the one and the other happens. Push.Platform and Push.TempDir hold for
// every source, Pull.Replace and Pull.Compression for every destination.
type ConvertOptions struct {
	Push PushOptions
	Pull PullOptions
	// Progress, if not nil, is called, from several goroutines, with the bytes done
	// since the last call and with about how many there are.
	Progress func(n, total int64)
}

// watch has the progress of what is made at dest, of total bytes, reported. What is
// published reports its own.
func (o *ConvertOptions) watch(dest Dest, total int64) {
	switch {
	case o.Progress == nil:
	case dest.tree():
		o.Pull.Progress = func(_, completed int64) { o.Progress(completed, total) }
	default:
		o.Pull.Wrote = func(n int64) { o.Progress(n, total) }
	}
}

// Converted is what Convert did. Fields are nil where nothing of their kind was done.
type Converted struct {
	// Pulled says what was fetched from a repository.
	Pulled *Pulled
	// Pushed says what was published in one.
	Pushed *Pushed
	// Written says what image was made.
	Written *Written
	// Stats says what tree was made.
	Stats *assemble.Stats
}

// Convert makes of any source any destination. A source repo:REF is pulled as
// Pull does it, with the root as a seed and as the place where what was fetched
// waits, a destination repo:REF is pushed to.
func Convert(ctx context.Context, source string, dest Dest, opts ConvertOptions) (*Converted, error) {
	from, pulling := strings.CutPrefix(source, Repo+":")
	var ref repo.Ref
	var err error
	if pulling {
		if ref, err = repo.ParseRef(from); err != nil {
			return nil, err
		}
		ref.Platform = opts.Push.Platform
	}
	last := int64(0)
	opts.Push.Progress = func(done, total int64) {
		if opts.Progress != nil {
			opts.Progress(done-last, total)
		}
		last = done
	}
	switch {
	case dest.Kind == Repo:
		return convertToRepo(ctx, source, ref, dest, opts)
	case pulling:
		opts.Pull.Dest = dest
		p, err := Pull(ctx, ref, opts.Pull, func(p *Prepared) {
			opts.watch(dest, cmp.Or(p.LayerSize, contentSize(p.tree.TOC.Nodes)))
			p.opts.Progress, p.opts.Wrote = opts.Pull.Progress, opts.Pull.Wrote
		})
		if err != nil {
			return nil, err
		}
		return &Converted{Pulled: p, Written: p.Written, Stats: p.Stats}, nil
	}
	return convertLocal(ctx, source, dest, opts)
}

// convertToRepo publishes a source, which from names if it is a repository.
func convertToRepo(ctx context.Context, source string, from repo.Ref, dest Dest, opts ConvertOptions) (_ *Converted, err error) {
	to, err := repo.ParseRef(dest.Path)
	if err == nil {
		err = checkTarget(to)
	}
	if err != nil {
		return nil, err
	}
	out := &Converted{}
	if from.Repo == "" {
		out.Pushed, err = Push(ctx, source, to, opts.Push)
		return out, err
	}
	out.Pulled = &Pulled{}
	pushed, err := publish(ctx, []sourceOpener{func(ctx context.Context) (*toc.Source, *translate.ImageInfo, error) {
		return openRepo(ctx, from, opts.Pull, out.Pulled)
	}}, to, opts.Push)
	if err != nil {
		return nil, err
	}
	out.Pushed = pushed[0]
	return out, nil
}

// convertLocal converts a source that is on this machine into something that
// is no repository.
func convertLocal(ctx context.Context, source string, dest Dest, opts ConvertOptions) (_ *Converted, err error) {
	if opts.Pull.UIDShift != 0 && dest.Kind != RootFS {
		return nil, errShift
	}
	if err := dest.check(opts.Pull.Replace); err != nil {
		return nil, err
	}
	src, info, err := openSource(ctx, source, opts.Push)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	out := &Converted{}
	if !dest.tree() {
		opts.watch(dest, layerSize(src.Nodes))
		out.Written, err = dest.writeImage(ctx, src, info.Config, opts.Pull)
		return out, err
	}
	opts.watch(dest, contentSize(src.Nodes))
	err = dest.writeTree(ctx, opts.Pull.Replace, src.Nodes, info.Config, func(dir string) error {
		out.Stats, err = buildTree(ctx, src, dir, opts.Pull)
		return err
	})
	return out, err
}

// openRepo brings an image of a repository into a temporary directory of the root,
// of which it is the writer until the source is closed. out says what was fetched.
func openRepo(ctx context.Context, ref repo.Ref, opts PullOptions, out *Pulled) (_ *toc.Source, _ *translate.ImageInfo, err error) {
	r, err := root.Open(opts.Root, root.Options{})
	if err != nil {
		return nil, nil, err
	}
	w, err := r.Lock("convert of " + ref.String())
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.Unlock())
		}
	}()
	opts.Dest = Dest{Kind: Repo} // the image itself is not wanted in the root
	p, err := prepare(ctx, ref, r, opts, true)
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	if err := p.Check(); err != nil {
		return nil, nil, err
	}
	src, err := p.source(ctx, w, out)
	if err != nil {
		return nil, nil, err
	}
	p.fetched(out)
	remove := src.Close
	src.Close = func() error { return errors.Join(remove(), w.Unlock()) }
	info := &translate.ImageInfo{
		Config: p.Image.Config, ConfigMediaType: p.Image.Manifest.Config.MediaType, ManifestDigest: p.Image.Manifest.Source,
	}
	// A config that is not JSON is for no platform; it was published like that.
	_ = json.Unmarshal(info.Config, &info.Platform)
	if err := w.ClearChunkCache(); err != nil {
		return nil, nil, errors.Join(err, remove())
	}
	return src, info, nil
}
