package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/ociv2-sync/ociv2-sync/internal/ocisrc"
	"github.com/ociv2-sync/ociv2-sync/internal/registry"
	"github.com/ociv2-sync/ociv2-sync/internal/repo"
	"github.com/ociv2-sync/ociv2-sync/internal/root"
	"github.com/ociv2-sync/ociv2-sync/store"
	"github.com/ociv2-sync/ociv2-sync/toc"
	"github.com/ociv2-sync/ociv2-sync/translate"
)

// ErrNotAttached says that an image in a registry has layers alone, and that those
// may not be fetched.
var ErrNotAttached = errors.New("nothing is attached to the image")

// ParseImage reads what names an image that can be pulled: one in a repository, as
// repo.ParseRef does, or docker://HOST/NAME[:TAG|@DIGEST], one in a registry that is
// talked to as opts say.
func ParseImage(s string, opts registry.Options) (repo.Ref, error) {
	rest, ok := strings.CutPrefix(s, Docker+":")
	if !ok {
		return repo.ParseRef(s)
	}
	host, name, reference, err := registry.Split(rest)
	if err != nil {
		return repo.Ref{}, fmt.Errorf("transfer: %s: %w", s, err)
	}
	scheme := "https://"
	if opts.PlainHTTP {
		scheme = "http://"
	}
	return repo.RegistryRef(scheme+host, name, reference)
}

// openAttached opens what is attached to an image in a registry. Where that is
// nothing, p.opts.layers makes something of the image's layers, if it is there.
func (p *Prepared) openAttached(ctx context.Context, ref repo.Ref) error {
	if len(p.opts.Mirrors) > 0 {
		return fmt.Errorf("transfer: %w: mirrors are of repositories, and %s is in a registry", ErrUsage, ref)
	}
	p.traffic = &registry.Traffic{}
	opts := p.opts.Registry
	opts.Traffic = p.traffic
	original, err := ocisrc.Open(ctx, ref.String(), ocisrc.Options{Platform: ref.Platform, Registry: opts})
	if err != nil {
		return err
	}
	p.closers = append(p.closers, closerFunc(original.Close))
	// A digest names the layers, and nothing that was attached to them later.
	if ref.Digest == "" {
		at, err := registry.Open(strings.TrimPrefix(ref.String(), Docker+":"), opts)
		if err != nil {
			return err
		}
		p.closers = append(p.closers, at)
		if p.Image, err = p.attachedTo(ctx, at, ref, original.Info()); err != nil {
			return err
		}
	}
	if p.Image != nil {
		// A pull that may not fetch the chunks ends before it has fetched anything.
		_, err := p.Image.Store(p.opts.AllowStore)
		return err
	}
	return p.openLayers(ctx, ref, original)
}

// attachedTo opens the last of the images attached to info's that can be used, and
// returns nil if there is none.
func (p *Prepared) attachedTo(ctx context.Context, at *registry.Repository, ref repo.Ref, info *translate.ImageInfo) (*repo.Image, error) {
	found, err := at.Referrers(ctx, ocispec.Descriptor{Digest: info.ManifestDigest}, translate.MediaTypeImage)
	if err != nil {
		return nil, fmt.Errorf("transfer: %s: what is attached: %w", ref, err)
	}
	for _, d := range slices.Backward(found) {
		p.files.Files = attachedFiles{at, d}
		named := ref
		named.Tag, named.Digest = "", d.Digest
		im, err := repo.Open(ctx, &p.files, named)
		if err == nil {
			err = checkAttached(im.Manifest, info)
		}
		if err == nil {
			im.Ref = ref
			return im, nil
		}
		if ctx.Err() != nil || errors.Is(err, registry.ErrNetwork) {
			return nil, err
		}
		p.opts.Logger.Warn("what is attached to the image is of no use", "image", ref, "manifest", d.Digest, "reason", err)
	}
	return nil, nil
}

// checkAttached compares a manifest with the image that it is said to be of.
func checkAttached(m *translate.Manifest, info *translate.ImageInfo) error {
	u, err := url.Parse(m.Store)
	switch {
	case m.Subject == nil || m.Subject.Digest != info.ManifestDigest || m.Source != info.ManifestDigest:
		return fmt.Errorf("%w: it was made from another image than %s", repo.ErrMismatch, info.ManifestDigest)
	case m.Config.Digest != digest.FromBytes(info.Config):
		return fmt.Errorf("%w: it has another config", repo.ErrMismatch)
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
		return fmt.Errorf("%w: chunk store %q is not an http(s) URL", repo.ErrMalformed, m.Store)
	}
	return nil
}

// attachedFiles are the objects of an image that is attached to one in a registry, as
// files of a repository. It implements repo.Files.
type attachedFiles struct {
	at       *registry.Repository
	manifest ocispec.Descriptor
}

// String implements repo.Files.
func (f attachedFiles) String() string { return Docker + "://" + f.at.String() }

