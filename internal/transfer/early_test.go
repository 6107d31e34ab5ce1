package transfer

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/ociv2-sync/ociv2-sync/internal/repo"
	"github.com/ociv2-sync/ociv2-sync/internal/stores"
	"github.com/ociv2-sync/ociv2-sync/internal/testutil"
	"github.com/ociv2-sync/ociv2-sync/seed"
	"github.com/ociv2-sync/ociv2-sync/store/httpstore"
)

// sparse makes a file of size bytes, all zero but the last.
func sparse(t *testing.T, path string, size int64, last byte) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte{last}, size-1); err != nil {
		t.Fatal(err)
	}
}

func parseRef(t *testing.T, s string) repo.Ref {
	t.Helper()
	ref, err := repo.ParseRef(s)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

// While seeds are read the link is busy with what no seed can have, and what
// is fetched is what the plan says.
func TestPullFetchesWhileSeedsAreRead(t *testing.T) {
	const size = 32 << 20 // of a content that seeds may have, and do not
	work := t.TempDir()
	tree, seeds := filepath.Join(work, "tree"), filepath.Join(work, "seed")
	for _, dir := range []string{tree, seeds} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	fresh := make([]byte, 3<<20)
	rand.NewChaCha8([32]byte{}).Read(fresh)
	if err := os.WriteFile(filepath.Join(tree, "fresh"), fresh, 0o644); err != nil {
		t.Fatal(err)
	}
	// A part of it is in a file whose older version the seed has, which shows
	// when that has been read.
	for path, end := range map[string]string{filepath.Join(tree, "alib.so.2"): "new", filepath.Join(seeds, "alib.so.1"): "old"} {
		if err := os.WriteFile(path, append(fresh[:1<<20:1<<20], end...), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	sparse(t, filepath.Join(tree, "large"), size, 1)
	for i := range 16 {
		sparse(t, filepath.Join(seeds, fmt.Sprint(i)), size, byte(2+i))
	}
	if _, err := Push(t.Context(), "rootfs:"+tree, parseRef(t, filepath.Join(work, "repo", "app:1")), PushOptions{}); err != nil {
		t.Fatal(err)
	}
	server := testutil.StartNginx(t, filepath.Join(work, "repo"))
	ref := parseRef(t, server.URL+"/app:1")

	archive := filepath.Join(work, "seed.tar")
	if out, err := exec.CommandContext(t.Context(), "tar", "-C", seeds, "-cf", archive, "alib.so.1", "1").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for name, c := range map[string]struct {
		seed   string
		budget int64
		early  bool
	}{
		"without a budget": {seeds, -1, true},
		"with a budget":    {seeds, 1 << 30, false},
		"archive":          {archive, -1, true},
	} {
		t.Run(name, func(t *testing.T) {
			client := httpstore.NewClient(httpstore.Options{})
			defer client.Close()
			opts := PullOptions{Root: filepath.Join(t.TempDir(), "root"), Seeds: []string{seeds}, Clients: stores.Clients{HTTP: client}, MaxBytes: c.budget}
			plan, err := Prepare(t.Context(), ref, opts)
			if err != nil {
				t.Fatal(err)
			}
			if err := plan.Close(); err != nil {
				t.Fatal(err)
			}
			server.Reset()
			var early seed.ChunkUse
			pulled, err := Pull(t.Context(), ref, opts, func(p *Prepared) { early = p.Plan.PerOrigin(seed.Early) })
			if err != nil {
				t.Fatal(err)
			}
			path, err := filepath.EvalSymlinks(pulled.Path)
			if err != nil {
				t.Fatal(err)
			}
			testutil.CompareTrees(t, tree, path)
			if (early.Bytes > int64(len(fresh)/2)) != c.early || (early.Chunks > 0) != c.early {
				t.Errorf("%d bytes in %d chunks were fetched before the plan was complete", early.Bytes, early.Chunks)
			}
			var sent, requests int64
			for _, r := range server.Requests() {
				sent += r.BodyBytes
				requests++
			}
			if pulled.Bytes != plan.Total() || sent != plan.Total() || pulled.Requests != plan.Requests() || requests != plan.Requests() {
				t.Errorf("planned %d bytes in %d requests, reported %d in %d, served %d in %d",
					plan.Total(), plan.Requests(), pulled.Bytes, pulled.Requests, sent, requests)
			}
		})
	}
}

// A server that fails fails the pull, with the same error as ever, and what
// arrived stays.
func TestPullReportsWhatFailedEarly(t *testing.T) {
	work := t.TempDir()
	tree := filepath.Join(work, "tree")
	if err := os.Mkdir(tree, 0o755); err != nil {
		t.Fatal(err)
	}
	sparse(t, filepath.Join(tree, "file"), 1<<20, 1)
	sparse(t, filepath.Join(tree, "other"), 1<<10, 1)
	ref := parseRef(t, filepath.Join(work, "repo", "app:1"))
	if _, err := Push(t.Context(), "rootfs:"+tree, ref, PushOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(work, "repo", "default.castr")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(work, "repo", "default.castr"), 0o755); err != nil {
		t.Fatal(err)
	}
	seeds := t.TempDir()
	sparse(t, filepath.Join(seeds, "x"), 1<<10, 2)
	opts := PullOptions{Root: filepath.Join(work, "root"), Seeds: []string{seeds}, MaxBytes: -1}
	if _, err := Pull(t.Context(), ref, opts, nil); err == nil {
		t.Error("a pull without chunks succeeded")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Pull(ctx, ref, opts, nil); err == nil {
		t.Error("a cancelled pull succeeded")
	}
}
