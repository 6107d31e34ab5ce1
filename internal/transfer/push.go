package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/ociv2-sync/ociv2-sync/caibx"
	"github.com/ociv2-sync/ociv2-sync/catar"
	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/internal/ingest"
	"github.com/ociv2-sync/ociv2-sync/internal/pipe"
	"github.com/ociv2-sync/ociv2-sync/internal/registry"
	"github.com/ociv2-sync/ociv2-sync/internal/repo"
	"github.com/ociv2-sync/ociv2-sync/internal/stores"
	"github.com/ociv2-sync/ociv2-sync/seed"
	"github.com/ociv2-sync/ociv2-sync/store"
	"github.com/ociv2-sync/ociv2-sync/toc"
	"github.com/ociv2-sync/ociv2-sync/translate"
)

// PushOptions are the options of Push. The zero value works.
type PushOptions struct {
	// Platform selects the image of a source that has several: OS/ARCH or
	// OS/ARCH/VARIANT.
	Platform string
	// Registry says how a source in a registry is read.
	Registry registry.Options
	// Storage is that of podman and buildah, where a source in one names no other.
	Storage string
	// Limits bound what layers may ask for.
	Limits translate.Limits
	// TempDir is where contents wait between layers and chunks; "" means the
	// default of translate.MergeOptions.
	TempDir string
	// Jobs is the number of chunks worked on at a time; 0 means GOMAXPROCS.
	Jobs int
	// Progress is called with the bytes of the filesystem dealt with so far,
	// and with how many there are.
	Progress func(done, total int64)
	// Deltas is how many of the name's tags, those pushed last, deltas are made
	// from. DeltaFrom names more images to make them from, of any repository.
	// Full adds one from nothing: the whole image
	// in one file.
	Deltas    int
	DeltaFrom []repo.Ref
	Full      Full
	// DeltaMemory is DeltaOptions.Memory.
	DeltaMemory int64
	// DeltaProgress is called with the bytes of a delta's contents done so far,
	// and with how many there are.
	DeltaProgress func(done, total int64)
	// Clients reach repositories that are not on this machine.
	Clients stores.Clients
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Pushed is what Push published.
type Pushed struct {
	Ref    repo.Ref
	Digest digest.Digest // of the manifest: what @sha256: pins
	TOC    digest.Digest
	Nodes  int
	// Metadata is the size of the image's objects beside its chunks, in bytes.
	Metadata int64
	// CatarSize is the length of the filesystem's archive in bytes.
	CatarSize int64
	// Chunks counts those of the image, New those that the store did not have,
	// NewBytes what they take there.
	Chunks, New int
	NewBytes    int64
	// Deltas are those that were made, the useless ones included.
	Deltas []*MadeDelta
}

// Push publishes the image that source names under a tag of a repository in a
// directory. Source is what ocisrc.Open takes, or rootfs:DIR.
func Push(ctx context.Context, source string, ref repo.Ref, opts PushOptions) (_ *Pushed, err error) {
	if err := checkTarget(ref); err != nil {
		return nil, err
	}
	src, info, err := openSource(ctx, source, opts)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	return publish(ctx, src, info, ref, opts)
}

// checkTarget refuses a reference that nothing can be pushed to.
func checkTarget(ref repo.Ref) error {
	if stores.IsURL(ref.Repo) {
		return fmt.Errorf("transfer: %w: %s: images are pushed into a directory", ErrUsage, ref)
	}
	if ref.Digest != "" {
		return fmt.Errorf("transfer: %w: %s: an image is pushed to a tag", ErrUsage, ref)
	}
	return nil
}

// publish publishes a filesystem and the config in info.
func publish(ctx context.Context, src *toc.Source, info *translate.ImageInfo, ref repo.Ref, opts PushOptions) (p *Pushed, err error) {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	space, closer, err := opts.Clients.OpenSpace(ref.Repo, true)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, closer.Close()) }()
	st, err := opts.Clients.OpenTarget(ctx, space, repo.StoreName)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	// No collection may remove what the image will need before it is there.
	err = repo.Reserve(ctx, space, opts.Now, func(ctx context.Context) error {
		p, err = publishReserved(ctx, src, info, space, st, ref, opts)
		return err
	})
	return p, err
}

