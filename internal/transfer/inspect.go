package transfer

import (
	"context"
	"errors"
	"log/slog"
	"slices"

	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/internal/registry"
	"github.com/ociv2-sync/ociv2-sync/internal/repo"
	"github.com/ociv2-sync/ociv2-sync/internal/stores"
	"github.com/ociv2-sync/ociv2-sync/store"
	"github.com/ociv2-sync/ociv2-sync/toc"
)

// LookOptions say how the metadata of images is reached. The zero value works for
// repositories in directories.
type LookOptions struct {
	// Clients reach repositories, Registry says how registries are talked to.
	Clients  stores.Clients
	Registry registry.Options
	// Logger is told of what is passed over; nil discards that.
	Logger *slog.Logger
}

// prepared returns what opens images with these options. Their chunks are not asked
// for, so it does not matter where those are.
func (o LookOptions) prepared() *Prepared {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Prepared{opts: PullOptions{Clients: o.Clients, Registry: o.Registry, Logger: o.Logger, AllowStore: true}}
}

// Contents reads an image's table of contents, and nothing else but what leads
// to it.
func Contents(ctx context.Context, ref repo.Ref, opts LookOptions) (_ *toc.TOC, err error) {
	p := opts.prepared()
	defer func() { err = errors.Join(err, p.Close()) }()
	if err := p.open(ctx, ref); err != nil {
		return nil, err
	}
	t, err := p.Image.Tree(ctx)
	if err != nil {
		return nil, err
	}
	return t.TOC, nil
}

// Inspection is what the metadata of an image says of it.
type Inspection struct {
	Image *repo.Image
	// Tags are those of the image's name, nil where the repository does not list them.
	Tags []string
	// Nodes, Directories, Files and Links count the nodes of all kinds, directories,
	// regular files, and further names of hard links.
	Nodes, Directories, Files, Links int
	// ContentBytes are those of all files, Contents and DistinctBytes count what differs
	// among them.
	ContentBytes            int64
	Contents                int
	DistinctBytes           int64
	Chunks, DistinctChunks  int
	StoredBytes             int64 // of the distinct chunks, as they are stored
	SmallestChunk, Largest  uint64
	ChunkMin, Avg, ChunkMax uint64 // the parameters of the chunker
	// MetadataBytes is the size of the objects that the manifest names.
	MetadataBytes int64
}

// Inspect reads all metadata of an image.
func Inspect(ctx context.Context, ref repo.Ref, opts LookOptions) (_ *Inspection, err error) {
	p := opts.prepared()
	defer func() { err = errors.Join(err, p.Close()) }()
	if err := p.open(ctx, ref); err != nil {
		return nil, err
	}
	in := &Inspection{Image: p.Image}
	tree, err := p.Image.Tree(ctx)
	if err != nil {
		return nil, err
	}
	in.count(tree.TOC.Nodes)
	if err := in.countChunks(ctx); err != nil {
		return nil, err
	}
	for _, d := range p.Image.Manifest.Blobs() {
		in.MetadataBytes += d.Size
	}
	names, err := repo.Catalog(ctx, &p.files)
	switch i := slices.IndexFunc(names, func(n repo.Name) bool { return n.Name == ref.Name }); {
	case errors.Is(err, store.ErrNotFound):
	case err != nil:
		return nil, err
	case i >= 0:
		in.Tags = names[i].Tags
	}
	return in, nil
}

// count takes stock of the nodes.
func (in *Inspection) count(nodes []toc.Node) {
	in.Nodes = len(nodes)
	seen := map[[32]byte]bool{}
	for i := range nodes {
		n := &nodes[i]
		switch {
		case n.IsDir():
			in.Directories++
		case n.Link >= 0:
			in.Links++
		case n.IsRegular():
			in.Files++
			in.ContentBytes += n.Size
			if n.Size > 0 && !seen[n.Digest] {
				seen[n.Digest] = true
				in.Contents++
				in.DistinctBytes += n.Size
			}
		}
	}
}

// countChunks takes stock of the chunks of both streams.
func (in *Inspection) countChunks(ctx context.Context) error {
	catar, err := in.Image.Catar(ctx)
	if err != nil {
		return err
	}
	extra, err := in.Image.Extra(ctx)
	if err != nil {
		return err
	}
	params := catar.Index.Params
	in.ChunkMin, in.Avg, in.ChunkMax = params.Min, params.Avg, params.Max
	seen := map[chunk.ID]bool{}
	for _, s := range []repo.Chunks{catar, extra} {
		if s.Index == nil {
			continue
		}
		for i, c := range s.Index.Chunks {
			_, size := s.Index.Span(i)
			if in.Chunks == 0 || size < in.SmallestChunk {
				in.SmallestChunk = size
			}
			in.Largest = max(in.Largest, size)
			in.Chunks++
			if !seen[c.ID] {
				seen[c.ID] = true
				in.DistinctChunks++
				in.StoredBytes += s.Sizes[i]
			}
		}
	}
	return nil
}
