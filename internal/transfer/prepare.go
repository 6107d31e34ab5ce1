package transfer

import (
	"cmp"
	"context"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/internal/assemble"
	"github.com/ociv2-sync/ociv2-sync/internal/registry"
	"github.com/ociv2-sync/ociv2-sync/internal/repo"
	"github.com/ociv2-sync/ociv2-sync/internal/root"
	"github.com/ociv2-sync/ociv2-sync/seed"
	"github.com/ociv2-sync/ociv2-sync/store"
	"github.com/ociv2-sync/ociv2-sync/store/local"
	"github.com/ociv2-sync/ociv2-sync/translate"
)

// Prepared is a pull of which everything is known: the image and the plan.
type Prepared struct {
	// Image is what is to be pulled.
	Image *repo.Image
	// Present says that the root has the image already; there is no plan then.
	Present bool
	// Plan says where its contents come from.
	Plan *seed.Plan
	// MetaRequests and MetaBytes count what was fetched to know all this.
	MetaRequests, MetaBytes int64
	// Layers says that nothing is attached to the image in its registry, and that its
	// layers have been fetched in place of chunks.
	Layers bool
	// Disk is the space that the pull needs at its peak, in bytes, at most: what it shares
	// with what is there is left out as far as that is known.
	Disk int64
	// inRoot is what of Disk waits in the root, wherever the image goes; held is there
	// already.
	inRoot, held int64
	// LayerSize is about what the layer of the image that is to be made has,
	// uncompressed, in bytes; 0 if none is.
	LayerSize int64

	opts     PullOptions
	root     *root.Root // nil where there is none
	files    countingFiles
	traffic  *registry.Traffic // with the registry that the image is in; nil for none
	place    string            // of the repository, where it is not that of Image.Ref
	closers  []io.Closer
	tree     *repo.Tree
	space    *seed.Space     // nil until the chunks are needed
	spans    *repo.Spans     // that space is a sketch of; nil where all of it is known
	heads    []*deltaFile    // deltas whose heads were read
	delta    *deltaFile      // that of the plan; nil for none
	links    []*link         // deltas that are applied before it
	chain    []*deltaFile    // all that lead to it, those too that nothing is needed of
	spoiled  error           // why one was of no use
	all      bool            // nothing of the image is here, as far as is known beforehand
	noParts  bool            // the server sends no parts of files
	archived []*seed.Archive // seeds
	cache    *local.Store
	store    store.Store       // nil until it is opened
	early    map[chunk.ID]bool // chunks that were fetched while seeds were read
	bases    *bases            // of a bundle; nil for none
}

// Close frees what the pull needs.
func (p *Prepared) Close() error {
	var err error
	for _, c := range p.closers {
		err = errors.Join(err, c.Close())
	}
	p.closers = nil
	return err
}

// Prepare reads what it needs of an image and plans its pull. It transfers
// metadata alone, changes nothing, and works beside a pull.
func Prepare(ctx context.Context, ref repo.Ref, opts PullOptions) (*Prepared, error) {
	r, err := root.Open(opts.Root, root.Options{ReadOnly: true})
	if errors.Is(err, fs.ErrNotExist) {
		r = nil
	} else if err != nil {
		return nil, err
	}
	return prepare(ctx, ref, r, opts, false)
}

// prepare is Prepare with the root opened, or nil where there is none. With
// pull, which the lock of the root is needed for, it keeps what a pull copies
// out of archives, and fetches chunks while it reads seeds, if it may.
func prepare(ctx context.Context, ref repo.Ref, r *root.Root, opts PullOptions, pull bool) (_ *Prepared, err error) {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.Offline {
		opts.Deltas = DeltaNever
	}
	if err := opts.checkDest(); err != nil {
		return nil, err
	}
	p := &Prepared{opts: opts, root: r}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.Close())
		}
	}()
	p.all = !opts.InPlace && !p.hasTrees(r)
	if err := p.open(ctx, ref); err != nil {
		return nil, err
	}
	if r != nil && opts.Dest.Kind == "" && p.present(r) {
		p.Present = true
		p.count()
		return p, nil
	}
	if err := p.warm(pull); err != nil {
		return nil, err
	}
	if err := p.contents(ctx, r); err != nil {
		return nil, err
	}
	// As large as all names and digests; toc.Marshal makes the same bytes again.
	p.tree.Canonical = nil
	if r != nil {
		cache, err := local.Open(r.ChunkCache(), local.Options{Flat: true})
		if err != nil {
			return nil, err
		}
		p.cache, p.closers = cache, append(p.closers, cache)
	}
	if err := p.sources(ctx, r, pull); err != nil {
		return nil, err
	}
	if opts.Deltas == DeltaOnly && len(p.Plan.Missing) > 0 {
		return nil, p.noDelta()
	}
	if err := p.cover(ctx); err != nil {
		return nil, err
	}
	p.settleChain()
	p.count()
	if opts.Dest.Kind != "" && !opts.Dest.tree() {
		p.LayerSize = layerSize(p.tree.TOC.Nodes)
	}
	p.measure(p.footprint(ctx))
	p.tree.Layout = nil // assemble makes it again if a seed changes
	return p, nil
}

