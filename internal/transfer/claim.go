package transfer

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"github.com/ociv2-sync/ociv2-sync/internal/assemble"
	"github.com/ociv2-sync/ociv2-sync/internal/repo"
	"github.com/ociv2-sync/ociv2-sync/internal/root"
	"github.com/ociv2-sync/ociv2-sync/seed"
	"github.com/ociv2-sync/ociv2-sync/store"
	"github.com/ociv2-sync/ociv2-sync/store/local"
	"github.com/ociv2-sync/ociv2-sync/toc"
)

// claim is an image that some device has. Its contents are read out of the repository.
type claim struct {
	p   *Prepared
	dir string // for what is read

	mu sync.Mutex // guards p.space and p.store, until they are there, and cache
	// cache has the chunks that were read.
	cache *local.Store
}

// newClaim makes a root look as if it had an image: of the tree there is only the table of
// contents.
func newClaim(ctx context.Context, r *root.Root, ref repo.Ref, opts PullOptions) (_ *claim, err error) {
	p := &Prepared{opts: opts}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.Close())
		}
	}()
	if err := p.open(ctx, ref); err != nil {
		return nil, err
	}
	if p.tree, err = p.Image.Tree(ctx); err != nil {
		return nil, err
	}
	w, err := r.Lock("bundle")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, w.Unlock()) }()
	empty, err := w.TempTree()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, empty.Remove()) }()
	blobs := root.Blobs{Manifest: p.Image.ManifestBytes, Config: p.Image.Config, TOC: p.tree.Canonical}
	if err := w.Commit(empty, blobs, ref.Name, rootTag(ref), ref.String()); err != nil {
		return nil, err
	}
	p.tree.Canonical = nil // the root has it now
	return &claim{p: p, dir: r.Path()}, nil
}

// open prepares for reading contents.
func (c *claim) open(ctx context.Context) (err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cache != nil {
		return nil
	}
	if _, err := c.p.loadSpace(ctx); err != nil {
		return err
	}
	if _, err := c.p.openStore(); err != nil {
		return err
	}
	dir := filepath.Join(c.dir, "old") // apart from the chunks that are for the bundle
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("transfer: %w", err)
	}
	cache, err := local.Open(dir, local.Options{Flat: true})
	if err == nil {
		c.cache, c.p.closers = cache, append(c.p.closers, cache)
	}
	return err
}

// read reads the content of a node into an unnamed file, verified.
func (c *claim) read(ctx context.Context, node int) (_ *os.File, err error) {
	if err := c.open(ctx); err != nil {
		return nil, err
	}
	n, space := &c.p.tree.TOC.Nodes[node], c.p.space
	at := uint64(c.p.tree.Layout.Offset[node])
	end := at + uint64(n.Size)
	chunks := space.Chunks(at, uint64(n.Size))
	for i := range chunks {
		if _, err := c.cache.StoredSize(ctx, chunks[i].ID); err == nil {
			chunks[i].Origin = seed.Cached
		}
	}
	never := make(chan struct{})
	if _, err := assemble.Prefetch(ctx, never, chunks, space.Algorithm, c.p.store, c.cache, c.p.opts.Jobs); err != nil {
		return nil, err
	}
	f, err := tempFile(c.dir)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	h := sha256.New()
	for i := range chunks {
		k := &chunks[i]
		packed, err := c.cache.Get(ctx, k.ID, store.MaxPacked(k.Size))
		if err != nil {
			return nil, err
		}
		data, err := store.Unpack(nil, packed, space.Algorithm, k.ID, k.Size)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.cache, err)
		}
		data = data[max(at, k.Offset)-k.Offset : min(end, k.Offset+k.Size)-k.Offset]
		if _, err := io.MultiWriter(h, f).Write(data); err != nil {
			return nil, fmt.Errorf("transfer: %w", err)
		}
	}
	if seed.Digest(h.Sum(nil)) != n.Digest {
		return nil, fmt.Errorf("transfer: %w: %q", toc.ErrContent, toc.Path(c.p.tree.TOC.Nodes, node))
	}
	return f, nil
}
