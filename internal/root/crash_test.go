package root

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/ociv2-sync/ociv2-sync/internal/testutil"
)

// childEnv names, in a process that TestCutAnywhere starts, the root to work on.
const childEnv = "ROOT_TEST_CHILD"

// changing are the system calls by which this package changes a file system.
var changing = []string{
	"openat", "mkdirat", "write", "pwrite64", "ftruncate", "fchmodat", "fsync", "syncfs", "renameat", "renameat2", "symlinkat", "unlinkat",
}

// TestMain is also the process that TestCutAnywhere cuts: an update from "old" to "new",
// with all that belongs to it.
func TestMain(m *testing.M) {
	path := os.Getenv(childEnv)
	if path == "" {
		os.Exit(m.Run())
	}
	runtime.LockOSThread() // strace counts the calls of each thread
	if err := update(path); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func update(path string) error {
	r, err := Open(path, Options{Keep: 1})
	if err != nil {
		return err
	}
	w, err := r.Lock("child")
	if err != nil {
		return err
	}
	if err := tryCommit(w, "team/app", "1", "new"); err != nil {
		return errors.Join(err, w.Unlock())
	}
	if err := w.ClearChunkCache(); err != nil {
		return errors.Join(err, w.Unlock())
	}
	if _, err := w.Prune(context.Background()); err != nil {
		return errors.Join(err, w.Unlock())
	}
	return w.Unlock()
}

// TestCutAnywhere kills the update before each of its system calls in turn, and lets each
// of them fail in turn. Afterwards the tag shows the old tree or the new one, whole, with
// its predecessors; and the same update, run again, comes to its end.
func TestCutAnywhere(t *testing.T) {
	strace := testutil.Tool(t, "strace")
	if out, err := exec.CommandContext(t.Context(), strace, "-f", "true").CombinedOutput(); err != nil {
		t.Skipf("strace may not trace here: %v: %s", err, out)
	}
	for _, how := range []string{"signal=KILL", "error=ENOSPC"} {
		t.Run(how, func(t *testing.T) {
			shown := map[digest.Digest]int{}
			for _, call := range changing {
				for n := 1; ; n++ {
					injected := fmt.Sprintf("inject=%s:%s:when=%d", call, how, n)
					manifest, ok := cut(t, strace, injected)
					if !ok {
						break // the update makes fewer than n of these calls
					}
					shown[manifest]++
				}
			}
			if shown[manifestOf("old")] == 0 || shown[manifestOf("new")] == 0 {
				t.Error("no cut was before the switch, or none was after it")
			}
			t.Logf("%d cuts show the old tree and %d the new one", shown[manifestOf("old")], shown[manifestOf("new")])
		})
	}
}

// cut runs the update with one system call killed or failed, checks what it left and what the
// next update makes of it, and returns what the tag showed in between. It reports false
// when the update did not make that call.
func cut(t *testing.T, strace, inject string) (digest.Digest, bool) {
	t.Helper()
	dir := t.TempDir()
	r, err := Open(filepath.Join(dir, "root"), Options{Keep: 1})
	if err != nil {
		t.Fatal(err)
	}
	w, err := r.Lock("test")
	if err != nil {
		t.Fatal(err)
	}
	for _, content := range []string{"oldest", "old"} {
		commit(t, w, "team/app", "1", content)
	}
	if err := w.Unlock(); err != nil {
		t.Fatal(err)
	}

	trace := filepath.Join(dir, "trace")
	call, _, _ := strings.Cut(strings.TrimPrefix(inject, "inject="), ":")
	cmd := exec.CommandContext(t.Context(), strace, "-f", "-o", trace, "-e", "trace="+call, "-e", inject, os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+r.path, "GORACE=atexit_sleep_ms=0")
	out, childErr := cmd.CombinedOutput()
	calls, err := os.ReadFile(trace)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(calls, []byte("INJECTED")) && !bytes.Contains(calls, []byte("killed by")) {
		if childErr != nil {
			t.Fatalf("the update fails uncut: %v\n%s", childErr, out)
		}
		return "", false
	}

	oldest, old, latest := manifestOf("oldest"), manifestOf("old"), manifestOf("new")
	img, err := r.Image("team/app", "1")
	if err != nil {
		t.Fatalf("%s: %v\n%s", inject, err, out)
	}
	shown := img.Current.Manifest
	switch {
	case shown == latest:
		expect(t, r, "team/app", "1", latest, old)
	case childErr == nil:
		t.Errorf("%s: the update failed and says nothing", inject)
	case len(img.Predecessors) == 0:
		// The record says already that new comes; oldest will not be kept beside it.
		expect(t, r, "team/app", "1", old)
	default:
		expect(t, r, "team/app", "1", old, oldest)
	}
	if err := update(r.path); err != nil {
		t.Fatalf("%s: the next run: %v", inject, err)
	}
	expect(t, r, "team/app", "1", latest, old)
	for dir, want := range map[string]int{tmpDir: 0, treesDir: 2, blobsDir: 6} {
		if left, err := os.ReadDir(r.join(dir)); err != nil || len(left) != want {
			t.Errorf("%s: %s holds %v, %v, want %d", inject, dir, left, err, want)
		}
	}
	return shown, true
}

func manifestOf(content string) digest.Digest {
	return digest.FromBytes(testBlobs(content).Manifest)
}
