package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	bignum "math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ociv2-sync/ociv2-sync/chunkserver"
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

// What is sent with the header kept back is what [http.ServeContent] sends.
func TestServeFile(t *testing.T) {
	dir := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(dir, "abcd"), 0o755))
	name := func(n int) string { return fmt.Sprintf("abcd/abcd%060x.cacnk", n) }
	for _, n := range []int{0, 1, 25_000, 3_000_000} {
		must(t, os.WriteFile(filepath.Join(dir, name(n)), bytes.Repeat([]byte("0123456789"), n/10+1)[:n], 0o644))
	}
	h, err := chunkserver.New(dir, chunkserver.Options{})
	must(t, err)
	plain := httptest.NewServer(h)
	ours := serveWith(t, chunkserver.NewMonitor(h, chunkserver.MonitorOptions{}), nil, defaultLimits())
	t.Cleanup(func() {
		plain.Close()
		must(t, h.Close())
	})
	ask := func(method, url string, header ...string) string {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, url, nil)
		must(t, err)
		for i := 0; i < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
		}
		resp, err := http.DefaultClient.Do(r)
		must(t, err)
		body, err := io.ReadAll(resp.Body)
		must(t, err)
		must(t, resp.Body.Close())
		resp.Header.Del("Date")
		return fmt.Sprintf("%s %d %v %x", resp.Status, resp.ContentLength, resp.Header, sha256.Sum256(body))
	}
	for _, n := range []int{0, 1, 25_000, 3_000_000, 7} { // there is none of 7
		for _, header := range [][]string{
			nil,
			{"Range", "bytes=0-0"},
			{"Range", "bytes=1-20"},
			{"If-None-Match", "*"},
			{"If-Match", `"x"`},
			{"If-Modified-Since", time.Now().Add(time.Hour).UTC().Format(http.TimeFormat)},
			{"If-Range", `"x"`, "Range", "bytes=1-20"},
			{"If-Unmodified-Since", "Thu, 01 Jan 1970 00:00:01 GMT"},
		} {
			for _, method := range []string{http.MethodGet, http.MethodHead} {
				got, want := ask(method, "http://"+ours.addr+"/"+name(n), header...), ask(method, plain.URL+"/"+name(n), header...)
				if got != want {
					t.Errorf("%s of %d bytes, %q: %s, want %s", method, n, header, got, want)
				}
			}
		}
	}
}
