package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"

	"github.com/ociv2-sync/ociv2-sync/internal/testutil"
)

// TestMain makes the test binary the program itself when it is called by the
// program's name: in scripts, and in tests that need a process to kill.
func TestMain(m *testing.M) {
	testscript.Main(leakless{m}, map[string]func(){"ociv2-sync": main, measuredName: measured})
}

// leakless fails a run of tests that leaves goroutines behind.
type leakless struct{ *testing.M }

func (m leakless) Run() int {
	code := m.M.Run()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// result is what became of a run of the program.
type result struct {
	code           int
	stdout, stderr string
}

// device is where a test's images are: a root, and nothing else of this
// machine.
type device struct {
	t    testing.TB
	root string
}

func newDevice(t testing.TB) *device {
	t.Helper()
	return &device{t: t, root: filepath.Join(t.TempDir(), "root")}
}

// run runs the program within the test.
func (d *device) run(args ...string) result {
	d.t.Helper()
	var stdout, stderr bytes.Buffer
	code := run(args, &stdout, &stderr, func(name string) (string, bool) {
		switch name {
		case "GOMEMLIMIT": // the limit of the test is not the program's to set
			return "", true
		case "OCIV2_SYNC_ROOT":
			return d.root, true
		case "OCIV2_SYNC_RETRY": // waiting is tested elsewhere
			return "0", true
		}
		return "", false
	})
	return result{code, stdout.String(), stderr.String()}
}

// must runs the program and fails the test unless it does what it is told.
func (d *device) must(args ...string) result {
	d.t.Helper()
	r := d.run(args...)
	if r.code != exitDone {
		d.t.Fatalf("ociv2-sync %q: exit code %d\n%s%s", args, r.code, r.stdout, r.stderr)
	}
	return r
}

// fails runs the program and fails the test unless it ends with code and one
// line that has every one of the words.
func (d *device) fails(code int, words []string, args ...string) {
	d.t.Helper()
	r := d.run(args...)
	if r.code != code {
		d.t.Errorf("ociv2-sync %q: exit code %d, want %d\n%s%s", args, r.code, code, r.stdout, r.stderr)
		return
	}
	line := r.errorLine(d.t)
	for _, w := range words {
		if !strings.Contains(line, w) {
			d.t.Errorf("ociv2-sync %q: the message does not say %q:\n%s", args, w, line)
		}
	}
}

// errorLine returns the one line that says what failed.
func (r result) errorLine(t testing.TB) string {
	t.Helper()
	var found []string
	for line := range strings.Lines(r.stderr) {
		if strings.HasPrefix(line, "ociv2-sync: ") && !strings.HasPrefix(line, "ociv2-sync: warning: ") {
			found = append(found, line)
		}
	}
	if len(found) != 1 || !strings.HasSuffix(r.stderr, found[0]) {
		t.Errorf("want one message, at the end, have %d:\n%s", len(found), r.stderr)
		return r.stderr
	}
	return found[0]
}

// state is what of the root makes images and brings them about. The rest, what
// it remembers of seeds, may change at any time.
func (d *device) state() []string {
	var paths []string
	for _, dir := range []string{"images", "trees", "refs", "blobs", "tmp", "chunks.castr"} {
		paths = append(paths, filepath.Join(d.root, dir))
	}
	return paths
}

// path is where the root shows an image.
func (d *device) path(image string) string {
	return filepath.Join(d.root, "images", strings.ReplaceAll(image, ":", "/"))
}

// command returns the program as a process of its own.
func (d *device) command(args ...string) *exec.Cmd {
	d.t.Helper()
	exe, err := os.Executable()
	must(d.t, err)
	cmd := exec.CommandContext(d.t.Context(), exe, args...)
	cmd.Args[0] = "ociv2-sync"
	cmd.Env = append(cleanEnv(), "OCIV2_SYNC_ROOT="+d.root, "OCIV2_SYNC_RETRY=0")
	return cmd
}

// cleanEnv is the environment without what would give the program defaults.
func cleanEnv() []string {
	var env []string
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, envPrefix) && !strings.HasPrefix(kv, "GOMEMLIMIT=") && !strings.HasPrefix(kv, "GOCOVERDIR=") {
			env = append(env, kv)
		}
	}
	return env
}

// wait waits for a process of [device.command] and returns its exit code.
func wait(t testing.TB, cmd *exec.Cmd) int {
	t.Helper()
	err := cmd.Wait()
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode()
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// unchanged returns a function that fails the test if the trees at paths are
// not as they are now. What a root knows of seeds may grow at any time.
func unchanged(t testing.TB, paths ...string) func() {
	t.Helper()
	before := make([]string, len(paths))
	for i, p := range paths {
		before[i] = filepath.Join(t.TempDir(), "before")
		if _, err := os.Lstat(p); err != nil {
			before[i] = ""
			continue
		}
		if out, err := exec.CommandContext(t.Context(), "cp", "-a", p, before[i]).CombinedOutput(); err != nil {
			t.Fatalf("cp: %v\n%s", err, out)
		}
	}
	return func() {
		t.Helper()
		for i, p := range paths {
			if before[i] == "" {
				if _, err := os.Lstat(p); err == nil {
					t.Errorf("%s is there now", p)
				}
				continue
			}
			testutil.CompareTrees(t, before[i], p, notCatalogue)
		}
	}
}

func notCatalogue(path string) testutil.Aspect {
	switch {
	case path == ".":
		return testutil.Time
	case path == "catalogue" || strings.HasPrefix(path, "catalogue/"):
		return testutil.Presence
	}
	return 0
}
