package repo

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/ociv2-sync/ociv2-sync/caibx"
	"github.com/ociv2-sync/ociv2-sync/catar"
	"github.com/ociv2-sync/ociv2-sync/store"
	"github.com/ociv2-sync/ociv2-sync/toc"
	"github.com/ociv2-sync/ociv2-sync/translate"
)

// Image is an image in a repository whose manifest has been read.
type Image struct {
	// Ref is the reference that it was opened by.
	Ref Ref
	// Digest names the manifest, whose bytes are ManifestBytes.
	Digest        digest.Digest
	Manifest      *translate.Manifest
	ManifestBytes []byte
	// Config is the image's config, byte for byte.
	Config []byte
	// Serial and Pushed say which push of the tag this is and when it was; zero
	// for an image opened by digest.
	Serial uint64
	Pushed time.Time
	// TagBytes is TAG.json, nil for an image opened by digest. Opened are the blobs that were
	// read beside it, the manifest first if it is among them.
	TagBytes []byte
	Opened   []ocispec.Descriptor
	// Deltas are the deltas that end at this image, in the order in which the tag
	// lists them; none for an image opened by digest.
	Deltas []Delta
	// Links are deltas between earlier images of the name, which lead to one that a
	// delta of this image starts from.
	Links []Delta
	// Platforms are those for which the tag has images, OS/ARCH[/VARIANT], where
	// they are known.
	Platforms []string

	files Files
}

// Open reads the image that ref names from files, which are those of ref's
// repository. By tag that is one file, TAG.json; by digest it is two. The error
// wraps store.ErrNotFound when there is no such image; ErrMalformed,
// ErrMismatch or an error of package translate when what is there is wrong.
func Open(ctx context.Context, files Files, ref Ref) (*Image, error) {
	im := &Image{Ref: ref, Digest: ref.Digest, files: files}
	tag := &tagFile{}
	path := im.BlobPath(ref.Digest)
	if ref.Digest == "" {
		var err error
		path = ref.Name + "/" + ref.Tag + ".json"
		b, err := files.ReadFile(ctx, path, maxTag)
		if err != nil {
			return nil, im.absent(err)
		}
		if tag, err = parseTag(b); err != nil {
			return nil, objectError(files, path, err)
		}
		d, err := tag.image(ref.Platform)
		if err != nil {
			return nil, objectError(files, path, err)
		}
		im.Digest, im.Serial, im.Pushed, im.Platforms = d.Digest, tag.Serial, tag.Pushed, tag.platforms()
		im.TagBytes = b
		if im.ManifestBytes, err = im.object(ctx, tag, d); err != nil {
			return nil, err
		}
	} else if err := im.manifest(ctx); err != nil {
		return nil, err
	}
	m, err := translate.ParseManifest(im.ManifestBytes)
	if err == nil && m.FeatureFlags != uint64(toc.ProjectionFlags) {
		err = malformed("feature flags %#x, not %#x", m.FeatureFlags, uint64(toc.ProjectionFlags))
	}
	if err != nil {
		return nil, objectError(files, path, err)
	}
	im.Manifest = m
	im.Deltas, im.Links = tag.deltas(m.TOCDigest)
	if im.Config, err = im.object(ctx, tag, m.Config); err != nil {
		return nil, err
	}
	return im, nil
}

// absent is the error of reading what an image is opened by: where that is not there,
// there is no such image.
func (im *Image) absent(err error) error {
	if errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("repo: %s: %w: %w", im.Ref, ErrNoImage, err)
	}
	return fmt.Errorf("repo: %w", err)
}

// manifest reads the manifest of an image that is opened by its digest, which does
// not tell the size.
func (im *Image) manifest(ctx context.Context) error {
	path := im.BlobPath(im.Digest)
	b, err := im.files.ReadFile(ctx, path, translate.MaxManifest)
	if err != nil {
		return im.absent(err)
	}
	d := ocispec.Descriptor{Digest: im.Digest, Size: int64(len(b))}
	if err := checkBlob(d, b); err != nil {
		return objectError(im.files, path, err)
	}
	im.Opened = append(im.Opened, d)
	im.ManifestBytes = b
	return nil
}

// object gives the verified bytes of d: from the tag if it embeds them, else
// from the blob.
func (im *Image) object(ctx context.Context, tag *tagFile, d ocispec.Descriptor) ([]byte, error) {
	if b, ok := tag.embedded(d); ok {
		if err := checkBlob(d, b); err != nil {
			return nil, objectError(im.files, im.Ref.Name+"/"+im.Ref.Tag+".json", fmt.Errorf("embedded %s: %w", d.MediaType, err))
		}
		return b, nil
	}
	im.Opened = append(im.Opened, d)
	return im.blob(ctx, d)
}

