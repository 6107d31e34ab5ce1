package seed

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// write makes a file with its directories.
func write(t *testing.T, dir, name, content string) {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func openDir(t *testing.T, dir string, opts DirOptions) Seed {
	t.Helper()
	s, err := OpenDir(dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// find asks one seed for contents and returns where it has them.
func find(t *testing.T, s Seed, contents ...string) map[string]string {
	t.Helper()
	var want Wanted
	name := make(map[Digest]string)
	for _, c := range contents {
		d := sha256.Sum256([]byte(c))
		name[d] = c
		want.add(d, int64(len(c)), "name-in-image")
	}
	var mu sync.Mutex
	got := make(map[string]string)
	err := s.Find(t.Context(), &want, func(d Digest, path string) {
		mu.Lock()
		defer mu.Unlock()
		got[name[d]] = path
	})
	if err != nil {
		t.Fatal(err)
	}
	if want.Left() != len(contents)-len(got) {
		t.Errorf("%d contents are left of %d after %d were found", want.Left(), len(contents), len(got))
	}
	return got
}

func TestDirFindsByContentAlone(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a/b/c/renamed", "content one")
	write(t, dir, "other", "content 2..")
	write(t, dir, "decoy", "content one, longer")
	got := find(t, openDir(t, dir, DirOptions{}), "content one", "content 2..", "absent bytes")
	if len(got) != 2 || got["content one"] != "a/b/c/renamed" || got["content 2.."] != "other" {
		t.Errorf("found %q", got)
	}
	r, err := openDir(t, dir, DirOptions{}).Open(t.Context(), got["content one"])
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if b, err := io.ReadAll(r); err != nil || string(b) != "content one" {
		t.Errorf("read %q, %v", b, err)
	}
}

// A seed may hold anything: what is no readable regular file is passed over,
// and nothing blocks or leads out of it.
func TestDirPassesOverWhatIsNoFile(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	write(t, outside, "secret", "outside")
	write(t, dir, "good", "goodbye")
	for _, err := range []error{
		unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600),
		os.Symlink(filepath.Join(outside, "secret"), filepath.Join(dir, "link")),
		os.Symlink(outside, filepath.Join(dir, "linkdir")),
		os.Symlink(".", filepath.Join(dir, "loop")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	got := find(t, openDir(t, dir, DirOptions{}), "outside", "goodbye")
	if len(got) != 1 || got["goodbye"] != "good" {
		t.Errorf("found %q", got)
	}
}

func TestDirLeavesVirtualFilesystemsOut(t *testing.T) {
	if !isVirtual("/proc") {
		t.Skip("no proc filesystem at /proc")
	}
	if isVirtual(t.TempDir()) {
		t.Error("the temporary directory passes for a virtual filesystem")
	}
}

// A file may be replaced between the walk and the hashing.
func TestDirSurvivesChange(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "file", "12345678")
	var log bytes.Buffer
	s := openDir(t, dir, DirOptions{Logger: slog.New(slog.NewTextHandler(&log, nil))}).(*dirSeed)
	for name, change := range map[string]func() error{
		"vanished": func() error { return os.Remove(filepath.Join(dir, "file")) },
		"fifo":     func() error { return unix.Mkfifo(filepath.Join(dir, "file"), 0o600) },
		"shrunk": func() error {
			return errors.Join(os.Remove(filepath.Join(dir, "file")), os.WriteFile(filepath.Join(dir, "file"), []byte("1"), 0o600))
		},
	} {
		t.Run(name, func(t *testing.T) {
			log.Reset()
			os.Remove(filepath.Join(dir, "file"))
			if name != "fifo" {
				write(t, dir, "file", "12345678")
			}
			if err := change(); err != nil {
				t.Fatal(err)
			}
			any := func(candidate) bool { return true }
			err := s.hashAll(t.Context(), noMemory{}, []candidate{{path: "file", size: 8}}, any, func(candidate, Digest) {
				t.Error("found a content that is gone")
			})
			if err != nil || !strings.Contains(log.String(), "passed over") {
				t.Errorf("error %v, log %q", err, log.String())
			}
		})
	}
}

func TestDirStopsWhenCancelled(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "file", "12345678")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var want Wanted
	want.add(sha256.Sum256([]byte("12345678")), 8, "file")
	err := openDir(t, dir, DirOptions{}).Find(ctx, &want, func(Digest, string) {})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want %v", err, context.Canceled)
	}
}

func TestOpenDirWantsADirectory(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "file", "x")
	if _, err := OpenDir(filepath.Join(dir, "file"), DirOptions{}); err == nil {
		t.Error("a file was opened as a directory")
	}
	if _, err := OpenDir(filepath.Join(dir, "none"), DirOptions{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v, want %v", err, os.ErrNotExist)
	}
}
