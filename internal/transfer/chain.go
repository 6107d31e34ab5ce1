package transfer

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"

	"github.com/ociv2-sync/ociv2-sync/delta"
	"github.com/ociv2-sync/ociv2-sync/internal/assemble"
	"github.com/ociv2-sync/ociv2-sync/internal/repo"
	"github.com/ociv2-sync/ociv2-sync/internal/root"
	"github.com/ociv2-sync/ociv2-sync/seed"
	"github.com/ociv2-sync/ociv2-sync/toc"
)

const (
	// maxListed is how many links a tag lists: each makes it longer.
	maxListed = 8
	// maxChain is how many deltas are applied one after the other.
	maxChain = 4
)

// chainLinks returns the deltas that lead to the image im, one after the other,
// but for those from where a delta of the new image starts.
func chainLinks(im *repo.Image, done map[digest.Digest]bool) (links []repo.Delta) {
	for _, d := range slices.Concat(im.Deltas, im.Links) {
		d.To = cmp.Or(d.To, im.Manifest.TOCDigest)
		if d.From != "" && !done[d.From] && len(links) < maxListed {
			links = append(links, d)
		}
	}
	return links
}

// findChain returns the deltas that lead from an image of the root to p's, those
// that take the fewest bytes in all; nil for none.
func (p *Prepared) findChain(r *root.Root) (best []repo.Delta) {
	if r == nil {
		return nil
	}
	var least int64
	var walk func(to digest.Digest, tail []repo.Delta, size int64)
	walk = func(to digest.Digest, tail []repo.Delta, size int64) {
		if _, err := r.Blob(to); err == nil && len(tail) > 1 {
			if best == nil || size < least {
				best, least = tail, size
			}
			return
		}
		if len(tail) == maxChain {
			return
		}
		for _, d := range slices.Concat(p.Image.Deltas, p.Image.Links) {
			if d.From != "" && cmp.Or(d.To, p.Image.Manifest.TOCDigest) == to {
				walk(d.From, append([]repo.Delta{d}, tail...), size+d.Size)
			}
		}
	}
	walk(p.Image.Manifest.TOCDigest, nil, 0)
	return best
}

// treeByChain makes the table of contents by deltas one after the other, and
// remembers them. It returns nil if none lead to it.
func (p *Prepared) treeByChain(ctx context.Context, r *root.Root) (*repo.Tree, error) {
	chain := p.findChain(r)
	if chain == nil {
		return nil, nil
	}
	canonical, err := r.Blob(chain[0].From)
	if err != nil {
		return nil, err
	}
	var links []*link
	for i, d := range chain {
		f, err := p.openDelta(ctx, r, d)
		if err == nil {
			canonical, err = f.head.PatchTOC(canonical)
		}
		if err == nil && i < len(chain)-1 {
			var l *link
			if l, err = p.newLink(ctx, f, canonical); err == nil {
				links = append(links, l)
				continue
			}
		}
		if err != nil {
			if !p.passOver(d, err) {
				return nil, err
			}
			return nil, nil
		}
		p.heads = append(p.heads, f)
	}
	p.links = links
	return p.Image.ParseTree(canonical)
}

// link is a delta to an earlier image, as a seed: it has what the delta makes.
// It is applied when something of it is read for the first time.
type link struct {
	p      *Prepared
	file   *deltaFile
	table  []delta.Content
	record map[delta.Digest]int // what it can make
	places []seed.Place         // of its bases
	need   map[delta.Digest]bool

	apply sync.Once
	err   error
	spool *os.File
	at    map[delta.Digest]int64 // where in spool what it has made is
}

func (p *Prepared) newLink(ctx context.Context, f *deltaFile, canonical []byte) (*link, error) {
	t, err := toc.Parse(canonical)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", delta.ErrMalformed, err)
	}
	plan, err := seed.Match(ctx, t.Nodes, nil, nil)
	if err != nil {
		return nil, err
	}
	l := &link{p: p, file: f, at: make(map[delta.Digest]int64)}
	for i := range plan.Contents {
		l.table = append(l.table, delta.Content{Digest: *plan.Contents[i].Digest, Size: plan.Contents[i].Size})
	}
	return l, nil
}

// locate looks for the bases of the link among seeds, those before it included.
func (l *link) locate(ctx context.Context, seeds []seed.Seed) (err error) {
	h := l.file.head
	if l.places, err = seed.Locate(ctx, basesOf(h), seeds, l.p.opts.Logger); err != nil {
		return err
	}
	l.record = make(map[delta.Digest]int)
	can := usable(h, l.places)
	for i := range l.table {
		if rec := can(i); rec != seed.None {
			l.record[l.table[i].Digest] = int(rec)
		}
	}
	return nil
}

// String implements seed.Seed.
func (l *link) String() string { return "delta to an earlier image" }

// Find implements seed.Seed.
func (l *link) Find(_ context.Context, want *seed.Wanted, found func(seed.Digest, string)) error {
	for d, rec := range l.record {
		if want.Take(d, l.table[l.file.head.Records[rec].Target].Size) {
			found(d, hex.EncodeToString(d[:]))
		}
	}
	return nil
}

// Open implements seed.Seed. It reads nothing yet.
func (l *link) Open(ctx context.Context, path string) (io.ReadCloser, error) {
	d, err := hex.DecodeString(path)
	if err != nil || len(d) != len(delta.Digest{}) {
		return nil, fmt.Errorf("transfer: %s: no content %q", l, path)
	}
	return &linkFile{ctx: ctx, link: l, digest: delta.Digest(d)}, nil
}

