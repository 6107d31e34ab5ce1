package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ociv2-sync/ociv2-sync/internal/testutil"
)

// TestSafeOrder traces the system calls of extract: a file that will be setuid
// is nobody's else to open until it has its contents and its owner, gets its mode
// after everything that could be used against it, and its time after that.
func TestSafeOrder(t *testing.T) {
	t.Parallel()
	testutil.NeedRoot(t)
	strace := testutil.Tool(t, "strace")
	d := newDevice(t)
	dir := t.TempDir()
	source, trace := filepath.Join(dir, "source"), filepath.Join(dir, "trace")
	must(t, os.Mkdir(source, 0o755))
	names := []string{"large", "small"} // written in two ways
	for i, name := range names {
		file := filepath.Join(source, name)
		writeNoise(t, file, 1, []int{300_000, 100}[i])
		must(t, os.Chown(file, 1000, 1000))
		must(t, unix.Setxattr(file, "user.x", []byte("1"), 0))
		must(t, unix.Chmod(file, 0o6755))
	}
	archive := filepath.Join(dir, "x.catar")
	d.must("make", "-q", archive, source)
	cmd := d.command("extract", archive, filepath.Join(dir, "dest"))
	traced := exec.CommandContext(t.Context(), strace, append([]string{
		"-f", "-y", "-o", trace, "-e", "trace=openat,write,pwrite64,fchown,fchownat,fsetxattr,fchmod,fchmodat,utimensat", cmd.Path,
	}, cmd.Args[1:]...)...)
	traced.Env = cmd.Env
	// The program knows itself by its name.
	program := filepath.Join(dir, "ociv2-sync")
	must(t, os.Symlink(cmd.Path, program))
	traced.Args[slices.Index(traced.Args, cmd.Path)] = program
	if out, err := traced.CombinedOutput(); err != nil {
		if bytes.Contains(out, []byte("ptrace")) {
			t.Skipf("programs cannot be traced here: %s", out)
		}
		t.Fatalf("%v\n%s", err, out)
	}
	b, err := os.ReadFile(trace)
	must(t, err)
	for _, name := range names {
		made := regexp.MustCompile(`openat\([^"]*"` + name + `", [^)]*O_CREAT\|O_EXCL[^)]*, 0600\)?`)
		call := regexp.MustCompile(`(\w+)\(\d+</[^>]*dest[^>]*/` + name + `>.*`)
		var calls []string
		for line := range strings.Lines(string(b)) {
			if m := call.FindStringSubmatch(line); m != nil && !slices.Contains(calls, m[1]) && m[1] != "openat" {
				calls = append(calls, m[1])
			}
			if strings.Contains(line, "fchmod(") && call.MatchString(line) && !strings.Contains(line, "06755") {
				t.Errorf("another mode: %s", line)
			}
		}
		if want := []string{"pwrite64", "fchownat", "fsetxattr", "fchmod", "utimensat"}; !slices.Equal(calls, want) || !made.Match(b) {
			t.Errorf("%s: %q, want %q, after it was made with 0600: %v", name, calls, want, made.Match(b))
		}
	}
}