// ReadFile implements repo.Files.
func (f attachedFiles) ReadFile(ctx context.Context, path string, limit int64) (_ []byte, err error) {
	d, err := f.object(path)
	if err != nil {
		return nil, err
	}
	if d.Digest == f.manifest.Digest {
		d = f.manifest
	} else {
		d.Size = limit
	}
	if d.Size < 0 || d.Size > limit {
		return nil, fmt.Errorf("%s: %w: %d bytes, more than %d", d.Digest, store.ErrTooLarge, d.Size, limit)
	}
	rc, err := f.at.Fetch(ctx, d)
	if err != nil {
		return nil, missing(err)
	}
	defer func() { err = errors.Join(err, rc.Close()) }()
	b, err := io.ReadAll(io.LimitReader(rc, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%s: %w: more than %d bytes", d.Digest, store.ErrTooLarge, limit)
	}
	return b, err
}

// OpenAt implements repo.Files.
func (f attachedFiles) OpenAt(ctx context.Context, path string, offset, size int64) (io.ReadCloser, error) {
	d, err := f.object(path)
	if err != nil {
		return nil, err
	}
	rc, err := f.at.FetchAt(ctx, d.Digest, offset, size)
	return rc, missing(err)
}

// object returns the object that a path names; there are no others.
func (f attachedFiles) object(path string) (ocispec.Descriptor, error) {
	_, hex, ok := strings.Cut(path, "/blobs/sha256/")
	if !ok {
		return ocispec.Descriptor{}, fmt.Errorf("%s: %s: %w", f, path, store.ErrNotFound)
	}
	return ocispec.Descriptor{MediaType: "application/octet-stream", Digest: digest.NewDigestFromEncoded(digest.SHA256, hex)}, nil
}

// missing words the failures of registries as repo.Files does.
func missing(err error) error {
	if errors.Is(err, registry.ErrNotFound) {
		return fmt.Errorf("%w: %w", store.ErrNotFound, err)
	}
	return err
}

// layersOpener publishes an image in a repository of its own, in a directory, which
// remove removes.
type layersOpener func(ctx context.Context, ref repo.Ref, original *ocisrc.Image) (dir string, remove func() error, err error)

// layersInto returns what publishes images in temporary directories of the root.
func layersInto(w *root.Writer, opts PullOptions) layersOpener {
	return func(ctx context.Context, ref repo.Ref, original *ocisrc.Image) (string, func() error, error) {
		t, err := w.TempTree()
		if err != nil {
			return "", nil, err
		}
		read := func(ctx context.Context) (*toc.Source, *translate.ImageInfo, error) {
			src, err := translate.Merge(ctx, original, translate.MergeOptions{TempDir: opts.TempDir})
			return src, original.Info(), err
		}
		ref.Repo, ref.Tag, ref.Digest = t.Path, repo.DefaultTag, ""
		if _, err := publish(ctx, []sourceOpener{read}, ref, PushOptions{Clients: opts.Clients}); err != nil {
			return "", nil, errors.Join(err, t.Remove())
		}
		return t.Path, t.Remove, nil
	}
}

// openLayers opens an image that has layers alone.
func (p *Prepared) openLayers(ctx context.Context, ref repo.Ref, original *ocisrc.Image) error {
	var size int64
	for _, l := range original.Info().Layers {
		size += l.Size
	}
	need := p.traffic.Bytes.Load() + size
	is := func(err error) error {
		return fmt.Errorf("transfer: %w: %s has only its layers, %d bytes in %d", err, ref, size, len(original.Info().Layers))
	}
	switch o := &p.opts; {
	case o.Offline:
		return is(ErrOffline)
	case o.Deltas == DeltaOnly:
		return is(ErrNoDelta)
	case o.layers == nil:
		return is(ErrNotAttached)
	case o.MaxBytes >= 0 && need > o.MaxBytes:
		return fmt.Errorf("transfer: %w: %s has only its layers and takes %d bytes, at most %d are allowed", ErrBudget, ref, need, o.MaxBytes)
	}
	why := "nothing is attached to it"
	if ref.Digest != "" {
		why = "a digest names the layers"
	}
	p.opts.Logger.Warn("the layers of the image are fetched whole", "image", ref, "layers", len(original.Info().Layers), "bytes", size, "reason", why)
	dir, remove, err := p.opts.layers(ctx, ref, original)
	if err != nil {
		return err
	}
	p.closers = append(p.closers, closerFunc(remove))
	files, closer, err := p.opts.Clients.OpenRepo(dir)
	if err != nil {
		return err
	}
	p.files.Files, p.closers = files, append(p.closers, closer)
	if p.Image, err = repo.Open(ctx, &p.files, repo.Ref{Repo: dir, Name: ref.Name, Tag: repo.DefaultTag}); err != nil {
		return err
	}
	p.Image.Ref, p.place, p.Layers = ref, dir, true
	// All of it is here: nothing else is looked at, and nothing more is fetched.
	p.opts.Seeds, p.opts.Stores, p.opts.MaxBytes, p.opts.Deltas = nil, nil, -1, DeltaNever
	return nil
}
