package transfer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"slices"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/internal/assemble"
	"github.com/ociv2-sync/ociv2-sync/internal/ocidest"
	"github.com/ociv2-sync/ociv2-sync/internal/offline"
	"github.com/ociv2-sync/ociv2-sync/internal/registry"
	"github.com/ociv2-sync/ociv2-sync/internal/repo"
	"github.com/ociv2-sync/ociv2-sync/internal/root"
	"github.com/ociv2-sync/ociv2-sync/internal/stores"
	"github.com/ociv2-sync/ociv2-sync/seed"
	"github.com/ociv2-sync/ociv2-sync/store"
	"github.com/ociv2-sync/ociv2-sync/store/local"
)

// PullOptions are the options of pulling and of planning a pull.
type PullOptions struct {
	// Root is the path of the device's images. They are seeds, and the cache
	// of what was fetched is there, also when the image goes elsewhere.
	Root string
	// Seeds are paths of further seeds.
	Seeds []string
	// Dest is where to pull to; the zero value means the root.
	Dest Dest
	// Replace allows Dest to be there already: a directory is exchanged, a file
	// replaced.
	Replace bool
	// InPlace turns a Dest directory that is there into the image: what does not differ
	// is not touched, what the image does not have is removed.
	InPlace bool
	// Bundle, if not nil, is read in place of the repository, and closed at the end.
	Bundle *offline.Bundle
	// Link says how files get what is on the device already.
	Link LinkPolicy
	// UIDShift is added to owners and groups; only with a Dest of RootFS.
	UIDShift uint32
	// Lenient accepts a tree that lacks what the system did not let us restore,
	// as for an ordinary user owners and devices. Otherwise that is an
	// UnrestoredError.
	Lenient bool
	// Compression is that of the layer of an image.
	Compression ocidest.Compression
	// Registry says how a registry is talked to; TempDir is where the layer waits for
	// it, "" for the default of ocidest.Options.
	Registry registry.Options
	TempDir  string
	// Deltas says whether deltas are used.
	Deltas DeltaPolicy
	// Mirrors are other places of the image's repository.
	Mirrors []string
	// Stores are asked for chunks before the image's own store.
	Stores []string
	// AllowStore lets an image name a chunk store outside its own origin.
	AllowStore bool
	// MaxBytes is the most that may be fetched, metadata included; negative
	// means no limit.
	MaxBytes int64
	// Offline forbids to fetch anything but metadata.
	Offline bool
	// Clients reach repositories and stores that are not on this machine.
	Clients stores.Clients
	// Jobs is the number of chunks requested at a time; 0 means 16.
	Jobs int
	// Logger may be nil.
	Logger *slog.Logger
	// Progress is called from several goroutines with the stored bytes
	// received and the bytes of contents completed since the last call.
	Progress func(received, completed int64)
	// Wrote is called with the bytes of a layer, uncompressed, that were written
	// since the last call.
	Wrote func(n int64)
	// Sending is called with the bytes of that layer that were sent to a registry
	// since the last call, and with how many there are. By then the other two are
	// called no more.
	Sending func(n, total int64)

	layers  layersOpener
	claimed []seed.Seed // that are elsewhere: for a plan that is not carried out here
}

