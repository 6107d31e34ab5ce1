package transfer

import (
	"context"
	"slices"

	"github.com/ociv2-sync/ociv2-sync/delta"
	"github.com/ociv2-sync/ociv2-sync/internal/root"
	"github.com/ociv2-sync/ociv2-sync/seed"
)

// bestDelta is the delta that makes most of what no seed has, of those that were tried.
type bestDelta struct {
	file  *deltaFile // nil if none makes anything
	bases []seed.Place
	bytes int64 // of contents that it makes
}

// chooseDelta finds the delta that makes most of what no seed has, and takes it
// if that saves bytes.
func (p *Prepared) chooseDelta(ctx context.Context, r *root.Root) error {
	if p.opts.Deltas == DeltaNever || len(p.Plan.Missing) == 0 {
		return nil
	}
	defer func() {
		if p.delta == nil {
			p.Plan.Use(nil, nil)
		}
	}()
	missing := p.missingBytes()
	best, err := p.tryDeltas(ctx, r, missing)
	if err != nil || best.file == nil {
		return err
	}
	p.Plan.Use(usable(best.file.head, best.bases), best.bases)
	if p.opts.Bundle != nil { // it has no chunks of what the delta makes
		p.delta = best.file
		return nil
	}
	// One of which nothing is at hand, and that lacks nothing, is smaller than
	// the chunks: it would not have been published otherwise.
	whole := best.bytes == missing && p.Plan.FromDelta().Contents == len(best.file.head.Records)
	if p.opts.Deltas != DeltaOnly && !whole && (best.bytes < missing || best.file.rest() > missing/chunksAtBest) {
		better, err := p.beatsChunks(ctx, best.file, best.bases)
		if err != nil || !better {
			return err
		}
	}
	p.delta = best.file
	return nil
}

// tryDeltas tries the deltas whose heads are there, and opens others for as long as
// these may make more of the missing bytes.
func (p *Prepared) tryDeltas(ctx context.Context, r *root.Root, missing int64) (best bestDelta, err error) {
	for _, f := range p.heads {
		if err := p.try(ctx, f, &best); err != nil {
			return best, err
		}
	}
	for _, d := range p.Image.Deltas {
		known := slices.ContainsFunc(p.heads, func(f *deltaFile) bool { return f.Blob == d.Blob })
		if known || len(p.heads) >= maxHeads || best.bytes >= missing/10*9 || d.Head > missing && p.opts.Deltas != DeltaOnly && p.opts.Bundle == nil {
			continue
		}
		f, err := p.openDelta(ctx, r, d)
		if err != nil {
			if !p.passOver(d, err) {
				return best, err
			}
			continue
		}
		p.heads = append(p.heads, f)
		if err := p.try(ctx, f, &best); err != nil {
			return best, err
		}
	}
	return best, nil
}

// try lets a delta make what it can. It becomes the best one if that is more.
func (p *Prepared) try(ctx context.Context, f *deltaFile, best *bestDelta) error {
	places, err := p.use(ctx, f.head)
	if err != nil {
		return err
	}
	if n := p.Plan.FromDelta().Bytes; n > best.bytes {
		*best = bestDelta{f, places, n}
	}
	return nil
}

// use looks for the bases of a delta and lets it make what it can.
func (p *Prepared) use(ctx context.Context, h *delta.Head) ([]seed.Place, error) {
	places, err := seed.Locate(ctx, basesOf(h), p.Plan.Seeds, p.opts.Logger)
	if err == nil {
		p.Plan.Use(usable(h, places), places)
	}
	return places, err
}

// basesOf returns what a delta needs.
func basesOf(h *delta.Head) []seed.Base {
	bases := make([]seed.Base, len(h.Bases))
	for i, b := range h.Bases {
		bases[i] = seed.Base{Prefix: b.Prefix, Size: b.Size}
	}
	return bases
}

// beatsChunks reports whether a delta and the chunks of what it does not make
// take fewer bytes than the chunks alone. The plan is then with the delta.
func (p *Prepared) beatsChunks(ctx context.Context, f *deltaFile, bases []seed.Place) (bool, error) {
	p.Plan.Use(nil, nil)
	if err := p.cover(ctx); err != nil {
		return false, err
	}
	alone := p.Plan.PerOrigin(seed.Fetched).Wire
	p.Plan.Use(usable(f.head, bases), bases)
	if err := p.cover(ctx); err != nil {
		return false, err
	}
	return p.Plan.PerOrigin(seed.Fetched).Wire+f.rest() < alone, nil
}

func (p *Prepared) missingBytes() int64 {
	var sum int64
	for _, m := range p.Plan.Missing {
		sum += p.Plan.Contents[m].Size
	}
	return sum
}

// usable returns which record makes a content, of those whose bases are at hand.
func usable(h *delta.Head, places []seed.Place) func(int) int32 {
	record := make(map[int]int32, len(h.Records))
	for i, r := range h.Records {
		if h.Usable(i) && !slices.ContainsFunc(r.Bases, func(b int) bool { return places[b].Seed == nil }) {
			record[r.Target] = int32(i)
		}
	}
	return func(content int) int32 {
		if i, ok := record[content]; ok {
			return i
		}
		return seed.None
	}
}
