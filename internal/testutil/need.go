package testutil

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Need skips the test unless every one of the programs is installed. The reason
// it gives is what scripts/check prints at its end.
func Need(t testing.TB, tools ...string) {
	t.Helper()
	for _, name := range tools {
		Tool(t, name)
	}
}

// Tool returns the path of an installed program and skips the test when there is
// none. It looks in the administrator's directories too, where nginx and mkfs
// live and which an ordinary user's PATH leaves out.
func Tool(t testing.TB, name string) string {
	t.Helper()
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	for _, dir := range []string{"/usr/local/sbin", "/usr/sbin", "/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path
		}
	}
	t.Skipf("%s is not installed (scripts/setup installs it)", name)
	return ""
}

// NeedRoot skips the test unless it runs as root: device nodes, owners and
// trusted.* attributes cannot be made otherwise.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root (devices, owners, trusted attributes)")
	}
}
