package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/ociv2-sync/ociv2-sync/caibx"
	"github.com/ociv2-sync/ociv2-sync/catar"
	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/internal/ingest"
	"github.com/ociv2-sync/ociv2-sync/internal/ocisrc"
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
	// Compression is that of the chunks that the repository lacks.
	Compression store.Compression
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
	Ref repo.Ref
	// Platform is the one that the config states, or "".
	Platform string
	Digest   digest.Digest // of the manifest: what @sha256: pins
	TOC      digest.Digest
	Nodes    int
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
func Push(ctx context.Context, source string, ref repo.Ref, opts PushOptions) (*Pushed, error) {
	all, err := push(ctx, source, ref, []string{opts.Platform}, opts)
	if err != nil {
		return nil, err
	}
	return all[0], nil
}

// PushAll is Push for the images of all platforms that source has; a puller picks one of
// them by its platform.
func PushAll(ctx context.Context, source string, ref repo.Ref, opts PushOptions) ([]*Pushed, error) {
	platforms := []string{""}
	if !strings.HasPrefix(source, rootfsPrefix) {
		var err error
		if platforms, err = ocisrc.Platforms(ctx, source, opts.source()); err != nil {
			return nil, err
		}
	}
	return push(ctx, source, ref, platforms, opts)
}

// push publishes the images that source has for the given platforms.
func push(ctx context.Context, source string, ref repo.Ref, platforms []string, opts PushOptions) ([]*Pushed, error) {
	if err := checkTarget(ref); err != nil {
		return nil, err
	}
	var sources []sourceOpener
	for _, platform := range platforms {
		opts := opts
		opts.Platform = platform
		sources = append(sources, func(ctx context.Context) (*toc.Source, *translate.ImageInfo, error) {
			return openSource(ctx, source, opts)
		})
	}
	return publish(ctx, sources, ref, opts)
}

// sourceOpener reads a filesystem and the config of an image.
type sourceOpener func(ctx context.Context) (*toc.Source, *translate.ImageInfo, error)

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

// publish publishes filesystems with their configs under one tag. The first is read
// before anything is made.
func publish(ctx context.Context, sources []sourceOpener, ref repo.Ref, opts PushOptions) (all []*Pushed, err error) {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	src, info, err := sources[0](ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
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
	if opts.Jobs == 0 {
		opts.Jobs = st.Jobs
	}
	p := &publishing{space: space, st: st, ref: ref, opts: opts}
	defer func() { err = errors.Join(err, p.closers.close()) }()
	// No collection may remove what the images will need before they are there.
	err = repo.Reserve(ctx, space, opts.Now, func(ctx context.Context) error {
		if err := p.add(ctx, src, info); err != nil {
			return err
		}
		// The nodes make room for those of the next image, and of the final check.
		*src = toc.Source{Close: src.Close}
		for _, open := range sources[1:] {
			if err := p.addFrom(ctx, open); err != nil {
				return err
			}
		}
		return p.finish(ctx)
	})
	return p.done, err
}

// publishing are images on their way into a repository.
type publishing struct {
	space repo.Space
	st    stores.Target
	ref   repo.Ref
	opts  PushOptions

	images  []repo.Publication
	done    []*Pushed
	closers closers // the deltas
}

// addFrom is add for an image that is read for it.
func (p *publishing) addFrom(ctx context.Context, open sourceOpener) (err error) {
	src, info, err := open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	return p.add(ctx, src, info)
}

// finish makes the tag stand for the images.
func (p *publishing) finish(ctx context.Context) error {
	published, err := repo.Publish(ctx, p.space, p.ref, p.images...)
	if err != nil {
		return err
	}
	for i, r := range published {
		d := p.done[i]
		d.Digest, d.TOC, d.Metadata = r.Digest, r.TOCDigest, r.MetadataSize
	}
	return nil
}

// add brings an image's chunks into the store and makes its deltas.
func (p *publishing) add(ctx context.Context, src *toc.Source, info *translate.ImageInfo) error {
	opts, st := p.opts, p.st
	layout, err := toc.NewLayout(src.Nodes)
	if err != nil {
		return err
	}
	total := int64(layout.CatarSize + layout.ExtraSize)
	in := ingest.Options{
		Params: chunk.DefaultParams(), FeatureFlags: uint64(toc.ProjectionFlags), Store: st, Compression: opts.Compression, Jobs: opts.Jobs,
		Progress: func(done int64) {
			if opts.Progress != nil {
				opts.Progress(done, total)
			}
		},
	}
	main, err := stream(ctx, src, toc.WriteCatar, in)
	if err != nil {
		return err
	}
	results := []*ingest.Result{main}
	image := repo.Publication{Info: info, Catar: repo.Chunks{Index: main.Index, Sizes: main.Stored}, Now: opts.Now}
	if layout.ExtraSize > 0 {
		in.FeatureFlags = uint64(toc.ProjectionFlags & catar.SHA512_256)
		extra, err := stream(ctx, src, toc.WriteExtra, in)
		if err != nil {
			return err
		}
		results = append(results, extra)
		image.Extra = &repo.Chunks{Index: extra.Index, Sizes: extra.Stored}
	}
	// The chunks are on the disk before anything names them.
	if err := st.Flush(); err != nil {
		return err
	}
	if image.TOC, err = toc.Marshal(&toc.TOC{Nodes: src.Nodes}); err != nil {
		return err
	}
	to, err := newPublished(src.Nodes, image, layout, st)
	if err != nil {
		return err
	}
	ref := p.ref
	if info.Platform.OS != "" && info.Platform.Architecture != "" {
		ref.Platform = translate.PlatformName(info.Platform)
	}
	deltas, files, links, err := pushDeltas(ctx, p.space, ref, st, to, opts)
	for _, f := range files {
		p.closers = append(p.closers, f)
	}
	if err != nil {
		return err
	}
	image.Links = links
	for i, d := range deltas {
		if !d.Useless {
			image.Deltas = append(image.Deltas, d.entry(files[i]))
		}
	}
	done := &Pushed{
		Ref: p.ref, Platform: ref.Platform, Nodes: len(src.Nodes), CatarSize: int64(layout.CatarSize), Deltas: deltas,
	}
	for _, r := range results {
		done.Chunks += len(r.Index.Chunks)
		done.New += r.New.Chunks
		done.NewBytes += r.Packed
	}
	p.images, p.done = append(p.images, image), append(p.done, done)
	return nil
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
