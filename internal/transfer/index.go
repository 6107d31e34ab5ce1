package transfer

import (
	"context"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/ociv2-sync/ociv2-sync/caibx"
	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/internal/repo"
	"github.com/ociv2-sync/ociv2-sync/seed"
)

const (
	// fewPlaces is the number of places up to which parts of the index are read,
	// one request each.
	fewPlaces = 64
	// fewShare is the share of the image, one in so many bytes, below which they
	// are: from there on the chunks take so much more than the index that it is
	// not worth the requests.
	fewShare = 256
	// indexGap is over how many chunks that are not needed a request goes on to
	// the next that is: they take less than a request of their own.
	indexGap = 8
	// indexJobs is the number of parts of the index requested at a time.
	indexJobs = 8
)

// few reports whether a plan lacks so little of the image that parts of the
// index do. It follows from what is missing alone, and if it holds for a plan it
// holds for each that lacks less.
func (p *Prepared) few(plan *seed.Plan) bool {
	m := p.Image.Manifest
	if m.Spans == nil || p.noParts {
		return false
	}
	whole, image := m.Catar.Index.Size+m.Catar.Sizes.Size, m.Catar.Size
	if m.Extra != nil {
		whole += m.Extra.Index.Size + m.Extra.Sizes.Size
		image += m.Extra.Size
	}
	places, bytes := plan.Places(p.tree.TOC.Nodes, p.tree.Layout)
	// Every place begins and ends within a chunk.
	_, parts := caibx.ItemSpan(0, int(bytes/int64(chunk.DefaultParams().Avg))+2*places)
	return places <= fewPlaces && bytes < int64(image/fewShare) && m.Spans.Size+parts < whole
}

// spaceFor returns a space that says all that a plan needs to know of the
// chunks: of the whole image, or where the plan needs few, of those.
func (p *Prepared) spaceFor(ctx context.Context, plan *seed.Plan) (*seed.Space, error) {
	if p.space != nil && p.spans == nil || !p.few(plan) {
		return p.loadSpace(ctx)
	}
	err := p.sketch(ctx, plan)
	if err == nil || ctx.Err() != nil {
		return p.space, err
	}
	// Not every server sends parts of files.
	p.opts.Logger.Info("the chunk index is read as a whole", "reason", err)
	return p.loadSpace(ctx)
}

// sketch reads where the chunks lie, and the ids of those that the plan may
// choose.
func (p *Prepared) sketch(ctx context.Context, plan *seed.Plan) (err error) {
	if p.space == nil {
		if p.spans, err = p.Image.Spans(ctx); err != nil {
			return err
		}
		alg := (&caibx.Index{FeatureFlags: p.Image.Manifest.FeatureFlags}).Algorithm()
		p.space = seed.NewSketch(alg, p.spans.Params, p.spans.Sizes, p.spans.Stored)
	}
	runs, err := plan.Unknown(p.tree.TOC.Nodes, p.tree.Layout, p.space)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(indexJobs)
	var mu sync.Mutex
	for _, run := range requests(runs, p.spans.Catar) {
		g.Go(func() error {
			ids, err := p.Image.IDs(ctx, p.spans, run[0], run[1]-run[0])
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			p.space.Learn(run[0], ids)
			return nil
		})
	}
	return g.Wait()
}

// requests joins ranges of chunks that are close together, and parts those that
// cross the border between the two streams.
func requests(runs [][2]int, border int) [][2]int {
	var out [][2]int
	add := func(run [2]int) {
		if n := len(out); n > 0 && run[0]-out[n-1][1] <= indexGap && (out[n-1][0] >= border || run[1] <= border) {
			out[n-1][1] = run[1]
			return
		}
		out = append(out, run)
	}
	for _, run := range runs {
		if run[0] < border && run[1] > border {
			add([2]int{run[0], border})
			run[0] = border
		}
		add(run)
	}
	return out
}

// loadSpace reads the chunk indexes of the image, once.
func (p *Prepared) loadSpace(ctx context.Context) (*seed.Space, error) {
	if p.space != nil && p.spans == nil {
		return p.space, nil
	}
	space, err := wholeSpace(ctx, p.Image)
	if err != nil {
		return nil, err
	}
	p.space, p.spans = space, nil
	return space, nil
}

// wholeSpace reads the chunk indexes of an image.
func wholeSpace(ctx context.Context, im *repo.Image) (*seed.Space, error) {
	var catar, extra repo.Chunks // all at once: round trips count
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		catar, err = im.Catar(ctx)
		return err
	})
	g.Go(func() (err error) {
		extra, err = im.Extra(ctx)
		return err
	})
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return seed.NewSpace(catar.Index, extra.Index, append(catar.Sizes, extra.Sizes...))
}
