package testutil

import (
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The credentials of StartS3.
const (
	S3AccessKey = "AKIDTEST"
	S3SecretKey = "secretsecretsecret"
	// S3Domain is the host below which it has its buckets, too.
	S3Domain = "s3.test"
)

// StartS3 starts an S3 server, github.com/versity/versitygw over a directory,
// for the test on loopback, and returns its URL. It has the empty buckets given.
// The test is skipped where the directory cannot hold extended attributes.
func StartS3(t testing.TB, buckets ...string) string {
	t.Helper()
	return StartS3In(t, t.TempDir(), buckets...)
}

// StartS3In is StartS3 with the objects as files in directories of a directory, each
// called as its bucket.
func StartS3In(t testing.TB, dir string, buckets ...string) string {
	t.Helper()
	// From the cache of the go command, once it has been built.
	out, err := exec.CommandContext(t.Context(), "go", "tool", "-modfile=../../tools/go.mod", "-n", "versitygw").Output()
	if err != nil {
		t.Skipf("the S3 server cannot be built: %v", err)
	}
	for _, b := range buckets {
		if err := os.MkdirAll(filepath.Join(dir, b), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	host := l.Addr().String()
	l.Close()
	server := exec.Command(strings.TrimSpace(string(out)), "--access", S3AccessKey, "--secret", S3SecretKey, "--port", host, "--virtual-domain", S3Domain, "--quiet", "posix", dir)
	var text strings.Builder
	server.Stdout, server.Stderr = &text, &text
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = server.Process.Kill()
		_ = server.Wait()
		if t.Failed() {
			t.Log(text.String())
		}
	})
	for range 100 {
		if r, err := http.Get("http://" + host + "/"); err == nil {
			r.Body.Close()
			http.DefaultClient.CloseIdleConnections()
			return "http://" + host
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatal("the S3 server does not listen")
	return ""
}
