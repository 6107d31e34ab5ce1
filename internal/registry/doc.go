// Package registry talks to registries of images: it resolves references, reads
// objects and puts objects there, over the API of the OCI distribution
// specification.
//
// It is the only package that imports the OCI client library. Nothing that it
// reads is verified against its digest here: whoever reads does that, where the bytes
// enter. Reading goes on where it was cut, at a mirror or at the registry itself.
package registry

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"

	"oras.land/oras-go/v2/errdef"
	ocireg "oras.land/oras-go/v2/registry"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"
)

var (
	// ErrReference says that the name of an image is malformed, or that nothing
	// can be put there.
	ErrReference = errors.New("bad image reference")
	// ErrNotFound says that there is no such image, or that a part of it is
	// not there.
	ErrNotFound = errors.New("not found")
	// ErrNetwork says that a registry could not be reached, or failed, after all
	// retries.
	ErrNetwork = errors.New("network failure")
	// ErrDenied says that a registry wants to know who asks, or lets somebody else
	// do what was asked.
	ErrDenied = errors.New("the registry denies access")
)

// Options say how registries are talked to. The zero value works: over HTTPS,
// without credentials.
type Options struct {
	// AuthFiles are paths of files with credentials, or the names of helpers that
	// have them, in the format of docker's config.json, the most important first.
	// Those that do not exist are passed over.
	AuthFiles []string
	// PlainHTTP talks HTTP. Without it, nothing is sent in the clear but to mirrors
	// and registries that are said to be insecure.
	PlainHTTP bool
	// ConfigFiles are paths of files in the format of containers-registries.conf(5),
	// version 2, or of directories of such files *.conf; what the later ones say
	// holds. They name mirrors, other locations, and registries that are blocked or
	// may be insecure. Those that do not exist are passed over.
	ConfigFiles []string
	// CertDirs are directories as containers-certs.d(5) and docker have them, each
	// with directories named after hosts, of certificates; for a host the first that
	// knows it counts.
	CertDirs []string
	// Mirrors are asked before the registry that they mirror, in their order, and
	// before those of ConfigFiles.
	Mirrors []Mirror
	// Retries is how often a failed request is repeated.
	Retries int
	// RateLimit is the most bytes of objects taken, and sent, per second; 0 means
	// no limit.
	RateLimit int64
	// Traffic, if not nil, counts what goes to and fro.
	Traffic *Traffic
	// TLS may be nil: the system's certificates are trusted.
	TLS *tls.Config
}

// Traffic counts the requests that were sent, those for tokens included, and the bytes
// of the bodies that came back.
type Traffic struct{ Requests, Bytes atomic.Int64 }

// Mirror is a copy of a registry, or of a part of it.
type Mirror struct {
	// Host is the registry that is mirrored, such as docker.io.
	Host string
	// At is the host that has the copy, perhaps with a path that comes before the
	// names of the images.
	At string
	// PlainHTTP talks HTTP to it.
	PlainHTTP bool
}

// ParseMirror reads HOST=[http://]MIRROR[/PATH]; anything else is ErrReference.
func ParseMirror(s string) (Mirror, error) {
	host, at, ok := strings.Cut(s, "=")
	m := Mirror{Host: host}
	m.At, m.PlainHTTP = strings.CutPrefix(at, "http://")
	m.At = strings.TrimSuffix(strings.TrimPrefix(m.At, "https://"), "/")
	for _, h := range []string{m.Host + "/x", m.At + "/x"} {
		r, err := ocireg.ParseReference(h)
		if err != nil || !ok || strings.Contains(m.Host, "/") || r.ValidateRegistry() != nil {
			return Mirror{}, fmt.Errorf("%w: mirror %q is not HOST=MIRROR[/PATH]", ErrReference, s)
		}
	}
	return m, nil
}

// parse reads //HOST/NAME[:TAG|@DIGEST]. As for docker, a name whose first part
// is no host is one of docker.io.
func parse(ref string) (ocireg.Reference, error) {
	name, ok := strings.CutPrefix(ref, "//")
	if !ok || name == "" || strings.HasSuffix(name, ":") {
		return ocireg.Reference{}, fmt.Errorf("%w: want docker://HOST/NAME[:TAG|@DIGEST]", ErrReference)
	}
	host, _, several := strings.Cut(name, "/")
	switch {
	case !several:
		name = "docker.io/library/" + name
	case !strings.ContainsAny(host, ".:") && host != "localhost":
		name = "docker.io/" + name
	}
	r, err := ocireg.ParseReference(name)
	if err != nil {
		return r, fmt.Errorf("%w: %w", ErrReference, err)
	}
	if r.Reference == "" {
		r.Reference = "latest"
	}
	return r, nil
}

// Split reads what follows docker: in the name of an image, with docker's defaults
// filled in. reference is a tag or a digest. What is malformed is ErrReference.
func Split(ref string) (host, name, reference string, err error) {
	r, err := parse(ref)
	return r.Registry, r.Repository, r.Reference, err
}

// CheckTarget refuses, with ErrReference, what follows docker: where no image can
// be put: what is malformed, or names a digest.
func CheckTarget(ref string) error {
	r, err := parse(ref)
	if err == nil && r.ValidateReferenceAsDigest() == nil {
		err = fmt.Errorf("%w: an image is put under a tag, not under a digest", ErrReference)
	}
	return err
}

// worded says in the terms of this package what the client library or a registry
// says.
func worded(err error) error {
	resp, answered := errors.AsType[*errcode.ErrorResponse](err)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errdef.ErrNotFound):
		return fmt.Errorf("%w: %w", ErrNotFound, err)
	case errors.Is(err, auth.ErrBasicCredentialNotFound):
		return fmt.Errorf("%w: %w", ErrDenied, err)
	case errors.Is(err, errNoRealm):
		return errNoRealm // without the URL that is none
	case !answered:
		_, ok := errors.AsType[*url.Error](err)
		if ok && !errors.Is(err, ErrNetwork) && !errors.Is(err, context.Canceled) {
			return fmt.Errorf("%w: %w", ErrNetwork, err)
		}
	case resp.StatusCode == http.StatusNotFound:
		return fmt.Errorf("%w: %w", ErrNotFound, err)
	case resp.StatusCode == http.StatusUnauthorized, resp.StatusCode == http.StatusForbidden:
		return fmt.Errorf("%w: %w", ErrDenied, err)
	case resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests:
		return fmt.Errorf("%w: %w", ErrNetwork, err)
	}
	return err
}