// expecter is a repository that asks for files while it connects, if it is told which.
type expecter interface {
	Expect(tag, platform string, blobs bool)
}

// expect says what will be read of an image before anything is.
func (p *Prepared) expect(files repo.Files, ref repo.Ref) {
	e, ok := files.(expecter)
	if !ok || ref.Digest != "" {
		return
	}
	platform, err := translate.ParsePlatform(ref.Platform)
	if err != nil {
		return // which is told later
	}
	e.Expect(ref.Name+"/"+ref.Tag+".json", translate.PlatformName(platform), p.all)
}

// checkDest refuses options that the destination cannot keep.
func (o *PullOptions) checkDest() error {
	switch {
	case o.UIDShift != 0 && o.Dest.Kind != RootFS:
		return errShift
	case o.Link == LinkHard && o.Dest.Kind != "":
		return errLink
	case o.InPlace:
		return o.check()
	}
	return nil
}

// present reports whether the root has the tree of the image.
func (p *Prepared) present(r *root.Root) bool {
	_, err := r.Tree(p.Image.Digest)
	if err != nil && !errors.Is(err, root.ErrNotFound) {
		p.opts.Logger.Warn("the root's tree of this image is damaged and is made again", "reason", err)
	}
	return err == nil
}

// open reads TAG.json or the manifest.
func (p *Prepared) open(ctx context.Context, ref repo.Ref) error {
	if b := p.opts.Bundle; b != nil {
		return p.openBundle(ctx, b, ref.Platform)
	}
	if ref.Registry {
		return p.openAttached(ctx, ref)
	}
	files, closer, err := p.opts.Clients.OpenMirrors(append([]string{ref.Repo}, p.opts.Mirrors...))
	if err != nil {
		return err
	}
	p.files.Files, p.closers = files, append(p.closers, closer)
	p.expect(files, ref)
	p.Image, err = repo.Open(ctx, &p.files, ref)
	return err
}

// warm begins to connect to the stores that chunks will be wanted from, if they may be.
func (p *Prepared) warm(pull bool) error {
	if !pull || p.opts.Offline || p.opts.Bundle != nil || p.opts.Deltas == DeltaOnly {
		return nil
	}
	clients, closer, err := p.opts.Clients.Warm(p.opts.Stores)
	if err != nil {
		return err
	}
	p.opts.Clients, p.closers = clients, append(p.closers, closer)
	return nil
}

// contents reads the table of contents, from the root if it is there.
func (p *Prepared) contents(ctx context.Context, r *root.Root) (err error) {
	if r != nil {
		if b, err := r.Blob(p.Image.Manifest.TOCDigest); err == nil {
			if p.tree, err = p.Image.ParseTree(b); err == nil {
				return nil
			}
		}
	}
	if p.opts.Deltas != DeltaNever {
		for _, by := range []func(context.Context, *root.Root) (*repo.Tree, error){p.treeByDelta, p.treeByChain} {
			if p.tree, err = by(ctx, r); err != nil || p.tree != nil {
				return err
			}
		}
	}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		p.tree, err = p.Image.Tree(gctx)
		return err
	})
	if p.all {
		// Everything is missing, so the indexes are needed for certain: at once,
		// as on a long link it is round trips that count.
		g.Go(func() error {
			_, err := p.loadSpace(gctx)
			return err
		})
	}
	return g.Wait()
}

// sources finds what seeds have and what deltas make.
func (p *Prepared) sources(ctx context.Context, r *root.Root, pull bool) error {
	seeds := seedOpener{root: r, log: p.opts.Logger}
	if r != nil {
		memory, save, err := openMemory(r, p.opts.Logger)
		if err != nil {
			return err
		}
		// What a plan that was cut has read is known to the next one.
		defer save()
		seeds.memory = memory
		if pull {
			seeds.spool = r.Path()
		}
	}
	if err := p.match(ctx, seeds, pull); err != nil {
		return err
	}
	if err := p.findBases(ctx); err != nil {
		return err
	}
	if err := p.chooseChain(ctx, r); err != nil {
		return err
	}
	return p.chooseDelta(ctx, r)
}

