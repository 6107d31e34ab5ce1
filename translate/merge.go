package translate

import (
	"archive/tar"
	"cmp"
	"context"
	"errors"
	"io"
	"maps"
	"slices"

	"github.com/ociv2-sync/ociv2-sync/toc"
)

// Merge reads the layers of an image and returns the filesystem that they make,
// merged with the rules of umoci, in the canonical order of a TOC and with all
// digests known. The same filesystem gives the same nodes, whatever its layers,
// their compression, tar dialect or order.
//
// Each layer is streamed, the uppermost first, so that contents hidden by upper
// layers are neither hashed nor kept; the others are kept in a file without a
// name until Close is called on the result. Memory grows with the number of
// nodes, not with their contents.
//
// Before anything is returned every layer has matched its digest, size and
// diff_id. Errors that are about a layer are a *LayerError and wrap ErrMalformed,
// ErrMismatch, ErrLimit or ErrUnsupported, or are what Open or reading the layer
// failed with.
func Merge(ctx context.Context, src Source, opts MergeOptions) (_ *toc.Source, err error) {
	sp, err := newSpool(cmp.Or(opts.TempDir, "/var/tmp"))
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, sp.f.Close())
		}
	}()
	m := &merger{src: src, info: src.Info(), limits: opts.Limits.withDefaults(), spool: sp}
	ops := make([][]op, len(m.info.Layers))
	hidden := newShadow()
	for i := len(ops) - 1; i >= 0; i-- {
		if ops[i], err = m.readOps(ctx, i, hidden); err != nil {
			return nil, err
		}
		if i > 0 { // nothing is below the lowest
			hidden.add(ops[i])
		}
	}
	sp.forget()
	t := &tree{root: newDir(), maxPath: m.limits.Path}
	for i := range ops {
		if entry, err := t.apply(ctx, i, ops[i]); err != nil {
			return nil, m.layerError(i, entry, err)
		}
		ops[i] = nil
	}
	list := newLister(t.root)
	if err := m.readMissing(ctx, list); err != nil {
		return nil, err
	}
	if err := sp.seal(); err != nil {
		return nil, err
	}
	return list.source(sp), nil
}

// merger is one call of Merge.
type merger struct {
	src    Source
	info   *ImageInfo
	limits Limits
	spool  *spool

	// What has been used of the limits.
	bytes, content, metadata int64
	entries                  int
}

func (m *merger) layerError(i int, entry string, err error) error {
	l := m.info.Layers[i]
	return &LayerError{Index: i, Count: len(m.info.Layers), Digest: cmp.Or(l.Digest, l.DiffID), Entry: entry, Err: err}
}

// readOps reads layer i, keeps the contents that hidden does not hide, and
// returns what the layer does.
func (m *merger) readOps(ctx context.Context, i int, hidden *shadow) ([]op, error) {
	var ops []op
	err := m.readLayer(ctx, i, func(ord int, h *tar.Header, content io.Reader) error {
		o, err := m.decode(i, ord, h)
		if o == nil || err != nil {
			return err
		}
		ops = append(ops, *o)
		if o.kind != opSet || o.ino.size == 0 || hidden.hides(o.path) {
			return nil
		}
		o.ino.off, o.ino.digest, err = m.spool.add(content, o.ino.size)
		return err
	})
	return ops, err
}

// readMissing reads once more the layers of those contents that names alone
// said were hidden, and that are in the tree all the same.
func (m *merger) readMissing(ctx context.Context, l *lister) error {
	missing := map[int32]map[int32]int{} // layer, entry -> node
	for i := range l.nodes {
		n, at := &l.nodes[i], l.origin[i]
		if n.Link >= 0 || n.Size == 0 || at.off >= 0 {
			continue
		}
		if missing[at.layer] == nil {
			missing[at.layer] = map[int32]int{}
		}
		missing[at.layer][at.ord] = i
	}
	for _, layer := range slices.Sorted(maps.Keys(missing)) {
		m.bytes = 0 // every layer has passed this limit by now
		err := m.readLayer(ctx, int(layer), func(ord int, _ *tar.Header, content io.Reader) error {
			n, ok := missing[layer][int32(ord)]
			if !ok {
				return nil
			}
			var err error
			l.origin[n].off, l.nodes[n].Digest, err = m.spool.add(content, l.nodes[n].Size)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}
