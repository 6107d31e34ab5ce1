package root

import (
	"errors"
	"os"
	"testing"
)

func TestRemove(t *testing.T) {
	r := newRoot(t, Options{})
	w := lock(t, r)
	a, b := commit(t, w, "app", "1", "a"), commit(t, w, "app", "1", "b")
	c := commit(t, w, "team/app", "1", "c")
	if err := w.Tag("app", "2", b, ""); err != nil {
		t.Fatal(err)
	}
	if err := w.Remove("app", "1"); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Image("app", "1"); !errors.Is(err, ErrNotFound) {
		t.Errorf("Image = %v, want ErrNotFound", err)
	}
	expect(t, r, "app", "2", b)
	if gone, err := w.Prune(t.Context()); err != nil || len(gone) != 1 || gone[0] != a {
		t.Errorf("Prune = %v, %v, want %v gone", gone, err, a)
	}
	if err := w.Remove("app", "1"); !errors.Is(err, ErrNotFound) {
		t.Errorf("Remove again = %v, want ErrNotFound", err)
	}
	if err := w.Remove("team", "app"); !errors.Is(err, ErrNotFound) {
		t.Errorf("Remove of a directory of images = %v, want ErrNotFound", err)
	}
	expect(t, r, "team/app", "1", c)
	if err := errors.Join(w.Remove("team/app", "1"), w.Remove("app", "2")); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{imagesDir, refsDir} {
		if left, err := os.ReadDir(r.join(dir)); err != nil || len(left) != 0 {
			t.Errorf("%s holds %v, %v", dir, left, err)
		}
	}
	if gone, err := w.Prune(t.Context()); err != nil || len(gone) != 2 {
		t.Errorf("Prune = %v, %v, want two gone", gone, err)
	}
	// The name is free for what it was in the way of.
	commit(t, w, "team", "app", "d")
}

// A removal that was cut between its two steps, or a first commit before its last.
func TestRemoveUnusedEndsWhatWasCut(t *testing.T) {
	r := newRoot(t, Options{})
	w := lock(t, r)
	a, b := commit(t, w, "app", "1", "a"), commit(t, w, "other", "1", "b")
	if err := os.Remove(r.linkPath("app", "1")); err != nil {
		t.Fatal(err)
	}
	if gone, err := w.Prune(t.Context()); err != nil || len(gone) != 0 {
		t.Errorf("Prune = %v, %v, want nothing gone", gone, err)
	}
	if gone, err := w.RemoveUnused(t.Context()); err != nil || len(gone) != 1 || gone[0] != a {
		t.Errorf("RemoveUnused = %v, %v, want %v gone", gone, err, a)
	}
	expect(t, r, "other", "1", b)
}
