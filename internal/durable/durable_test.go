package durable_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ociv2-sync/ociv2-sync/internal/durable"
)

// names returns the names in dir.
func names(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var s []string
	for _, e := range entries {
		s = append(s, e.Name())
	}
	return strings.Join(s, " ")
}

func TestWriteFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	for _, content := range []string{"first", "", "second"} {
		if err := durable.WriteFile(path, []byte(content), 0o640); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		fi, err2 := os.Stat(path)
		if err := errors.Join(err, err2); err != nil || string(got) != content || fi.Mode() != 0o640 {
			t.Errorf("%q with mode %v, %v; want %q with 0640", got, fi.Mode(), err, content)
		}
	}
	if got := names(t, dir); got != "file" {
		t.Errorf("the directory holds %s", got)
	}
	if err := errors.Join(durable.SyncFS(dir), durable.SyncDir(dir)); err != nil {
		t.Error(err)
	}
}

func TestWriteFileLongName(t *testing.T) {
	path := filepath.Join(t.TempDir(), strings.Repeat("n", 255))
	if err := durable.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Error(err)
	}
}

func TestDiscard(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	if err := os.WriteFile(path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := durable.Create(path, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("new"); err != nil {
		t.Fatal(err)
	}
	// Without a name, or with a temporary one where the filesystem cannot do that.
	if got := names(t, dir); got != "file" && (!strings.HasPrefix(got, ".file.") || !strings.HasSuffix(got, ".tmp file")) {
		t.Errorf("while writing the directory holds %s", got)
	}
	if err := errors.Join(f.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil || string(got) != "old" || names(t, dir) != "file" {
		t.Errorf("%q, %v; the directory holds %s", got, err, names(t, dir))
	}
}

func TestCommitFails(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file") // a directory that is in the way
	if err := os.MkdirAll(filepath.Join(path, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := durable.WriteFile(path, []byte("x"), 0o600); err == nil {
		t.Error("a directory was replaced")
	}
	if got := names(t, dir); got != "file" {
		t.Errorf("the directory holds %s", got)
	}
	if err := durable.WriteFile(filepath.Join(dir, "absent", "file"), nil, 0o600); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v, want fs.ErrNotExist", err)
	}
}

func TestCommitAs(t *testing.T) {
	dir := t.TempDir()
	f, err := durable.Create(filepath.Join(dir, "layer"), 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.CommitAs(filepath.Join(dir, "final")); err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 || entries[0].Name() != "final" {
		t.Errorf("%v, %v", entries, err)
	}
}

func TestCheckFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	if err := durable.CheckFile(path, false); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := durable.CheckFile(path, true); err != nil {
		t.Error(err)
	}
	for path, replace := range map[string]bool{path: false, dir: true} {
		if err := durable.CheckFile(path, replace); !errors.Is(err, durable.ErrOccupied) {
			t.Errorf("%s: error %v", path, err)
		}
	}
}

// The clock is that of the test, the file system a real one.
func TestSyncWhile(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		failed := errors.New("failed")
		for _, want := range []error{nil, failed} {
			err := durable.SyncWhile(t.Context(), dir, func(ctx context.Context) error {
				time.Sleep(time.Minute)
				return errors.Join(ctx.Err(), want)
			})
			if !errors.Is(err, want) || errors.Is(err, context.Canceled) {
				t.Errorf("%v, want %v", err, want)
			}
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		err := durable.SyncWhile(ctx, dir, func(ctx context.Context) error {
			cancel(failed)
			<-ctx.Done()
			return context.Cause(ctx)
		})
		if !errors.Is(err, failed) {
			t.Errorf("%v, want %v", err, failed)
		}
		// Nobody would hear of it again.
		err = durable.SyncWhile(t.Context(), filepath.Join(dir, "absent"), func(ctx context.Context) error {
			<-ctx.Done()
			return ctx.Err()
		})
		if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a sync that fails: %v", err)
		}
	})
}
