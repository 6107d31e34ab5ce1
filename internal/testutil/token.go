package testutil

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// Certificate is one of its own authority, for 127.0.0.1, in files.
type Certificate struct {
	CertFile, KeyFile string
	der               []byte
	key               *ecdsa.PrivateKey
}

// NewCertificate makes a certificate.
func NewCertificate(t testing.TB) *Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	c := &Certificate{filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), der, key}
	for name, block := range map[string]*pem.Block{c.CertFile: {Type: "CERTIFICATE", Bytes: der}, c.KeyFile: {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

const (
	tokenService = "registry.test"
	tokenIssuer  = "issuer.test"
)

// TokenServer gives out tokens for a registry, as the distribution project
// specifies: whoever asks may read, who has the password may write as well.
type TokenServer struct {
	*Certificate
	URL string
	// Given counts the tokens.
	Given atomic.Int64
}

// StartTokenServer starts a token server for the test.
func StartTokenServer(t testing.TB, user, password string) *TokenServer {
	t.Helper()
	s := &TokenServer{Certificate: NewCertificate(t)}
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u, p, named := r.BasicAuth()
		if named && (u != user || p != password) {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		type access struct {
			Type    string   `json:"type"`
			Name    string   `json:"name"`
			Actions []string `json:"actions"`
		}
		granted := []access{}
		for _, scope := range r.URL.Query()["scope"] {
			parts := strings.SplitN(scope, ":", 3)
			if len(parts) != 3 {
				continue
			}
			a := access{parts[0], parts[1], []string{"pull"}}
			if named {
				a.Actions = strings.Split(parts[2], ",")
			}
			granted = append(granted, a)
		}
		now := time.Now().Unix()
		s.Given.Add(1)
		_ = json.NewEncoder(w).Encode(map[string]any{"token": s.sign(t, map[string]any{
			"iss": tokenIssuer, "aud": tokenService, "sub": u, "jti": "1", "iat": now, "nbf": now - 10, "exp": now + 300, "access": granted,
		})})
	}))
	t.Cleanup(h.Close)
	s.URL = h.URL
	return s
}

// sign makes a JSON web token, signed with ES256 by the certificate in it.
func (s *TokenServer) sign(t testing.TB, claims map[string]any) string {
	part := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			t.Error(err)
		}
		return base64.RawURLEncoding.EncodeToString(b)
	}
	text := part(map[string]any{"typ": "JWT", "alg": "ES256", "x5c": []string{base64.StdEncoding.EncodeToString(s.der)}}) + "." + part(claims)
	sum := sha256.Sum256([]byte(text))
	x, y, err := ecdsa.Sign(rand.Reader, s.key, sum[:])
	if err != nil {
		t.Error(err)
		return ""
	}
	var sig [64]byte
	x.FillBytes(sig[:32])
	y.FillBytes(sig[32:])
	return text + "." + base64.RawURLEncoding.EncodeToString(sig[:])
}
