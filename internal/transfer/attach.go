package transfer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/ociv2-sync/ociv2-sync/internal/registry"
	"github.com/ociv2-sync/ociv2-sync/internal/repo"
	"github.com/ociv2-sync/ociv2-sync/translate"
)

// Attached is what Attach did.
type Attached struct {
	// Subject names the manifest in the registry, Digest the one attached to it.
	Subject, Digest digest.Digest
	// Sent are the bytes that the registry did not have.
	Sent int64
}

// CheckAttach refuses, with ErrUsage, what Attach cannot do: a source that is in no
// registry, and a store that is not an http(s) URL.
func CheckAttach(source, at string) error {
	u, err := url.Parse(at)
	switch {
	case !strings.HasPrefix(source, Docker+":"):
		return fmt.Errorf("transfer: %w: only to an image of a registry can something be attached, docker://HOST/NAME[:TAG]", ErrUsage)
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.User != nil:
		return fmt.Errorf("transfer: %w: the chunk store of what is attached is an http(s) URL without a user, as devices reach it", ErrUsage)
	}
	return nil
}

// Attach puts the manifest of an image that was pushed from source, a registry, and
// all that it names, beside that image: as a manifest whose subject that is, with
// its chunks at the URL at (docs/format/repository.md, section 9).
func Attach(ctx context.Context, source string, pushed *Pushed, at string, opts PushOptions) (_ *Attached, err error) {
	if err := CheckAttach(source, at); err != nil {
		return nil, err
	}
	ref := pushed.Ref
	ref.Tag, ref.Digest = "", pushed.Digest
	files, closer, err := opts.Clients.OpenSpace(ref.Repo, false)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, closer.Close()) }()
	im, err := repo.Open(ctx, files, ref)
	if err != nil {
		return nil, err
	}
	to, err := registry.Open(strings.TrimPrefix(source, Docker+":"), opts.Registry)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	subject, err := to.Describe(ctx, im.Manifest.Source)
	if err != nil {
		return nil, fmt.Errorf("transfer: attach to %s@%s: %w", to, im.Manifest.Source, err)
	}
	m := *im.Manifest
	m.Subject, m.Store = &subject, at
	manifest, err := m.Encode()
	if err != nil {
		return nil, err
	}
	out := &Attached{Subject: subject.Digest, Digest: digest.FromBytes(manifest), Sent: int64(len(manifest))}
	put := func(d ocispec.Descriptor, b []byte) error {
		there, err := to.PutBlob(ctx, d, bytes.NewReader(b))
		if err == nil && !there {
			out.Sent += d.Size
		}
		return err
	}
	err = put(ocispec.DescriptorEmptyJSON, ocispec.DescriptorEmptyJSON.Data)
	for _, d := range m.Blobs() {
		if err != nil {
			break
		}
		var b []byte
		if b, err = files.ReadFile(ctx, im.BlobPath(d.Digest), d.Size); err == nil {
			err = put(d, b) // which the registry compares with its digest
		}
	}
	if err == nil {
		d := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, ArtifactType: translate.MediaTypeImage, Digest: out.Digest, Size: int64(len(manifest))}
		err = to.PutManifest(ctx, d, manifest, false)
	}
	if err != nil {
		return nil, fmt.Errorf("transfer: attach to %s@%s: %w", to, subject.Digest, err)
	}
	return out, nil
}
