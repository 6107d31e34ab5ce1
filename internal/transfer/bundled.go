package transfer

import (
	"context"
	"fmt"
	"log/slog"
	"slices"

	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/internal/offline"
	"github.com/ociv2-sync/ociv2-sync/internal/repo"
	"github.com/ociv2-sync/ociv2-sync/seed"
)

// openBundle opens the image of a bundle. Deltas that are not in it are left out, and where
// nothing else is, nothing else is tried.
func (p *Prepared) openBundle(ctx context.Context, b *offline.Bundle, platform string) error {
	p.files.Files, p.closers = b, append(p.closers, b)
	ref := b.Ref()
	ref.Platform = platform
	var err error
	if p.Image, err = repo.Open(ctx, &p.files, ref); err != nil {
		return err
	}
	absent := func(d repo.Delta) bool { return !b.HasBlob(d.Blob) }
	p.Image.Deltas, p.Image.Links = slices.DeleteFunc(p.Image.Deltas, absent), slices.DeleteFunc(p.Image.Links, absent)
	if len(p.Image.Deltas) > 0 && !b.HasBlob(p.Image.Manifest.Catar.Index.Digest) {
		p.opts.Deltas = DeltaOnly
	}
	return nil
}

// bases says where the chunks are that a bundle does not have, because devices that it is
// for have them.
type bases struct {
	bases  []seed.Base
	parts  []seed.Part
	places []seed.Place // of the bases
}

// findBases looks in the seeds for what a bundle counts on.
func (p *Prepared) findBases(ctx context.Context) error {
	b := p.opts.Bundle
	if b == nil || len(p.Plan.Missing) == 0 {
		return nil
	}
	m := p.Image.Manifest
	index := m.Catar.Index.Size
	if m.Extra != nil {
		index += m.Extra.Index.Size
	}
	list, err := b.Bases(ctx, index)
	if err != nil || list == nil {
		return err
	}
	p.bases = &bases{}
	for _, base := range list.Bases {
		p.bases.bases = append(p.bases.bases, seed.Base(base))
	}
	for _, part := range list.Parts {
		p.bases.parts = append(p.bases.parts, seed.Part(part))
	}
	p.bases.places, err = seed.Locate(ctx, p.bases.bases, p.Plan.Seeds, p.opts.Logger)
	return err
}

// chooseBundled is choose for a plan from a bundle: what the bundle has is at hand, and so
// is what it says of the chunks that it does not have. Only for others, which there are if
// the device is not what the bundle was made for, is anything searched.
func (p *Prepared) chooseBundled(ctx context.Context, plan *seed.Plan, space *seed.Space, log *slog.Logger, cached func(chunk.ID) bool) error {
	b := p.opts.Bundle
	var placed seed.Placed
	if p.bases != nil {
		var ok bool
		if placed, ok = plan.Place(space, p.bases.bases, p.bases.parts, p.bases.places); !ok {
			return fmt.Errorf("transfer: %s: %w: its bases do not fit the image", b, offline.ErrMalformed)
		}
	}
	held := func(id chunk.ID) bool { return b.HasChunk(id) || cached(id) }
	err := plan.Cover(p.tree.TOC.Nodes, p.tree.Layout, space, func(id chunk.ID) bool { return held(id) || placed.Has(id) })
	if err != nil {
		return err
	}
	plan.TakeParts(placed, held)
	if err := plan.Recut(ctx, p.tree.TOC.Nodes, space, log); err != nil {
		return err
	}
	for i := range plan.Chunks {
		if c := &plan.Chunks[i]; c.Origin == seed.Cached && !cached(c.ID) {
			c.Origin = seed.Fetched // from the bundle
		}
	}
	return nil
}
