package ocidest

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/ociv2-sync/ociv2-sync/internal/durable"
	"github.com/ociv2-sync/ociv2-sync/internal/registry"
)

// writeRegistry puts the image into a registry: the layer and the config unless it has
// them, then the manifest under its tag. The layer waits in a file, since its digest,
// by which the registry is asked, is known only at its end.
func writeRegistry(ctx context.Context, ref, _ string, img Image, opts Options) (_ *Written, err error) {
	repo, err := registry.Open(ref, opts.Registry)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, repo.Close()) }()
	// It is never committed, so it never has a name.
	f, err := durable.Create(filepath.Join(cmp.Or(opts.TempDir, "/var/tmp"), "layer"), 0o600)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	l, err := writeLayer(ctx, img, opts, f)
	if err != nil {
		return nil, err
	}
	config, manifest, err := documents(img, l)
	if err != nil {
		return nil, err
	}
	w := &Written{Digest: digest.FromBytes(manifest), LayerSize: l.Size, Omitted: l.omitted}
	put := func(d ocispec.Descriptor, content io.ReaderAt) error {
		there, err := repo.PutBlob(ctx, d, content)
		if !there {
			w.Sent += d.Size
		}
		return err
	}
	if err := put(l.Descriptor, &sending{ReaderAt: f, total: l.Size, note: opts.Sending}); err != nil {
		return nil, err
	}
	if err := put(ocispec.Descriptor{Digest: digest.FromBytes(config), Size: int64(len(config))}, bytes.NewReader(config)); err != nil {
		return nil, err
	}
	w.Sent += int64(len(manifest))
	return w, repo.PutManifest(ctx, indexEntry(manifest, ""), manifest, true)
}

// sending passes on how far a layer has been read, however often its parts are.
type sending struct {
	io.ReaderAt
	total, high int64
	note        func(n, total int64)
}

func (s *sending) ReadAt(p []byte, off int64) (int, error) {
	n, err := s.ReaderAt.ReadAt(p, off)
	if more := off + int64(n) - s.high; more > 0 && s.note != nil {
		s.high += more
		s.note(more, s.total)
	}
	return n, err
}