// linkFile is a content that a link makes.
type linkFile struct {
	ctx    context.Context //nolint:containedctx // that of Open, for the first Read
	link   *link
	digest delta.Digest
	off    int64
}

func (f *linkFile) Read(b []byte) (int, error) {
	n, err := f.ReadAt(b, f.off)
	f.off += int64(n)
	return n, err
}

func (f *linkFile) ReadAt(b []byte, off int64) (int, error) {
	l := f.link
	l.apply.Do(func() { l.err = l.run(f.ctx) })
	at, ok := l.at[f.digest]
	if !ok {
		return 0, fmt.Errorf("transfer: %s: it was not made: %w", l, cmp.Or(l.err, delta.ErrContent))
	}
	size := l.table[l.file.head.Records[l.record[f.digest]].Target].Size
	return io.NewSectionReader(l.spool, at, size).ReadAt(b, off)
}

func (f *linkFile) Close() error { return nil }

// run applies the delta: what is needed goes to a file of the root.
func (l *link) run(ctx context.Context) (err error) {
	if l.spool, err = tempFile(l.p.opts.Root); err != nil {
		return err
	}
	body, err := l.p.openBody(ctx, l.file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, body.Close()) }()
	end := int64(0)
	err = delta.Apply(ctx, body, delta.Job{
		Head: l.file.head, Contents: l.table,
		Base: func(ctx context.Context, i int) (delta.BaseReader, error) {
			return assemble.OpenBase(ctx, l.places[i], l.file.head.Bases[i].Size)
		},
		Output: func(_ context.Context, i int) (delta.Output, error) {
			c := l.table[l.file.head.Records[i].Target]
			if !l.need[c.Digest] {
				return nil, nil
			}
			return &linkOutput{link: l, digest: c.Digest, end: &end, OffsetWriter: io.NewOffsetWriter(l.spool, end)}, nil
		},
	})
	if errors.Is(err, delta.ErrMalformed) {
		l.file.forget()
	}
	return err
}

func (l *link) close() error {
	if l.spool == nil {
		return nil
	}
	return l.spool.Close()
}

// linkOutput is a content of a link while it is made.
type linkOutput struct {
	*io.OffsetWriter
	link   *link
	digest delta.Digest
	end    *int64
}

// Finish implements delta.Output. What is not made is missed by whoever reads it.
func (o *linkOutput) Finish(err error) error {
	if err != nil {
		o.link.p.opts.Logger.Warn("a delta to an earlier image does not make a content", "content", fmt.Sprintf("%x", o.digest), "reason", err)
		return nil
	}
	o.link.at[o.digest] = *o.end
	*o.end, err = o.Seek(0, io.SeekCurrent)
	*o.end += o.link.at[o.digest]
	return err
}

// chooseChain plans anew with the links as seeds, if they take fewer bytes than
// the chunks of what they save.
func (p *Prepared) chooseChain(ctx context.Context, r *root.Root) error {
	links := p.links
	p.links = nil
	if len(links) == 0 || len(p.Plan.Missing) == 0 {
		return nil
	}
	size := p.heads[len(p.heads)-1].rest()
	for _, l := range links {
		size += l.file.rest()
	}
	if p.opts.Deltas != DeltaOnly && p.opts.Bundle == nil && size > p.missingBytes()/chunksAtBest {
		if err := p.chooseDelta(ctx, r); err != nil {
			return err
		}
		if err := p.cover(ctx); err != nil {
			return err
		}
		if size >= p.wire() {
			return nil
		}
		p.delta = nil
	}
	p.links = links
	seeds := p.Plan.Seeds
	for _, l := range links {
		p.chain = append(p.chain, l.file)
		if err := l.locate(ctx, seeds); err != nil {
			return err
		}
		seeds = append(seeds[:len(seeds):len(seeds)], l)
		p.closers = append(p.closers, closerFunc(l.close))
	}
	plan, err := seed.Match(ctx, p.tree.TOC.Nodes, seeds, p.opts.Logger)
	p.Plan = plan
	return err
}

// closerFunc is an io.Closer.
type closerFunc func() error

func (f closerFunc) Close() error { return f() }

// settleChain tells the links what the plan needs of them, and forgets those
// that it needs nothing of.
func (p *Prepared) settleChain() {
	for _, l := range p.links {
		l.need = make(map[delta.Digest]bool)
	}
	note := func(s seed.Seed, path string) {
		if l, ok := s.(*link); ok {
			if d, err := hex.DecodeString(path); err == nil {
				l.need[delta.Digest(d)] = true
			}
		}
	}
	for i := range p.Plan.Contents {
		switch c := &p.Plan.Contents[i]; {
		case c.Seed != seed.None:
			note(p.Plan.Seeds[c.Seed], c.Path)
		case c.Record != seed.None:
			for _, b := range p.delta.head.Records[c.Record].Bases {
				note(p.Plan.Bases[b].Seed, p.Plan.Bases[b].Path)
			}
		}
	}
	for _, l := range slices.Backward(p.links) {
		for d := range l.need {
			for _, b := range l.file.head.Records[l.record[d]].Bases {
				note(l.places[b].Seed, l.places[b].Path)
			}
		}
	}
	p.links = slices.DeleteFunc(p.links, func(l *link) bool { return len(l.need) == 0 })
}

// made returns how many bytes the links' contents take until the pull is done.
func (p *Prepared) made() (n int64) {
	for _, l := range p.links {
		for d := range l.need {
			n += l.table[l.file.head.Records[l.record[d]].Target].Size
		}
	}
	return n
}
