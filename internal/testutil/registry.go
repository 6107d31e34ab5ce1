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

// RegistryOptions say whom a registry of StartRegistry lets in: everybody, or
// who has the password, or a token that Tokens has given out.
type RegistryOptions struct {
	User, Password string
	Tokens         *TokenServer
	// TLS is the certificate that it shows; nil for a registry over HTTP.
	TLS *Certificate
}

// StartRegistry starts a registry, github.com/distribution/distribution, for the test on
// loopback, and returns its host and port.
func StartRegistry(t testing.TB, o RegistryOptions) string {
	t.Helper()
	// From the cache of the go command, once it has been built.
	out, err := exec.CommandContext(t.Context(), "go", "tool", "-modfile=../../tools/go.mod", "-n", "registry").Output()
	if err != nil {
		t.Skipf("the registry cannot be built: %v", err)
	}
	dir := t.TempDir()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	host := l.Addr().String()
	l.Close()
	secure := ""
	if o.TLS != nil {
		secure = fmt.Sprintf(", tls: {certificate: %q, key: %q}", o.TLS.CertFile, o.TLS.KeyFile)
	}
	config := fmt.Sprintf("version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %q}}\nhttp: {addr: %q, secret: s%s}\n", dir+"/data", host, secure)
	files := map[string]string{}
	switch {
	case o.Tokens != nil:
		config += fmt.Sprintf("auth: {token: {realm: %q, service: %q, issuer: %q, rootcertbundle: %q}}\n", o.Tokens.URL, tokenService, tokenIssuer, o.Tokens.CertFile)
	case o.User != "":
		hash, err := bcrypt.GenerateFromPassword([]byte(o.Password), bcrypt.MinCost)
		if err != nil {
			t.Fatal(err)
		}
		files["htpasswd"] = o.User + ":" + string(hash) + "\n"
		config += fmt.Sprintf("auth: {htpasswd: {realm: r, path: %q}}\n", dir+"/htpasswd")
	}
	files["config.yml"] = config
	for name, text := range files {
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
