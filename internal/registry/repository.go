package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	ocireg "oras.land/oras-go/v2/registry"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
)

// Repository is what a registry has under one name. It is for several goroutines at a time.
type Repository struct {
	ref     ocireg.Reference
	client  *auth.Client
	remotes []*remote.Repository // where to read: mirrors, and the registry as the last
	own     *remote.Repository   // where to write: the registry itself
	retries int
}

// Open returns the repository that ref names, what follows docker: in the name of an
// image. It asks nothing yet.
func Open(ref string, opts Options) (*Repository, error) {
	r, err := parse(ref)
	if err != nil {
		return nil, err
	}
	conf, err := readConfig(opts.ConfigFiles)
	if err != nil {
		return nil, err
	}
	places, insecure, err := conf.endpoints(r)
	if err != nil {
		return nil, err
	}
	own := endpoint{ocireg.Reference{Registry: r.Registry, Repository: r.Repository}, insecure}
	var mirrors []endpoint
	plain := map[string]bool{}
	for _, m := range opts.Mirrors {
		if m.Host == r.Registry {
			host, path, _ := strings.Cut(m.At+"/", "/")
			mirrors = append(mirrors, endpoint{ocireg.Reference{Registry: host, Repository: path + r.Repository}, false})
			plain[host] = m.PlainHTTP
		}
	}
	places = append(mirrors, places...)
	c, err := opts.client(append([]endpoint{own}, places...))
	if err != nil {
		return nil, err
	}
	repo := &Repository{ref: r, client: c, retries: opts.Retries}
	for _, e := range places {
		repo.remotes = append(repo.remotes, &remote.Repository{Reference: e.Reference, Client: c, PlainHTTP: opts.PlainHTTP || plain[e.Registry]})
	}
	// Lists of referrers that were replaced stay: many registries let nobody delete.
	repo.own = &remote.Repository{Reference: own.Reference, Client: c, PlainHTTP: opts.PlainHTTP, SkipReferrersGC: true}
	return repo, nil
}

// Close closes the connections that nobody uses.
func (r *Repository) Close() error {
	r.client.Client.CloseIdleConnections()
	return nil
}

// String returns the name without tag or digest.
func (r *Repository) String() string { return r.ref.Registry + "/" + r.ref.Repository }

// Reference returns the tag or the digest by which the repository was opened.
func (r *Repository) Reference() string { return r.ref.Reference }

// Resolve describes the manifest or the index that the repository was opened by,
// as the first of the mirrors and the registry that has it says.
func (r *Repository) Resolve(ctx context.Context) (ocispec.Descriptor, error) {
	var errs []error
	for _, at := range r.remotes {
		d, err := at.Resolve(ctx, r.ref.Reference)
		if err == nil {
			return d, nil
		}
		if errs = append(errs, worded(err)); ctx.Err() != nil {
			break
		}
	}
	return ocispec.Descriptor{}, last(errs)
}

// Describe describes the manifest d as the registry itself has it, and no mirror.
func (r *Repository) Describe(ctx context.Context, d digest.Digest) (ocispec.Descriptor, error) {
	desc, err := r.own.Resolve(ctx, d.String())
	return desc, worded(err)
}

// maxReferrers bounds the referrers that are looked at.
const maxReferrers = 1000

