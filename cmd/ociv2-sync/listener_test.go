package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"log/slog"
	bignum "math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
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
	var log bytes.Buffer
	load := func() (tls.Certificate, error) { return tls.LoadX509KeyPair(path, path) }
	logger := slog.New(slog.NewTextHandler(&log, nil))
	if _, err := newReloaded(logger, load, path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	write(0)
	r := reloading(t, logger, load, path)
	serial := func() int64 {
		t.Helper()
		r.looked = time.Time{}
		return r.get().Leaf.SerialNumber.Int64()
	}
	for n := range int64(3) {
		write(n + 1)
		if got := serial(); got != n+1 {
			t.Errorf("certificate %d, want %d", got, n+1)
		}
	}
	must(t, os.WriteFile(path, []byte("damaged"), 0o600))
	for range 2 {
		if got := serial(); got != 3 {
			t.Errorf("certificate %d, want 3", got)
		}
	}
	if n := strings.Count(log.String(), "level=ERROR"); n != 1 || !strings.Contains(log.String(), path) {
		t.Errorf("the log names the damaged file %d times:\n%s", n, log.String())
	}
	must(t, os.Remove(path))
	if got := serial(); got != 3 {
		t.Errorf("certificate %d, want 3", got)
	}
	write(4)
	if got := serial(); got != 4 {
		t.Errorf("certificate %d, want 4", got)
	}
}

func reloading[T any](t *testing.T, logger *slog.Logger, load func() (T, error), path string) *reloaded[T] {
	t.Helper()
	r, err := newReloaded(logger, load, path)
	must(t, err)
	return r
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
