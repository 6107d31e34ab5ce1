package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/ociv2-sync/ociv2-sync/internal/testutil"
)

// TestExtractUnprivileged runs extract as an ordinary user, of an archive that only
// root can restore: each thing that is lacking is named, the rest is there, and
// that is no error unless --strict makes it one.
func TestExtractUnprivileged(t *testing.T) {
	t.Parallel()
	testutil.NeedRoot(t)
	d := newDevice(t)
	source, archive := filepath.Join(t.TempDir(), "source"), filepath.Join(t.TempDir(), "x.catar")
	testutil.BuildTree(t, source)
	d.must("make", "-q", archive, source)
	const nobody = 65534
	home, err := os.MkdirTemp("", "unprivileged") // t.TempDir lies below what nobody may not enter
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(home) })
	must(t, os.Chown(home, nobody, nobody))
	exe, err := os.Executable()
	must(t, err)
	self, err := os.Open(exe)
	must(t, err)
	defer self.Close()

	extract := func(args ...string) (int, string, string) {
		t.Helper()
		cmd := d.command(append([]string{"extract"}, args...)...)
		// The program lies where nobody may not go, so that it is run as an open file.
		cmd.Path, cmd.ExtraFiles, cmd.Dir = "/proc/self/fd/3", []*os.File{self}, home
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		in, err := os.Open(archive)
		must(t, err)
		defer in.Close()
		var stdout, stderr strings.Builder
		cmd.Stdin, cmd.Stdout, cmd.Stderr = in, &stdout, &stderr
		must(t, cmd.Start())
		return wait(t, cmd), stdout.String(), stderr.String()
	}
	lacking := []string{"dev/null: node", "modes/setuid: owner", "modes/setuid: mode", "attributes/capable: xattr security.capability", "attributes/user: xattr trusted.note"}
	named := func(text, dest string) {
		t.Helper()
		for _, what := range lacking {
			if !strings.Contains(text, filepath.Join(dest, what)) {
				t.Errorf("nothing said of %s:\n%s", what, text)
			}
		}
	}

	code, _, stderr := extract("-", "new")
	if code != exitDone {
		t.Fatalf("exit code %d\n%s", code, stderr)
	}
	named(stderr, "new")
	testutil.CompareTrees(t, source, filepath.Join(home, "new"), testutil.Privileged, testutil.Without(testutil.HardLinks))

	code, stdout, _ := extract("--json", "-", "json")
	var result struct{ NotRestored []string }
	if err := json.Unmarshal([]byte(stdout), &result); err != nil || code != exitDone {
		t.Errorf("exit code %d, %v: %s", code, err, stdout)
	}
	named(strings.Join(result.NotRestored, "\n"), "json")

	code, _, stderr = extract("--strict", "-", "strict")
	if code != exitFailed || !strings.Contains(stderr, "attributes could not be restored") {
		t.Errorf("with --strict: exit code %d\n%s", code, stderr)
	}
	named(stderr, "strict")

	// What need not be restored is not lacking.
	code, _, stderr = extract("--strict", "--with=symlinks", "-", "little")
	if code != exitDone {
		t.Errorf("with little to restore: exit code %d\n%s", code, stderr)
	}
}
