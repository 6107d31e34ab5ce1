package tree

import (
	"crypto/sha256"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/ociv2-sync/ociv2-sync/toc"
)

// A Hasher tells files that have the bytes of a node from all others, one after the other.
func TestHasher(t *testing.T) {
	dir := t.TempDir()
	d, err := OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	large := string(make([]byte, 600<<10)) + "end"
	h := NewHasher()
	for _, tt := range []struct {
		file, node string
		want       bool
	}{
		{"some bytes", "some bytes", true},
		{"same size!", "some bytes", false},
		{large, large, true},
		{"longer than it", "longer", false},
		{"longer", "longer than it", false},
		{"", "", true},
		{"some bytes", "some bytes", true},
	} {
		if err := os.WriteFile(filepath.Join(dir, "file"), []byte(tt.file), 0o600); err != nil {
			t.Fatal(err)
		}
		n := &toc.Node{Name: "file", Mode: toc.TypeRegular, Size: int64(len(tt.node)), Digest: sha256.Sum256([]byte(tt.node))}
		if got, err := h.Has(t.Context(), d, n); got != tt.want || err != nil {
			t.Errorf("%d bytes for %d: %v, %v", len(tt.file), len(tt.node), got, err)
		}
	}
	if got, err := h.Has(t.Context(), d, &toc.Node{Name: "none"}); got || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that is not there: %v, %v", got, err)
	}
}