// Referrers lists the manifests of the given artifactType that name subject, from the
// first of the mirrors and the registry that has any: where it does not list them itself,
// by the tag that stands for them. Nothing of what they are is verified.
func (r *Repository) Referrers(ctx context.Context, subject ocispec.Descriptor, artifactType string) ([]ocispec.Descriptor, error) {
	var errs []error
	for _, at := range r.remotes {
		var all []ocispec.Descriptor
		err := at.Referrers(ctx, subject, artifactType, func(page []ocispec.Descriptor) error {
			if all = append(all, page...); len(all) > maxReferrers {
				return fmt.Errorf("more than %d manifests refer to %s", maxReferrers, subject.Digest)
			}
			return nil
		})
		if err == nil && len(all) > 0 {
			return all, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		errs = append(errs, worded(err))
	}
	if slices.Contains(errs, nil) {
		return nil, nil // one has answered
	}
	return nil, last(errs)
}

// last returns the last error, which counts, with what came before it.
func last(errs []error) error {
	err := errs[len(errs)-1]
	if len(errs) > 1 {
		err = fmt.Errorf("%w (mirrors before: %w)", err, errors.Join(errs[:len(errs)-1]...))
	}
	return err
}

// Fetch opens the object d, of which nothing is verified. What is cut goes on where
// it was cut, after a pause, as often without progress as there are retries, and
// where a mirror fails, at the next one.
func (r *Repository) Fetch(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	return r.fetch(ctx, d, 0, false)
}

// FetchAt is Fetch for size bytes, at least one, of the blob named d, from an offset
// on. They may be fewer where the blob ends before.
func (r *Repository) FetchAt(ctx context.Context, d digest.Digest, offset, size int64) (io.ReadCloser, error) {
	rc, err := r.fetch(ctx, ocispec.Descriptor{Digest: d, Size: offset + size}, offset, true)
	if err != nil {
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{io.LimitReader(rc, size), rc}, nil
}

// fetch opens what follows an offset in the object d; of a part d.Size is the end of
// that.
func (r *Repository) fetch(ctx context.Context, d ocispec.Descriptor, offset int64, part bool) (io.ReadCloser, error) {
	b := &body{off: offset, size: d.Size, retries: r.retries}
	b.again = func(failed int) error { return pause(ctx, failed) }
	b.stopped = ctx.Err
	for _, at := range r.remotes {
		b.sources = append(b.sources, func(offset int64) (io.ReadCloser, error) {
			if offset == 0 && !part {
				return at.Fetch(ctx, d)
			}
			return r.rest(ctx, at, d, offset)
		})
	}
	if err := b.open(); err != nil {
		return nil, err
	}
	return b, nil
}

// rest opens what follows offset in the object d, up to its end.
func (r *Repository) rest(ctx context.Context, at *remote.Repository, d ocispec.Descriptor, offset int64) (_ io.ReadCloser, err error) {
	scheme := "https"
	if at.PlainHTTP {
		scheme = "http"
	}
	url := fmt.Sprintf("%s://%s/v2/%s/blobs/%s", scheme, at.Reference.Host(), at.Reference.Repository, d.Digest)
	ctx = auth.AppendRepositoryScope(ctx, at.Reference, auth.ActionPull)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", offset, d.Size-1))
	resp, err := r.client.Do(req)
	if err != nil {
		return nil, err
	}
	switch resp.StatusCode {
	case http.StatusPartialContent:
		if strings.HasPrefix(resp.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", offset)) {
			return resp.Body, nil
		}
		err = fmt.Errorf("asked for bytes %d-, got %q", offset, resp.Header.Get("Content-Range"))
	case http.StatusOK: // it knows no ranges
		if _, err = io.CopyN(io.Discard, resp.Body, offset); err == nil {
			return resp.Body, nil
		}
	case http.StatusNotFound:
		return nil, errors.Join(fmt.Errorf("%w: %s@%s", ErrNotFound, at.Reference, d.Digest), resp.Body.Close())
	default:
		err = fmt.Errorf("status %s", resp.Status)
	}
	return nil, errors.Join(fmt.Errorf("%w: %s: %w", ErrNetwork, at.Reference, err), resp.Body.Close())
}

// PutBlob puts the blob d there, whose bytes content has, unless it is there
// already, and says whether it was.
func (r *Repository) PutBlob(ctx context.Context, d ocispec.Descriptor, content io.ReaderAt) (there bool, err error) {
	blobs := r.own.Blobs()
	for failed := 0; ; {
		there, err = blobs.Exists(ctx, d)
		if there || err != nil {
			return there, worded(err)
		}
		// A body of our own cannot be sent again by the client, so we do.
		err = worded(blobs.Push(ctx, d, io.NewSectionReader(content, 0, d.Size)))
		if failed++; err == nil || !errors.Is(err, ErrNetwork) || failed > r.retries {
			return false, err
		}
		if err := pause(ctx, failed); err != nil {
			return false, err
		}
	}
}

// PutManifest puts a manifest there, under the tag that the repository was opened
// by if tagged. A manifest with a subject is listed among the referrers of that, by a
// tag where the registry does not list them.
func (r *Repository) PutManifest(ctx context.Context, d ocispec.Descriptor, manifest []byte, tagged bool) error {
	name := d.Digest.String()
	if tagged {
		name = r.ref.Reference
	}
	return worded(r.own.Manifests().PushReference(ctx, d, bytes.NewReader(manifest), name))
}
