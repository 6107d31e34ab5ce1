package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"
)

// hosts sends the requests to each host with what its directory of certificates says,
// and those to insecure hosts without a look at theirs, or in the clear where they
// speak nothing else.
type hosts struct {
	base     *http.Transport
	certDirs []string
	insecure map[string]bool

	mu    sync.Mutex
	own   map[string]*http.Transport
	clear map[string]bool
}

func (h *hosts) RoundTrip(r *http.Request) (*http.Response, error) {
	t, inClear, err := h.of(r.URL.Host)
	if err != nil {
		return nil, err
	}
	if !h.insecure[r.URL.Host] || r.URL.Scheme != "https" {
		return t.RoundTrip(r)
	}
	if inClear {
		return roundTripInClear(t, r)
	}
	resp, err := t.RoundTrip(r)
	if err != nil && r.Context().Err() == nil && (r.Body == nil || r.Body == http.NoBody) {
		if again, perr := roundTripInClear(t, r); perr == nil {
			h.mu.Lock()
			h.clear[r.URL.Host] = true
			h.mu.Unlock()
			return again, nil
		}
	}
	return resp, err
}

// roundTripInClear sends by HTTP what was to go by HTTPS. Whoever asked does not see it:
// another scheme would look like a redirection elsewhere, or like an attack.
func roundTripInClear(t *http.Transport, r *http.Request) (*http.Response, error) {
	plain := r.Clone(r.Context())
	plain.URL.Scheme = "http"
	resp, err := t.RoundTrip(plain)
	if err == nil {
		resp.Request = r
		if rest, ok := strings.CutPrefix(resp.Header.Get("Location"), "http://"+r.URL.Host+"/"); ok {
			resp.Header.Set("Location", "https://"+r.URL.Host+"/"+rest)
		}
	}
	return resp, err
}

// CloseIdleConnections closes the connections that nobody uses.
func (h *hosts) CloseIdleConnections() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.base.CloseIdleConnections()
	for _, t := range h.own {
		t.CloseIdleConnections()
	}
}

// of returns what talks to a host, and whether that is known to speak no TLS.
func (h *hosts) of(host string) (*http.Transport, bool, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if t := h.own[host]; t != nil {
		return t, h.clear[host], nil
	}
	conf, err := h.certificates(host)
	if err != nil {
		return nil, false, err
	}
	t := h.base
	if conf == nil && h.insecure[host] {
		conf = t.TLSClientConfig.Clone()
	}
	if conf != nil {
		conf.InsecureSkipVerify = h.insecure[host]
		t = t.Clone()
		t.TLSClientConfig = conf
	}
	h.own[host] = t
	return t, false, nil
}

// certificates reads what the first of the directories that knows the host has for it:
// authorities in *.crt, and client certificates in *.cert with their *.key. It returns
// nil if there is none.
func (h *hosts) certificates(host string) (*tls.Config, error) {
	for _, dir := range h.certDirs {
		dir = filepath.Join(dir, host)
		entries, err := os.ReadDir(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		conf := h.base.TLSClientConfig.Clone()
		if conf.RootCAs != nil {
			conf.RootCAs = conf.RootCAs.Clone()
		} else if conf.RootCAs, err = x509.SystemCertPool(); err != nil {
			return nil, err
		}
		for _, e := range entries {
			if err := addCertificate(conf, filepath.Join(dir, e.Name())); err != nil {
				return nil, err
			}
		}
		return conf, nil
	}
	return nil, nil
}

// addCertificate adds what a file has, by the ending of its name, to conf.
func addCertificate(conf *tls.Config, path string) error {
	switch ext := filepath.Ext(path); ext {
	case ".crt":
		pem, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if !conf.RootCAs.AppendCertsFromPEM(pem) {
			return fmt.Errorf("%s has no certificate", path)
		}
	case ".cert":
		pair, err := tls.LoadX509KeyPair(path, strings.TrimSuffix(path, ext)+".key")
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		conf.Certificates = append(conf.Certificates, pair)
	}
	return nil
}

// credential returns what looks for credentials: of each endpoint's repository, as
// podman keeps them, of the namespaces that it is in, and of its registry.
func (o *Options) credential(at []endpoint) (auth.CredentialFunc, error) {
	var stores, files []credentials.Store
	for _, path := range o.AuthFiles {
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		s, err := credentials.NewStore(path, credentials.StoreOptions{})
		if err != nil {
			return nil, fmt.Errorf("credentials in %s: %w", path, err)
		}
		f, err := credentials.NewFileStore(path)
		if err != nil {
			return nil, fmt.Errorf("credentials in %s: %w", path, err)
		}
		stores, files = append(stores, s), append(files, f)
	}
	if len(stores) == 0 {
		return nil, nil
	}
	whole := credentials.Credential(credentials.NewStoreWithFallbacks(stores[0], stores[1:]...))
	return func(ctx context.Context, host string) (auth.Credential, error) {
		for _, e := range at {
			if e.Host() != host {
				continue
			}
			if c, err := e.credential(ctx, files); err != nil || c != auth.EmptyCredential {
				return c, err
			}
		}
		return whole(ctx, host)
	}, nil
}

// credential looks for credentials of the endpoint's repository, then of the namespaces
// that it is in, the narrowest first. It returns auth.EmptyCredential if there are none.
func (e *endpoint) credential(ctx context.Context, files []credentials.Store) (auth.Credential, error) {
	for name := e.Repository; name != ""; name = name[:max(strings.LastIndexByte(name, '/'), 0)] {
		for _, f := range files {
			if c, err := f.Get(ctx, e.Registry+"/"+name); err != nil || c != auth.EmptyCredential {
				return c, err
			}
		}
	}
	return auth.EmptyCredential, nil
}
