package testutil

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// LoopMount returns the mount point of a new filesystem of 320 MB, made by mkfs.KIND with
// the given arguments. The test is skipped where that cannot be had.
func LoopMount(t testing.TB, kind string, args ...string) string {
	t.Helper()
	NeedRoot(t)
	mkfs := Tool(t, "mkfs."+kind)
	image, mount := filepath.Join(t.TempDir(), "image"), t.TempDir()
	must(t, os.WriteFile(image, nil, 0o600))
	must(t, os.Truncate(image, 320<<20))
	if out, err := exec.CommandContext(t.Context(), mkfs, append(args, image)...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", mkfs, err, out)
	}
	if out, err := exec.CommandContext(t.Context(), "mount", "-o", "loop", "-t", kind, image, mount).CombinedOutput(); err != nil {
		t.Skipf("cannot mount %s: %v\n%s", kind, err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", mount).CombinedOutput(); err != nil {
			t.Errorf("umount: %v\n%s", err, out)
		}
	})
	return mount
}