// blob reads and verifies the blob d.
func (im *Image) blob(ctx context.Context, d ocispec.Descriptor) ([]byte, error) {
	path := im.BlobPath(d.Digest)
	b, err := im.files.ReadFile(ctx, path, d.Size)
	if errors.Is(err, store.ErrNotFound) {
		err = fmt.Errorf("%w: %w", ErrIncomplete, err)
	}
	if err != nil {
		return nil, fmt.Errorf("repo: %s: %w", d.MediaType, err)
	}
	if err := checkBlob(d, b); err != nil {
		return nil, objectError(im.files, path, fmt.Errorf("%s: %w", d.MediaType, err))
	}
	return b, nil
}

// BlobPath returns where in the repository a blob of the image is.
func (im *Image) BlobPath(d digest.Digest) string { return blobPath(im.Ref.Name, d) }

func blobPath(name string, d digest.Digest) string {
	return name + "/blobs/sha256/" + strings.TrimPrefix(d.String(), "sha256:")
}

// Files returns what the image is read through.
func (im *Image) Files() Files { return im.files }

// Tree is the filesystem of an image.
type Tree struct {
	TOC *toc.TOC
	// Canonical is the TOC's canonical bytes.
	Canonical []byte
	// Layout says where the contents lie in the image's catar and extra stream.
	Layout *toc.Layout
}

// Tree reads the table of contents. Its layout agrees with the sizes that the
// manifest gives for the catar and the extra stream.
func (im *Image) Tree(ctx context.Context) (*Tree, error) {
	m := im.Manifest
	packed, err := im.blob(ctx, m.TOC)
	if err != nil {
		return nil, err
	}
	var t *Tree
	b, err := toc.Decompress(packed, m.TOCSize)
	if err == nil {
		t, err = parseTree(b, m)
	}
	if err != nil {
		return nil, objectError(im.files, im.BlobPath(m.TOC.Digest), err)
	}
	return t, nil
}

// ParseTree is Tree for the canonical bytes of the table of contents, had from
// elsewhere.
func (im *Image) ParseTree(canonical []byte) (*Tree, error) { return parseTree(canonical, im.Manifest) }

// parseTree reads the canonical bytes of m's table of contents.
func parseTree(b []byte, m *translate.Manifest) (*Tree, error) {
	if d := digestOf(b); d != m.TOCDigest || int64(len(b)) != m.TOCSize {
		return nil, mismatch("%d bytes with digest %s, not %d with %s", len(b), d, m.TOCSize, m.TOCDigest)
	}
	t, err := toc.Parse(b)
	if err != nil {
		return nil, err
	}
	l, err := toc.NewLayout(t.Nodes)
	if err != nil {
		return nil, err
	}
	var extra uint64
	if m.Extra != nil {
		extra = m.Extra.Size
	}
	if l.CatarSize != m.Catar.Size || l.ExtraSize != extra {
		return nil, mismatch("a catar of %d and %d extra bytes, the index says %d and %d", l.CatarSize, l.ExtraSize, m.Catar.Size, extra)
	}
	return &Tree{TOC: t, Canonical: b, Layout: l}, nil
}

func digestOf(b []byte) digest.Digest {
	sum := sha256.Sum256(b)
	return digest.NewDigestFromBytes(digest.SHA256, sum[:])
}

// Chunks is the index of a stream, and the stored size in bytes of each of its
// chunks, in their order.
type Chunks struct {
	Index *caibx.Index
	Sizes []int64
}

// Catar reads the index of the image's catar and the sizes of its chunks.
func (im *Image) Catar(ctx context.Context) (Chunks, error) {
	return im.chunks(ctx, im.Manifest.Catar, im.Manifest.FeatureFlags)
}

// Extra is Catar for the extra stream; it has no index if the image has none.
func (im *Image) Extra(ctx context.Context) (Chunks, error) {
	if im.Manifest.Extra == nil {
		return Chunks{}, nil
	}
	return im.chunks(ctx, *im.Manifest.Extra, uint64(catar.SHA512_256))
}

func (im *Image) chunks(ctx context.Context, s translate.Stream, flags uint64) (Chunks, error) {
	var b, packed []byte // both at once: round trips count
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		b, err = im.blob(gctx, s.Index)
		return err
	})
	g.Go(func() (err error) {
		packed, err = im.blob(gctx, s.Sizes)
		return err
	})
	if err := g.Wait(); err != nil {
		return Chunks{}, err
	}
	x, err := caibx.Read(bytes.NewReader(b))
	switch {
	case err != nil:
	case x.Size() != s.Size:
		err = mismatch("index of %d bytes, the manifest says %d", x.Size(), s.Size)
	case x.FeatureFlags != flags:
		err = mismatch("feature flags %#x, not %#x", x.FeatureFlags, flags)
	}
	if err != nil {
		return Chunks{}, objectError(im.files, im.BlobPath(s.Index.Digest), err)
	}
	sizes, err := decodeSizes(packed, x)
	if err != nil {
		return Chunks{}, objectError(im.files, im.BlobPath(s.Sizes.Digest), err)
	}
	return Chunks{Index: x, Sizes: sizes}, nil
}
