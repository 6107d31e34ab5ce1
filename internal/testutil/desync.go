package testutil

import (
	"os/exec"
	"strings"
	"testing"
)

// Desync returns the path of desync's command line tool, of the version in go.mod.
// The test is skipped where it cannot be built.
func Desync(t testing.TB) string {
	t.Helper()
	// From the cache of the go command, once it has been built.
	out, err := exec.CommandContext(t.Context(), "go", "tool", "-n", "desync").Output()
	if err != nil {
		t.Skipf("desync cannot be built: %v", err)
	}
	return strings.TrimSpace(string(out))
}