// match finds what the seeds have.
func (p *Prepared) match(ctx context.Context, seeds seedOpener, pull bool) (err error) {
	if p.opts.updates() { // what is in place comes first
		if err := seeds.dir(p.opts.Dest.rootfs()); err != nil {
			return err
		}
	}
	if seeds.seeds = append(seeds.seeds, p.opts.claimed...); len(p.opts.claimed) == 0 {
		err = seeds.open(p.opts.Seeds)
	}
	p.closers = append(p.closers, seeds.closers...)
	if err != nil {
		return err
	}
	search, err := seed.Look(ctx, p.tree.TOC.Nodes, seeds.seeds, p.opts.Logger)
	if err != nil {
		return err
	}
	p.Plan, p.archived = search.Known(), seeds.archived
	find := func(ctx context.Context) (err error) {
		p.Plan, err = search.Find(ctx)
		return err
	}
	if !pull || !search.Reads() {
		return find(ctx)
	}
	least := p.least(ctx)
	if err := p.leaveSpace(least); err != nil {
		return err
	}
	// A budget is for the whole plan, which is not known yet. A bundle is no link that
	// waits.
	// Where there are deltas, what is missing may cost less than its chunks.
	deltas := p.opts.Deltas != DeltaNever && len(p.Image.Deltas)+len(p.Image.Links) > 0
	if deltas || p.opts.MaxBytes >= 0 || p.opts.Offline || p.opts.Bundle != nil {
		return find(ctx)
	}
	return p.fetchBeside(ctx, search.Certain(p.tree.TOC.Nodes, p.tree.Layout), least, find)
}

// fetchBeside fetches the chunks of an early plan while find reads seeds. The image
// takes least bytes of the disk, at least.
func (p *Prepared) fetchBeside(ctx context.Context, early *seed.Plan, least int64, find func(context.Context) error) error {
	// What is little now may be much when the plan is complete. Then the whole
	// index is needed, and no parts of it beside.
	if len(early.Missing) == 0 || p.few(early) {
		return find(ctx)
	}
	space, err := p.spaceFor(ctx, early)
	if err != nil {
		return err
	}
	// The complete plan meets the same seeds again, and tells.
	if err := p.choose(ctx, early, space, nil); err != nil {
		return err
	}
	early.Sure(space)
	p.Plan = early // for the check, which must precede the first chunk
	p.measure(least)
	if err := p.Check(); err != nil {
		return err
	}
	from, err := p.openStore()
	if err != nil {
		return err
	}
	stop := make(chan struct{})
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		var err error
		p.early, err = assemble.Prefetch(ctx, stop, early.Chunks, space.Algorithm, from, p.cache, p.opts.Jobs)
		if err != nil && ctx.Err() == nil {
			// The plan has these chunks as well and meets the error again.
			p.opts.Logger.Info("fetching ahead of the plan ends", "reason", err)
		}
		return nil
	})
	g.Go(func() error {
		defer close(stop)
		return find(ctx)
	})
	return g.Wait()
}

// cover chooses the chunks of what no seed has.
func (p *Prepared) cover(ctx context.Context) error {
	if len(p.Plan.Missing) == 0 {
		p.Plan.Chunks = nil
		return nil // no chunk is needed, so no index is
	}
	space, err := p.spaceFor(ctx, p.Plan)
	if err != nil {
		return err
	}
	return p.choose(ctx, p.Plan, space, p.opts.Logger)
}

// choose gives a plan its chunks. log, which may be nil, is told of seeds of no use.
func (p *Prepared) choose(ctx context.Context, plan *seed.Plan, space *seed.Space, log *slog.Logger) error {
	cached := func(id chunk.ID) bool {
		if p.cache == nil {
			return false
		}
		_, err := p.cache.StoredSize(ctx, id)
		return err == nil
	}
	if p.opts.Bundle != nil {
		return p.chooseBundled(ctx, plan, space, log, cached)
	}
	if err := plan.Cover(p.tree.TOC.Nodes, p.tree.Layout, space, cached); err != nil {
		return err
	}
	for i := range plan.Chunks {
		if c := &plan.Chunks[i]; c.Origin == seed.Cached && p.early[c.ID] {
			c.Origin = seed.Early
		}
	}
	return plan.Recut(ctx, p.tree.TOC.Nodes, space, log)
}

// openStore opens where the chunks are.
func (p *Prepared) openStore() (store.Store, error) {
	if p.store != nil {
		return p.store, nil
	}
	if b := p.opts.Bundle; b != nil {
		p.store = b
		return b, nil
	}
	place := cmp.Or(p.place, p.Image.Ref.Repo)
	own, err := p.Image.StoreAt(place, p.opts.AllowStore)
	if err != nil {
		return nil, err
	}
	before := slices.Clone(p.opts.Stores)
	for _, mirror := range p.opts.Mirrors {
		at, err := p.Image.StoreAt(mirror, p.opts.AllowStore)
		if err != nil {
			return nil, err
		}
		if at != own && !slices.Contains(before, at) {
			before = append(before, at)
		}
	}
	s, closer, err := p.opts.Clients.OpenChunks(p.files.Files, place, own, before)
	if err != nil {
		return nil, err
	}
	p.store, p.closers = s, append(p.closers, closer)
	return s, nil
}
