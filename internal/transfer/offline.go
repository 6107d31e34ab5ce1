package transfer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/internal/assemble"
	"github.com/ociv2-sync/ociv2-sync/internal/durable"
	"github.com/ociv2-sync/ociv2-sync/internal/offline"
	"github.com/ociv2-sync/ociv2-sync/internal/repo"
	"github.com/ociv2-sync/ociv2-sync/internal/root"
	"github.com/ociv2-sync/ociv2-sync/seed"
	"github.com/ociv2-sync/ociv2-sync/store"
)

// BundleOptions are the options of MakeBundle.
type BundleOptions struct {
	// Have are the images that the devices have which the bundle is for.
	Have []repo.Ref
	// Pull says how the repository is reached, and whether deltas are used; what
	// else is in it is of no meaning.
	Pull PullOptions
	// Replace allows the file to be there already.
	Replace bool
	// TempDir is where what the devices have is written down; "" means the system's.
	TempDir string
}

// Bundled is what MakeBundle did.
type Bundled struct {
	// Digest names the image's manifest.
	Digest digest.Digest
	// Bytes is the size of the file.
	Bytes int64
	// Delta says that a delta is in it.
	Delta bool
	// Chunks counts the chunks in it.
	Chunks int
}

// MakeBundle writes a file from which a device can pull the image that ref names, if it has
// the images of opts.Have in its root. The file has what such a device would fetch from
// the repository, all of it verified.
func MakeBundle(ctx context.Context, ref repo.Ref, file string, opts BundleOptions) (_ *Bundled, err error) {
	if err := durable.CheckFile(file, opts.Replace); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(opts.TempDir, "ociv2-sync-bundle-")
	if err != nil {
		return nil, fmt.Errorf("transfer: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	pull := opts.Pull
	pull.Root, pull.MaxBytes, pull.Dest = dir, -1, Dest{}
	if pull.Logger == nil {
		pull.Logger = slog.New(slog.DiscardHandler)
	}
	r, err := root.Open(dir, root.Options{})
	if err != nil {
		return nil, err
	}
	var known []digest.Digest
	for _, have := range opts.Have {
		t, err := claim(ctx, r, have, &pull)
		if err != nil {
			return nil, err
		}
		known = append(known, t)
	}
	p, err := prepare(ctx, ref, r, pull, false)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	b := &bundler{p: p, known: known}
	return b.write(ctx, file)
}

// claim makes a root that looks as if it had an image: of its tree there is only the table of
// contents, and a seed in opts that says to have it all. It returns the digest of the
// table.
func claim(ctx context.Context, r *root.Root, ref repo.Ref, opts *PullOptions) (_ digest.Digest, err error) {
	p := &Prepared{opts: *opts}
	defer func() { err = errors.Join(err, p.Close()) }()
	if err := p.open(ctx, ref); err != nil {
		return "", err
	}
	t, err := p.Image.Tree(ctx)
	if err != nil {
		return "", err
	}
	w, err := r.Lock("bundle")
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, w.Unlock()) }()
	empty, err := w.TempTree()
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, empty.Remove()) }()
	blobs := root.Blobs{Manifest: p.Image.ManifestBytes, Config: p.Image.Config, TOC: t.Canonical}
	opts.claimed = append(opts.claimed, &claimed{ref: ref, tree: t})
	return p.Image.Manifest.TOCDigest, w.Commit(empty, blobs, ref.Name, rootTag(ref), ref.String())
}

// claimed is a seed of which nothing but its table of contents is here.
type claimed struct {
	ref  repo.Ref
	tree *repo.Tree
}

func (c *claimed) String() string { return "image " + c.ref.String() }

func (c *claimed) Find(ctx context.Context, want *seed.Wanted, found func(seed.Digest, string)) error {
	for i := range c.tree.TOC.Nodes {
		n := &c.tree.TOC.Nodes[i]
		if n.IsRegular() && n.Link < 0 && n.Size > 0 && want.Take(n.Digest, n.Size) {
			found(n.Digest, "")
		}
	}
	return ctx.Err()
}

func (c *claimed) Open(context.Context, string) (io.ReadCloser, error) {
	return nil, fmt.Errorf("transfer: %s: %w", c, store.ErrNotFound)
}

