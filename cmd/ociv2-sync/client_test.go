package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log"
	bignum "math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A server that wants to know who asks, under an authority of its own.
func TestClientFlags(t *testing.T) {
	t.Parallel()
	p := publish(t)
	files := http.FileServer(http.Dir(p.repo))
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		switch {
		case len(r.TLS.PeerCertificates) == 0:
			w.WriteHeader(http.StatusForbidden)
		case r.Header.Get("Authorization") != "Bearer s3cret" && (user != "me" || password != "s3cret"):
			w.WriteHeader(http.StatusUnauthorized)
		default:
			files.ServeHTTP(w, r)
		}
	}))
	server.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(server.Close)

	dir := t.TempDir()
	write := func(name string, blocks ...*pem.Block) string {
		path := filepath.Join(dir, name)
		var text []byte
		for _, b := range blocks {
			text = append(text, pem.EncodeToMemory(b)...)
		}
		must(t, os.WriteFile(path, text, 0o600))
		return path
	}
	ca := write("ca", &pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{SerialNumber: bignum.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	certBlock, keyBlock := &pem.Block{Type: "CERTIFICATE", Bytes: cert}, &pem.Block{Type: "PRIVATE KEY", Bytes: der}
	certFile, keyFile, both := write("cert", certBlock), write("key", keyBlock), write("both", certBlock, keyBlock)
	netrc := filepath.Join(dir, "netrc")
	must(t, os.WriteFile(netrc, []byte("machine 127.0.0.1 login me password s3cret\n"), 0o600))

	ref := server.URL + "/app:1"
	d := newDevice(t)
	d.must("pull", "--ca-file", ca, "--cert", both, "--header", "Authorization: Bearer s3cret", ref)
	d.must("plan", "--ca-file", ca, "--cert", certFile, "--key", keyFile, "--netrc", netrc, server.URL+"/app:2")
	for _, args := range [][]string{
		{"--cert", both, "--netrc", netrc},                                          // the authority is unknown
		{"--ca-file", ca, "--netrc", netrc},                                         // no certificate
		{"--ca-file", ca, "--cert", both},                                           // no credentials
		{"--ca-file", ca, "--cert", both, "--header", "Authorization:Bearer wrong"}, // wrong ones
	} {
		r := d.run(append(append([]string{"pull"}, args...), server.URL+"/app:2")...)
		if r.code != exitFailed || strings.Contains(r.stdout+r.stderr, "s3cret") {
			t.Errorf("%q: exit code %d\n%s", args, r.code, r.stderr)
		}
	}
	for _, args := range [][]string{
		{"--header", "s3cret"},
		{"--header", "X: s3cret\r\nY: x"},
		{"--key", keyFile},
		{"--cert", certFile, "--ca-file", keyFile},
	} {
		r := d.run(append(append([]string{"pull"}, args...), ref)...)
		if r.code != exitUsage || strings.Contains(r.stderr, "s3cret") {
			t.Errorf("%q: exit code %d\n%s", args, r.code, r.stderr)
		}
	}
	d.fails(exitNotFound, []string{"absent"}, "pull", "--netrc", filepath.Join(dir, "absent"), ref)
}