var errShift = fmt.Errorf("transfer: %w: owners are shifted only in a directory of their own (rootfs:DIR)", ErrUsage)

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
	spoiled  error           // why one was of no use
	noParts  bool            // the server sends no parts of files
	archived []*seed.Archive // seeds
	cache    *local.Store
	store    store.Store       // nil until it is opened
	early    map[chunk.ID]bool // chunks that were fetched while seeds were read
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
	if opts.UIDShift != 0 && opts.Dest.Kind != RootFS {
		return nil, errShift
	}
	if opts.Link == LinkHard && opts.Dest.Kind != "" {
		return nil, errLink
	}
	if opts.InPlace {
		if err := opts.check(); err != nil {
			return nil, err
		}
	}
	p := &Prepared{opts: opts}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.Close())
		}
	}()
	if err := p.open(ctx, ref); err != nil {
		return nil, err
	}
	if r != nil && opts.Dest.Kind == "" {
		_, err := r.Tree(p.Image.Digest)
		if err == nil {
			p.Present = true
			p.count()
			return p, nil
		}
		if !errors.Is(err, root.ErrNotFound) {
			opts.Logger.Warn("the root's tree of this image is damaged and is made again", "reason", err)
		}
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
	if !p.opts.InPlace && !p.hasTrees(r) {
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
	err = seeds.open(p.opts.Seeds)
	p.closers = append(p.closers, seeds.closers...)
	if err != nil {
		return err
	}
	seeds.seeds = append(seeds.seeds, p.opts.claimed...)
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
	// A budget is for the whole plan, which is not known yet.
	// Where there are deltas, what is missing may cost less than its chunks.
	deltas := p.opts.Deltas != DeltaNever && len(p.Image.Deltas)+len(p.Image.Links) > 0
	if deltas || p.opts.MaxBytes >= 0 || p.opts.Offline {
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
	err := plan.Cover(p.tree.TOC.Nodes, p.tree.Layout, space, func(id chunk.ID) bool {
		if p.cache == nil {
			return false
		}
		_, err := p.cache.StoredSize(ctx, id)
		return err == nil
	})
	if err != nil {
		return err
	}
	for i := range plan.Chunks {
		if c := &plan.Chunks[i]; c.Origin == seed.Cached && p.early[c.ID] {
			c.Origin = seed.Early
		}
	}
	return plan.Recut(ctx, p.tree.TOC.Nodes, space, log)
}

// count takes stock of the metadata that was fetched.
func (p *Prepared) count() {
	p.MetaRequests, p.MetaBytes = p.files.requests.Load(), p.files.bytes.Load()
	if p.traffic != nil {
		p.MetaRequests, p.MetaBytes = p.traffic.Requests.Load(), p.traffic.Bytes.Load()
	}
}

// Check refuses a plan that may not be carried out, with ErrBudget or a
// *MissingError, or cannot be, with ErrSpace.
func (p *Prepared) Check() error {
	if p.opts.Offline && !p.Present {
		if err := p.missing(); err != nil {
			return err
		}
	}
	if need := p.Total(); p.opts.MaxBytes >= 0 && need > p.opts.MaxBytes {
		return fmt.Errorf("transfer: %w: %s takes %d bytes, at most %d are allowed", ErrBudget, p.Image.Ref, need, p.opts.MaxBytes)
	}
	if p.Present {
		return nil
	}
	return p.checkDisk()
}

// Total returns the number of bytes that the pull transfers in all, those of
// the metadata that have been transferred included.
func (p *Prepared) Total() int64 {
	if p.Present {
		return p.MetaBytes
	}
	return p.MetaBytes + p.wire()
}

// wire returns the bytes of chunks and of a delta that the pull transfers, those
// fetched while seeds were read included.
func (p *Prepared) wire() int64 { return p.Wire() + p.Plan.PerOrigin(seed.Early).Wire }

// Wire returns the number of bytes that are still to be transferred.
func (p *Prepared) Wire() int64 {
	n := p.Plan.PerOrigin(seed.Fetched).Wire
	bytes, _ := p.ofDeltas()
	return n + bytes
}

// ofDeltas returns what is still to be transferred of deltas, and in how many
// requests.
func (p *Prepared) ofDeltas() (bytes, requests int64) {
	var files []*deltaFile
	for _, l := range p.links {
		files = append(files, l.file)
	}
	if p.delta != nil {
		files = append(files, p.delta)
	}
	for _, f := range files {
		if n := f.rest(); n > 0 {
			bytes += n
			requests++
		}
	}
	return bytes, requests
}

// DeltaUse is what a plan takes from deltas.
type DeltaUse struct {
	// Use is what the last delta makes; what those before it make is a seed.
	seed.Use
	// Fetched and Requests are what is still to be transferred of all of them.
	Fetched, Requests int64
}

// Delta returns what the plan takes from deltas. It says false if it takes
// nothing.
func (p *Prepared) Delta() (use DeltaUse, ok bool) {
	if p.Plan == nil || p.delta == nil && len(p.links) == 0 {
		return use, false
	}
	use.Use = p.Plan.FromDelta()
	use.Fetched, use.Requests = p.ofDeltas()
	return use, true
}

// Requests returns the number of requests that the pull makes in all.
func (p *Prepared) Requests() int64 {
	if p.Present {
		return p.MetaRequests
	}
	n := p.MetaRequests + int64(p.Plan.PerOrigin(seed.Fetched).Chunks+p.Plan.PerOrigin(seed.Early).Chunks)
	_, requests := p.ofDeltas()
	return n + requests
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

// countingFiles counts what is read of a repository.
type countingFiles struct {
	repo.Files
	requests, bytes atomic.Int64
}

func (f *countingFiles) ReadFile(ctx context.Context, path string, limit int64) ([]byte, error) {
	b, err := f.Files.ReadFile(ctx, path, limit)
	f.requests.Add(1)
	f.bytes.Add(int64(len(b)))
	return b, err
}
