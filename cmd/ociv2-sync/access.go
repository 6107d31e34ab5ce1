package main

import (
	"cmp"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	"github.com/ociv2-sync/ociv2-sync/chunkserver"
)

// monitorOptions reads the tokens and the users, and logs requests to log.
func (a *app) monitorOptions(o *serveOptions, log io.Writer) (chunkserver.MonitorOptions, error) {
	var m chunkserver.MonitorOptions
	if o.accessLog {
		m.AccessLog = slog.New(slog.NewJSONHandler(log, nil))
	}
	if o.htpasswd != "" {
		users, err := newReloaded(a.logger(), func() (*htpasswd, error) { return readHtpasswd(o.htpasswd) }, o.htpasswd)
		if err != nil {
			return m, err
		}
		m.Login = func(user, password string) bool { return users.get().login(user, password) }
	}
	if o.tokenFile != "" {
		known, err := newReloaded(a.logger(), func() (tokens, error) { return readTokens(o.tokenFile) }, o.tokenFile)
		if err != nil {
			return m, err
		}
		m.Token = func(token string) bool { return known.get().has(token) }
	}
	return m, nil
}

// tokens are the digests of those who may come in: all are compared in the same time.
type tokens [][sha256.Size]byte

// readTokens reads a file of tokens.
func readTokens(path string) (tokens, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var known tokens
	for token := range strings.FieldsSeq(string(text)) {
		known = append(known, sha256.Sum256([]byte(token)))
	}
	if len(known) == 0 {
		return nil, usageError{fmt.Errorf("%s has no token", path)}
	}
	return known, nil
}

// has reports whether a token is one of them.
func (t tokens) has(token string) bool {
	sum, found := sha256.Sum256([]byte(token)), 0
	for i := range t {
		found |= subtle.ConstantTimeCompare(sum[:], t[i][:])
	}
	return found == 1
}

// serverTLS returns the configuration that the options mean, nil for HTTP.
func (a *app) serverTLS(o *serveOptions) (*tls.Config, error) {
	if o.tlsCert == "" {
		if o.tlsKey != "" || o.clientCA != "" {
			return nil, usageError{errors.New("--tls-key and --tls-client-ca go with --tls-cert")}
		}
		return nil, nil
	}
	key := cmp.Or(o.tlsKey, o.tlsCert)
	pair, err := newReloaded(a.logger(), func() (tls.Certificate, error) { return tls.LoadX509KeyPair(o.tlsCert, key) }, o.tlsCert, key)
	if err != nil {
		return nil, usageError{fmt.Errorf("--tls-cert: %w", err)}
	}
	config := &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			cert := pair.get()
			return &cert, nil
		},
	}
	if o.clientCA != "" {
		config.ClientAuth = tls.RequireAndVerifyClientCert
		// A session that is resumed is verified by the authorities of then, too.
		current, err := newReloaded(a.logger(), func() (*tls.Config, error) {
			with := config.Clone()
			var err error
			with.ClientCAs, err = readAuthorities(o.clientCA)
			return with, err
		}, o.clientCA)
		if err != nil {
			return nil, err
		}
		config.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return current.get(), nil }
	}
	return config, nil
}
