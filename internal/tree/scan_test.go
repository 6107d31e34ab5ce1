package tree

import (
	"context"
	"io"
	"testing"

	"github.com/ociv2-sync/ociv2-sync/internal/testutil"
)

func TestScanReadsEverything(t *testing.T) {
	dir := t.TempDir()
	testutil.BuildTree(t, dir)
	src, err := Scan(context.Background(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	for i, n := range src.Nodes {
		if !n.IsRegular() || n.Link >= 0 || n.Size == 0 {
			continue
		}
		r, err := src.Open(t.Context(), i)
		if err != nil {
			t.Fatal(err)
		}
		if k, err := io.Copy(io.Discard, r); err != nil || k != n.Size {
			t.Errorf("%s: %d bytes, %v", n.Name, k, err)
		}
		r.Close()
	}
	t.Logf("%d nodes", len(src.Nodes))
}