// bundler writes what a plan fetches to a bundle.
type bundler struct {
	p     *Prepared
	known []digest.Digest // tables of contents that the device has
	out   *offline.Writer
}

func (b *bundler) write(ctx context.Context, file string) (_ *Bundled, err error) {
	f, err := durable.Create(file, 0o644)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	b.out = offline.NewWriter(f)
	done := &Bundled{Digest: b.p.Image.Digest}
	err = b.metadata(ctx)
	if err == nil && !b.p.Present {
		done.Delta = b.p.delta != nil
		done.Chunks, err = b.chunks(ctx)
	}
	if err == nil {
		err = b.out.Close()
	}
	if err != nil {
		return nil, err
	}
	if done.Bytes, err = f.Seek(0, io.SeekCurrent); err != nil {
		return nil, fmt.Errorf("transfer: %w", err)
	}
	return done, f.Commit()
}

// metadata writes what leads to the contents: the tag, and the blobs that the device does not
// have.
func (b *bundler) metadata(ctx context.Context) error {
	im := b.p.Image
	m := im.Manifest
	if im.TagBytes != nil {
		name := im.Ref.Name + "/" + im.Ref.Tag + ".json"
		if err := b.out.File(name, int64(len(im.TagBytes)), bytes.NewReader(im.TagBytes)); err != nil {
			return err
		}
	}
	blobs := slices.Clone(im.Opened)
	if !b.p.Present {
		d := b.p.delta
		if !slices.Contains(b.known, m.TOCDigest) && (d == nil || !slices.Contains(b.known, d.From)) {
			blobs = append(blobs, m.TOC)
		}
		if len(b.p.Plan.Missing) > 0 {
			for _, blob := range m.Blobs() {
				if blob.Digest != m.Config.Digest && blob.Digest != m.TOC.Digest {
					blobs = append(blobs, blob)
				}
			}
		}
		if d != nil {
			blobs = append(blobs, ocispec.Descriptor{Digest: d.Blob, Size: d.Size})
		}
	}
	for _, blob := range blobs {
		if err := b.blob(ctx, blob); err != nil {
			return err
		}
	}
	return nil
}

// blob copies a blob of the repository and checks it on the way.
func (b *bundler) blob(ctx context.Context, d ocispec.Descriptor) (err error) {
	r, err := b.p.files.OpenAt(ctx, b.p.Image.BlobPath(d.Digest), 0, d.Size)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	v := d.Digest.Verifier()
	if err := b.out.File(b.p.Image.BlobPath(d.Digest), d.Size, io.TeeReader(r, v)); err != nil {
		return err
	}
	if !v.Verified() {
		return fmt.Errorf("transfer: %s: %w: another digest", d.Digest, repo.ErrMismatch)
	}
	return nil
}

// chunks copies the chunks that the plan fetches and returns how many.
func (b *bundler) chunks(ctx context.Context) (int, error) {
	st, err := b.p.openStore()
	if err != nil {
		return 0, err
	}
	if len(b.p.Plan.Chunks) == 0 {
		return 0, nil
	}
	// Many requests at a time, in any order, and then the order of the plan.
	never := make(chan struct{})
	if _, err := assemble.Prefetch(ctx, never, b.p.Plan.Chunks, b.p.space.Algorithm, st, b.p.cache, b.p.opts.Jobs); err != nil {
		return 0, err
	}
	seen := make(map[chunk.ID]bool)
	for i := range b.p.Plan.Chunks {
		c := &b.p.Plan.Chunks[i]
		if c.Origin != seed.Fetched || seen[c.ID] {
			continue
		}
		seen[c.ID] = true
		packed, err := b.p.cache.Get(ctx, c.ID, c.Stored)
		if err != nil {
			return 0, err
		}
		if err := b.out.Chunk(c.ID, packed); err != nil {
			return 0, err
		}
	}
	return len(seen), nil
}

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
	p.Image.Deltas = slices.DeleteFunc(p.Image.Deltas, func(d repo.Delta) bool { return !b.HasBlob(d.Blob) })
	if len(p.Image.Deltas) > 0 && !b.HasBlob(p.Image.Manifest.Catar.Index.Digest) {
		p.opts.Deltas = DeltaOnly
	}
	return nil
}
