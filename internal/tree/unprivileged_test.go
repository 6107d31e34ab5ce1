package tree

import (
	"bytes"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ociv2-sync/ociv2-sync/catar"
	"github.com/ociv2-sync/ociv2-sync/internal/testutil"
)

// asNobody runs f in a thread of another user.
func asNobody(t *testing.T, f func()) {
	t.Helper()
	const nobody = 65534
	done := make(chan error)
	go func() {
		// Never unlocked: the thread ends with the goroutine.
		runtime.LockOSThread()
		// The raw calls change this thread only.
		for _, call := range []uintptr{unix.SYS_SETRESGID, unix.SYS_SETRESUID} {
			if _, _, errno := unix.RawSyscall(call, nobody, nobody, nobody); errno != 0 {
				done <- errno
				return
			}
		}
		f()
		done <- nil
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// TestExtractUnprivileged: what only root may restore is named, the rest is
// there, and nothing is setuid to whoever extracts.
func TestExtractUnprivileged(t *testing.T) {
	testutil.NeedRoot(t)
	dir := t.TempDir()
	testutil.BuildTree(t, dir)
	all, err := catar.ParseNames(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	archive := encode(t, dir, EncodeOptions{Flags: all})
	to, err := os.MkdirTemp("", "unprivileged") // t.TempDir lies below what nobody may not enter
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(to) })
	if err := os.Chown(to, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	var notes []Unrestored
	asNobody(t, func() {
		var d *Dir
		if d, err = OpenDir(to); err == nil {
			notes, err = Extract(t.Context(), catar.NewReader(bytes.NewReader(archive)), d, ExtractOptions{Flags: allFlags})
			_ = d.Close()
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	said := map[string]bool{}
	for _, n := range notes {
		rel, err := filepath.Rel(to, n.Path)
		if err != nil || strings.HasPrefix(rel, ".ociv2") {
			t.Errorf("note for %q", n.Path)
		}
		said[rel+": "+n.What] = true
	}
	for _, want := range []string{
		".: owner", "dev/null: node", "modes/setuid: owner", "modes/setuid: mode", "attributes/capable: xattr security.capability",
		"attributes/user: xattr trusted.note",
	} {
		if !said[want] {
			t.Errorf("nothing said of %s", want)
		}
	}
	if m := modeOf(t, filepath.Join(to, "modes/setuid")); m&0o6000 != 0 {
		t.Errorf("setuid to whoever extracted: %o", m)
	}
	testutil.CompareTrees(t, dir, to, testutil.Privileged, testutil.Without(testutil.HardLinks))
}
