package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	bignum "math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// A certificate that is replaced is taken up; one that is damaged is not.
func TestReloading(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cert")
	write := func(serial int64) {
		t.Helper()
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		must(t, err)
		template := &x509.Certificate{SerialNumber: bignum.NewInt(serial), NotAfter: time.Now().Add(time.Hour)}
		cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
		must(t, err)
		der, err := x509.MarshalPKCS8PrivateKey(key)
		must(t, err)
		text := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})...)
		must(t, os.WriteFile(path, text, 0o600))
		when := time.Unix(1e9+serial, 0)
		must(t, os.Chtimes(path, when, when))
	}
	r := &reloading{cert: path, key: path}
	serial := func() int64 {
		t.Helper()
		r.looked = time.Time{}
		pair, err := r.get(nil)
		must(t, err)
		return pair.Leaf.SerialNumber.Int64()
	}
	if _, err := r.get(nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	for n := range int64(3) {
		write(n + 1)
		if got := serial(); got != n+1 {
			t.Errorf("certificate %d, want %d", got, n+1)
		}
	}
	must(t, os.WriteFile(path, []byte("damaged"), 0o600))
	if got := serial(); got != 3 {
		t.Errorf("certificate %d, want 3", got)
	}
}

// As many connections are accepted as there is room for, and more when one ends.
func TestLimitedListener(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	l := &limitedListener{Listener: inner, free: make(chan struct{}, 2), closed: make(chan struct{})}
	accepted := make(chan net.Conn, 10)
	done := make(chan error, 1)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				done <- err
				return
			}
			accepted <- c
		}
	}()
	for range 3 {
		c, err := net.Dial("tcp", inner.Addr().String())
		must(t, err)
		defer c.Close()
	}
	first, second := <-accepted, <-accepted
	select {
	case <-accepted:
		t.Error("a third connection is accepted")
	case <-time.After(50 * time.Millisecond):
	}
	must(t, first.Close())
	_ = first.Close() // gives its room back once
	third := <-accepted
	must(t, l.Close())
	if err := <-done; !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
	must(t, errors.Join(second.Close(), third.Close()))
}

// A socket that a server has left behind is no hindrance; one that is in use is.
func TestListenUnix(t *testing.T) {
	a := &app{env: func(string) (string, bool) { return "", false }}
	path := "unix:" + filepath.Join(t.TempDir(), "socket")
	l, err := a.listen(t.Context(), path)
	must(t, err)
	if _, err := a.listen(t.Context(), path); err == nil {
		t.Error("two listen at one place")
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	must(t, l.Close())
	l, err = a.listen(t.Context(), path)
	must(t, err)
	must(t, l.Close())
	if _, err := a.listen(t.Context(), "systemd"); exitCode(err) != exitUsage {
		t.Errorf("without systemd: %v", err)
	}
}
