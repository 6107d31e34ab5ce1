package transfer

import (
	"bytes"
	"cmp"
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
	var had []*claim
	defer func() {
		for _, c := range had {
			err = errors.Join(err, c.p.Close())
		}
	}()
	known := make(map[digest.Digest]bool)
	for _, have := range opts.Have {
		c, err := newClaim(ctx, r, have, opts.Pull)
		if err != nil {
			return nil, err
		}
		had, known[c.p.Image.Manifest.TOCDigest] = append(had, c), true
	}
	// A root has its trees in this order.
	slices.SortFunc(had, func(a, b *claim) int { return cmp.Compare(a.p.Image.Digest, b.p.Image.Digest) })
	for _, c := range had {
		pull.claimed = append(pull.claimed, seed.NewClaim("image "+c.p.Image.Ref.String(), c.p.tree.TOC.Nodes, c.read))
	}
	p, err := prepare(ctx, ref, r, pull, false)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	b := &bundler{p: p, known: known}
	return b.write(ctx, file)
}

// bundler writes what a plan fetches to a bundle.
type bundler struct {
	p     *Prepared
	known map[digest.Digest]bool // tables of contents that the device has
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
		done.Delta = b.p.delta != nil || len(b.p.links) > 0
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
	if im.TagBytes != nil {
		name := im.Ref.Name + "/" + im.Ref.Tag + ".json"
		if err := b.out.File(name, int64(len(im.TagBytes)), bytes.NewReader(im.TagBytes)); err != nil {
			return err
		}
	}
	blobs := slices.Clone(im.Opened)
	if !b.p.Present {
		blobs = append(blobs, b.needed()...)
	}
	for _, blob := range blobs {
		if err := b.blob(ctx, blob); err != nil {
			return err
		}
	}
	return nil
}

// needed returns the blobs beside manifest and config that the device needs.
func (b *bundler) needed() (blobs []ocispec.Descriptor) {
	m := b.p.Image.Manifest
	var deltas []*deltaFile
	if len(b.p.links) > 0 {
		deltas = b.p.chain
	}
	if b.p.delta != nil {
		deltas = append(deltas, b.p.delta)
	}
	// The first delta brings the table of contents, or a part of it.
	if !b.known[m.TOCDigest] && (len(deltas) == 0 || !b.known[deltas[0].From]) {
		blobs = append(blobs, m.TOC)
	}
	if len(b.p.Plan.Missing) > 0 {
		for _, blob := range m.Blobs() {
			// What says where chunks lie is for those who read parts of the index.
			spans := m.Spans != nil && blob.Digest == m.Spans.Digest && b.p.spans == nil
			if blob.Digest != m.Config.Digest && blob.Digest != m.TOC.Digest && !spans {
				blobs = append(blobs, blob)
			}
		}
	}
	for _, d := range deltas {
		blobs = append(blobs, ocispec.Descriptor{Digest: d.Blob, Size: d.Size})
	}
	return blobs
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
	if err := b.bases(); err != nil {
		return 0, err
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

// bases writes which chunks are not in the bundle because the device has them.
func (b *bundler) bases() error {
	bases, parts := b.p.Plan.Parts(b.p.space)
	if len(parts) == 0 {
		return nil
	}
	list := &offline.Bases{}
	for _, base := range bases {
		list.Bases = append(list.Bases, offline.Base(base))
	}
	for _, part := range parts {
		list.Parts = append(list.Parts, offline.Part(part))
	}
	return b.out.Bases(b.p.Image.Ref.Name, list)
}
