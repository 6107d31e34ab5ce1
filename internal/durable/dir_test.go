package durable

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// fill makes a file in the directory being built.
func fill(content string) func(string) error {
	return func(temp string) error { return os.WriteFile(filepath.Join(temp, "file"), []byte(content), 0o644) }
}

// only fails the test unless parent has exactly one entry, and its file says
// content.
func only(t *testing.T, parent, name, content string) {
	t.Helper()
	entries, err := os.ReadDir(parent)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 1 || entries[0].Name() != name {
		t.Errorf("beside it lies something else: %v", entries)
	}
	if got, err := os.ReadFile(filepath.Join(parent, name, "file")); err != nil || string(got) != content {
		t.Errorf("the file says %q, %v; want %q", got, err, content)
	}
}

func TestDir(t *testing.T) {
	parent := t.TempDir()
	path := filepath.Join(parent, "d")
	if err := Dir(t.Context(), path, false, fill("one")); err != nil {
		t.Fatal(err)
	}
	only(t, parent, "d", "one")
	if err := Dir(t.Context(), path, false, fill("two")); !errors.Is(err, ErrOccupied) {
		t.Errorf("error %v, want %v", err, ErrOccupied)
	}
	only(t, parent, "d", "one")
	if err := Dir(t.Context(), path, true, fill("three")); err != nil {
		t.Fatal(err)
	}
	only(t, parent, "d", "three")
}

func TestDirTakesAnEmptyOne(t *testing.T) {
	parent := t.TempDir()
	path := filepath.Join(parent, "d")
	if err := os.Mkdir(path, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := Dir(t.Context(), path, false, fill("one")); err != nil {
		t.Fatal(err)
	}
	only(t, parent, "d", "one")
}

func TestDirRefusesAFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := Dir(t.Context(), path, true, fill("one")); !errors.Is(err, ErrOccupied) {
		t.Errorf("error %v, want %v", err, ErrOccupied)
	}
	if err := Dir(t.Context(), "/", true, fill("one")); !errors.Is(err, ErrOccupied) {
		t.Errorf("error %v, want %v", err, ErrOccupied)
	}
}

// A build that fails, or is cancelled at its end, leaves nothing and changes
// nothing.
func TestDirFails(t *testing.T) {
	parent := t.TempDir()
	path := filepath.Join(parent, "d")
	if err := Dir(t.Context(), path, false, fill("one")); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken")
	err := Dir(t.Context(), path, true, func(temp string) error { return errors.Join(fill("two")(temp), broken) })
	if !errors.Is(err, broken) {
		t.Errorf("error %v, want %v", err, broken)
	}
	only(t, parent, "d", "one")
	ctx, cancel := context.WithCancel(t.Context())
	err = Dir(ctx, path, true, func(temp string) error { cancel(); return fill("two")(temp) })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want %v", err, context.Canceled)
	}
	only(t, parent, "d", "one")
}

// What a killed build left goes; what another one is building stays.
func TestDirRemovesStale(t *testing.T) {
	parent := t.TempDir()
	path := filepath.Join(parent, "d")
	stale, busy := filepath.Join(parent, ".d"+tempMark+"1"), filepath.Join(parent, ".d"+tempMark+"2")
	for _, d := range []string{stale, busy, filepath.Join(parent, ".e"+tempMark+"3")} {
		if err := os.MkdirAll(filepath.Join(d, "sub"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	unlock, err := lock(busy)
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	if err := Dir(t.Context(), path, false, fill("one")); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(stale); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the stale directory: %v", err)
	}
	for _, d := range []string{busy, filepath.Join(parent, ".e"+tempMark+"3")} {
		if _, err := os.Stat(d); err != nil {
			t.Error(err)
		}
	}
}
