package root

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/opencontainers/go-digest"
)

// A tree that no tag needs stays while there is a lease on it, with its blobs.
func TestLease(t *testing.T) {
	r := newRoot(t, Options{Keep: -1})
	w := lock(t, r)
	a := commit(t, w, "app", "1", "a")
	img, err := r.Image("app", "1")
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(img.Path + "/../" + treeJSON)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_SH); err != nil {
		t.Fatal(err)
	}
	commit(t, w, "app", "1", "b")
	for range 2 {
		gone, err := w.Prune(t.Context())
		if err != nil || len(gone) != 0 || !slices.Equal(w.Leased(), []digest.Digest{a}) {
			t.Errorf("Prune = %v, %v; leased %v", gone, err, w.Leased())
		}
	}
	tree, err := r.Tree(a)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Blob(tree.TOC); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(tree.RootFS)); err != nil {
		t.Error(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if gone, err := w.Prune(t.Context()); err != nil || len(gone) != 1 || gone[0] != a || len(w.Leased()) != 0 {
		t.Errorf("Prune = %v, %v; leased %v", gone, err, w.Leased())
	}
}
