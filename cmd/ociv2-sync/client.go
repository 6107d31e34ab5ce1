package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/ociv2-sync/ociv2-sync/internal/stores"
	"github.com/ociv2-sync/ociv2-sync/store/httpstore"
)

// clientFlags say who we are to web servers, and whom we trust.
type clientFlags struct {
	headers           []string
	netrc             string
	caFile, cert, key string
	timeout           time.Duration
	remote            string
	s3                s3Flags
}

func (f *clientFlags) add(fl *pflag.FlagSet) {
	fl.StringArrayVar(&f.headers, "header", nil, "`NAME:VALUE` to send to the web servers named in the command, and no others; repeatable")
	fl.StringVar(&f.netrc, "netrc", "", "`FILE` with logins for web servers (default .netrc in the home directory)")
	fl.StringVar(&f.caFile, "ca-file", "", "`FILE` with certificates to trust in place of the system's")
	fl.StringVar(&f.cert, "cert", "", "`FILE` with a certificate to show to web servers")
	fl.StringVar(&f.key, "key", "", "`FILE` with the key of --cert (default the same file)")
	fl.DurationVar(&f.timeout, "timeout", 0, "`TIME` after which a web server's file is given up, with all attempts, e.g. 10m (default never)")
	fl.StringVar(&f.remote, "remote-command", "", "`PROGRAM` that an ssh:// repository is reached by on its host, before the server's sftp (default ociv2-sync)")
	f.s3.add(fl)
}

// clients returns what reaches other machines, to be closed.
func (a *app) clients(names []string) (stores.Clients, error) {
	if a.web.s3.pathStyle && a.web.s3.virtualHost {
		return stores.Clients{}, usageError{errors.New("--s3-path-style and --s3-virtual-host exclude each other")}
	}
	client, err := a.client(names)
	return stores.Clients{HTTP: client, SSH: a.ssh(), Server: a.web.remote, S3: a.s3Options()}, err
}

// client returns the HTTP client of this run, which sends --header to the origins
// of those names that are URLs.
func (a *app) client(names []string) (*httpstore.Client, error) {
	credentials, err := a.credentials(names)
	if err != nil {
		return nil, err
	}
	config, err := a.clientTLS()
	if err != nil {
		return nil, err
	}
	return httpstore.NewClient(httpstore.Options{
		Jobs: a.jobs, Retries: a.retries(), RateLimit: int64(a.limitRate), Proxy: http.ProxyFromEnvironment, Logger: a.logger(),
		Credentials: credentials, TLS: config, TotalTimeout: a.web.timeout,
	}), nil
}

func (a *app) credentials(names []string) (func(*url.URL) http.Header, error) {
	own := make(http.Header)
	for _, h := range a.web.headers {
		name, value, ok := strings.Cut(h, ":")
		if name = strings.TrimSpace(name); !ok || name == "" || strings.ContainsAny(h, "\r\n") {
			return nil, usageError{errors.New("--header is NAME:VALUE")} // the value is not for messages
		}
		own.Add(name, strings.TrimSpace(value))
	}
	origins := make(map[string]bool)
	for _, name := range names {
		if u, err := url.Parse(name); err == nil && u.Host != "" {
			origins[origin(u)] = true
		}
	}
	logins, err := a.logins()
	if err != nil {
		return nil, err
	}
	return func(u *url.URL) http.Header {
		var h http.Header
		if origins[origin(u)] {
			h = own.Clone()
		}
		if login, ok := logins[strings.ToLower(u.Hostname())]; ok && h.Get("Authorization") == "" {
			if h == nil {
				h = make(http.Header)
			}
			r := http.Request{Header: h}
			r.SetBasicAuth(login.User, login.Password)
		}
		return h
	}, nil
}

// origin returns what two URLs of one origin share.
func origin(u *url.URL) string { return strings.ToLower(u.Scheme + "://" + u.Host) }

// logins reads the netrc file, which need not be there unless it is named.
func (a *app) logins() (map[string]httpstore.Login, error) {
	path := a.web.netrc
	if path == "" {
		home, ok := a.env("HOME")
		if !ok || home == "" {
			return nil, nil
		}
		path = filepath.Join(home, ".netrc")
	}
	text, err := os.ReadFile(path)
	if a.web.netrc == "" && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission)) {
		return nil, nil // there is none, or it is another user's whose HOME this is
	}
	if err != nil {
		return nil, err
	}
	logins, err := httpstore.ParseNetrc(string(text))
	if err != nil {
		return nil, usageError{fmt.Errorf("%s: %w", path, err)}
	}
	return logins, nil
}

// clientTLS returns the configuration that the flags mean, nil for the default.
func (a *app) clientTLS() (*tls.Config, error) {
	f := &a.web
	if f.caFile == "" && f.cert == "" {
		if f.key != "" {
			return nil, usageError{errors.New("--key goes with --cert")}
		}
		return nil, nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if f.caFile != "" {
		authorities, err := readAuthorities(f.caFile)
		if err != nil {
			return nil, usageError{fmt.Errorf("--ca-file: %w", err)}
		}
		config.RootCAs = authorities
	}
	if f.cert != "" {
		key := f.key
		if key == "" {
			key = f.cert
		}
		pair, err := tls.LoadX509KeyPair(f.cert, key)
		if err != nil {
			return nil, usageError{fmt.Errorf("--cert: %w", err)}
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

// readAuthorities reads a file of certificates that are to be trusted.
func readAuthorities(path string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, usageError{fmt.Errorf("%s has no certificate", path)}
	}
	return pool, nil
}
