package testutil

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// StartRegistry starts a registry, github.com/distribution/distribution, for the test on
// loopback and over HTTP, and returns its host and port. It lets in who has the password.
func StartRegistry(t testing.TB, user, password string) string {
	t.Helper()
	// From the cache of the go command, once it has been built.
	out, err := exec.CommandContext(t.Context(), "go", "tool", "-modfile=../../tools/go.mod", "-n", "registry").Output()
	if err != nil {
		t.Skipf("the registry cannot be built: %v", err)
	}
	dir := t.TempDir()
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	host := l.Addr().String()
	l.Close()
	config := fmt.Sprintf("version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %q}}\nhttp: {addr: %q, secret: s}\n"+
		"auth: {htpasswd: {realm: r, path: %q}}\n", dir+"/data", host, dir+"/htpasswd")
	for name, text := range map[string]string{"config.yml": config, "htpasswd": user + ":" + string(hash) + "\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	server := exec.Command(strings.TrimSpace(string(out)), "serve", filepath.Join(dir, "config.yml"))
	server.Env = append(server.Environ(), "OTEL_TRACES_EXPORTER=none")
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = server.Process.Kill()
		_ = server.Wait()
	})
	for range 100 {
		if c, err := net.Dial("tcp", host); err == nil {
			c.Close()
			return host
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatal("the registry does not listen")
	return ""
}
