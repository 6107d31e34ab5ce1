package ocisrc

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"
	"oras.land/oras-go/v2/registry/remote/errcode"
	"oras.land/oras-go/v2/registry/remote/retry"
)

// ErrNetwork says that a registry could not be reached, or failed, after all
// retries.
var ErrNetwork = errors.New("network failure")

// Registry says how registries are talked to. The zero value works: over HTTPS,
// without credentials.
type Registry struct {
	// AuthFiles are paths of files with credentials, or the names of helpers that
	// have them, in the format of docker's config.json, the most important first.
	// Those that do not exist are passed over.
	AuthFiles []string
	// PlainHTTP talks HTTP. Without it, nothing is sent in the clear.
	PlainHTTP bool
	// Retries is how often a failed request is repeated.
	Retries int
}

// openRegistry opens the image that ref, what follows docker:, names.
func openRegistry(ctx context.Context, ref string, want ocispec.Platform, opts Registry) (*Image, error) {
	r, err := parseDocker(ref)
	if err != nil {
		return nil, err
	}
	client, err := opts.client()
	if err != nil {
		return nil, err
	}
	repo := &remote.Repository{Reference: r, Client: client, PlainHTTP: opts.PlainHTTP}
	desc, err := repo.Resolve(ctx, r.Reference)
	if err != nil {
		return nil, errors.Join(notFound(err), idle(client))
	}
	l := &layout{blobs: repo, want: want}
	img, err := l.follow(ctx, desc)
	if err != nil {
		return nil, errors.Join(err, idle(client))
	}
	img.close = func() error { return idle(client) }
	return img, nil
}

// idle closes the connections that nobody uses.
func idle(client *auth.Client) error {
	client.Client.CloseIdleConnections()
	return nil
}

// parseDocker reads //HOST/NAME[:TAG|@DIGEST]. As for docker, a name whose first part
// is no host is one of docker.io.
func parseDocker(ref string) (registry.Reference, error) {
	name, ok := strings.CutPrefix(ref, "//")
	if !ok || name == "" || strings.HasSuffix(name, ":") {
		return registry.Reference{}, fmt.Errorf("%w: want docker://HOST/NAME[:TAG|@DIGEST]", ErrReference)
	}
	host, _, several := strings.Cut(name, "/")
	switch {
	case !several:
		name = "docker.io/library/" + name
	case !strings.ContainsAny(host, ".:") && host != "localhost":
		name = "docker.io/" + name
	}
	r, err := registry.ParseReference(name)
	if err != nil {
		return r, fmt.Errorf("%w: %w", ErrReference, err)
	}
	if r.Reference == "" {
		r.Reference = "latest"
	}
	return r, nil
}

// client returns what sends requests, with the credentials that their hosts ask for.
func (o *Registry) client() (*auth.Client, error) {
	var stores []credentials.Store
	for _, path := range o.AuthFiles {
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		s, err := credentials.NewStore(path, credentials.StoreOptions{})
		if err != nil {
			return nil, fmt.Errorf("credentials in %s: %w", path, err)
		}
		stores = append(stores, s)
	}
	transport := retry.NewTransport(http.DefaultTransport.(*http.Transport).Clone())
	transport.Policy = func() retry.Policy {
		p := *retry.DefaultPolicy.(*retry.GenericPolicy)
		p.MaxRetry = o.Retries
		return &p
	}
	c := &auth.Client{Client: &http.Client{Transport: failing{transport}}, Cache: auth.NewCache()}
	c.SetUserAgent("ociv2-sync")
	if len(stores) > 0 {
		c.Credential = credentials.Credential(credentials.NewStoreWithFallbacks(stores[0], stores[1:]...))
	}
	return c, nil
}

// failing words the failures of the network in the terms of this package.
type failing struct{ *retry.Transport }

func (f failing) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := f.Transport.RoundTrip(r)
	if err != nil && r.Context().Err() == nil {
		err = fmt.Errorf("%w: %w", ErrNetwork, err)
	}
	return resp, err
}

func (f failing) CloseIdleConnections() {
	if t, ok := f.Base.(*http.Transport); ok {
		t.CloseIdleConnections()
	}
}

// registryError words what a registry answers.
func registryError(err error) error {
	resp, ok := errors.AsType[*errcode.ErrorResponse](err)
	switch {
	case !ok:
		if _, ok := errors.AsType[*url.Error](err); ok && !errors.Is(err, ErrNetwork) && !errors.Is(err, context.Canceled) {
			return fmt.Errorf("%w: %w", ErrNetwork, err)
		}
		return err
	case resp.StatusCode == http.StatusNotFound:
		return fmt.Errorf("%w: %w", ErrNotFound, err)
	case resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests:
		return fmt.Errorf("%w: %w", ErrNetwork, err)
	}
	return err
}