// publishReserved is publish with the repository and its chunk store open.
func publishReserved(ctx context.Context, src *toc.Source, info *translate.ImageInfo, space repo.Space, st stores.Target, ref repo.Ref, opts PushOptions) (*Pushed, error) {
	layout, err := toc.NewLayout(src.Nodes)
	if err != nil {
		return nil, err
	}
	total := int64(layout.CatarSize + layout.ExtraSize)
	if opts.Jobs == 0 {
		opts.Jobs = st.Jobs
	}
	in := ingest.Options{
		Params: chunk.DefaultParams(), FeatureFlags: uint64(toc.ProjectionFlags), Store: st, Jobs: opts.Jobs,
		Progress: func(done int64) {
			if opts.Progress != nil {
				opts.Progress(done, total)
			}
		},
	}
	main, err := stream(ctx, src, toc.WriteCatar, in)
	if err != nil {
		return nil, err
	}
	results := []*ingest.Result{main}
	image := repo.Publication{Info: info, Catar: repo.Chunks{Index: main.Index, Sizes: main.Stored}, Now: opts.Now}
	if layout.ExtraSize > 0 {
		in.FeatureFlags = uint64(toc.ProjectionFlags & catar.SHA512_256)
		extra, err := stream(ctx, src, toc.WriteExtra, in)
		if err != nil {
			return nil, err
		}
		results = append(results, extra)
		image.Extra = &repo.Chunks{Index: extra.Index, Sizes: extra.Stored}
	}
	// The chunks are on the disk before anything names them.
	if err := st.Flush(); err != nil {
		return nil, err
	}
	if image.TOC, err = toc.Marshal(&toc.TOC{Nodes: src.Nodes}); err != nil {
		return nil, err
	}
	to, err := newPublished(src.Nodes, image, layout, st)
	if err != nil {
		return nil, err
	}
	deltas, files, links, err := pushDeltas(ctx, space, ref, st, to, opts)
	defer func() {
		for _, f := range files {
			err = errors.Join(err, f.Close())
		}
	}()
	if err != nil {
		return nil, err
	}
	image.Links = links
	for i, d := range deltas {
		if !d.Useless {
			image.Deltas = append(image.Deltas, d.entry(files[i]))
		}
	}
	published, err := repo.Publish(ctx, space, ref, image)
	if err != nil {
		return nil, err
	}
	p := &Pushed{
		Ref: ref, Digest: published.Digest, TOC: published.TOCDigest, Metadata: published.MetadataSize,
		Nodes: len(src.Nodes), CatarSize: int64(layout.CatarSize), Deltas: deltas,
	}
	for _, r := range results {
		p.Chunks += len(r.Index.Chunks)
		p.New += r.New.Chunks
		p.NewBytes += r.Packed
	}
	return p, nil
}

// newPublished is what is about to be published.
func newPublished(nodes []toc.Node, p repo.Publication, layout *toc.Layout, st store.Store) (*published, error) {
	var extra *caibx.Index
	sizes := p.Catar.Sizes
	if p.Extra != nil {
		extra = p.Extra.Index
		sizes = append(sizes[:len(sizes):len(sizes)], p.Extra.Sizes...)
	}
	space, err := seed.NewSpace(p.Catar.Index, extra, sizes)
	return &published{
		tree:  &repo.Tree{TOC: &toc.TOC{Nodes: nodes}, Canonical: p.TOC, Layout: layout},
		space: space, store: st,
	}, err
}

// stream ingests what write makes of the source.
func stream(ctx context.Context, src *toc.Source, write func(context.Context, *toc.Source, io.Writer) error, in ingest.Options) (r *ingest.Result, err error) {
	err = pipe.Run(ctx, func(ctx context.Context, w io.Writer) error {
		return write(ctx, src, w)
	}, func(ctx context.Context, rd io.Reader) error {
		r, err = ingest.Stream(ctx, rd, in)
		return err
	})
	return r, err
}
