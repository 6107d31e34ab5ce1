package transfer

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ociv2-sync/ociv2-sync/internal/testutil"
	"github.com/ociv2-sync/ociv2-sync/store/httpstore"
)

// Of an image of which little is missing only a part of the chunk index is
// fetched, the plan says so to the byte, and servers and images that do not
// allow it still work.
func TestPullReadsPartsOfTheIndex(t *testing.T) {
	work := t.TempDir()
	tree, ref := pushTree(t, work, 1)
	changed := filepath.Join(t.TempDir(), "tree")
	must(t, os.CopyFS(changed, os.DirFS(tree)))
	for _, i := range []int{3, 11} {
		must(t, os.WriteFile(filepath.Join(changed, fmt.Sprint("small", i)), fmt.Appendf(nil, "new %d", i), 0o644))
	}
	must(t, os.WriteFile(filepath.Join(changed, strings.Repeat("x", 240)), []byte("outside the catar"), 0o644))
	ref.Tag = "2"
	_, err := Push(t.Context(), "rootfs:"+changed, ref, PushOptions{})
	must(t, err)

	files := http.FileServer(http.Dir(work))
	noRanges := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Header.Del("Range")
		files.ServeHTTP(w, r)
	}))
	defer noRanges.Close()
	nginx := testutil.StartNginx(t, work)
	for name, c := range map[string]struct {
		url   string
		parts bool
	}{"nginx": {nginx.URL, true}, "no ranges": {noRanges.URL, false}} {
		t.Run(name, func(t *testing.T) {
			client := httpstore.NewClient(httpstore.Options{})
			defer client.Close()
			opts := newOptions(t)
			opts.Clients.HTTP, opts.Deltas = client, DeltaNever
			_, err := Pull(t.Context(), parseRef(t, c.url+"/app:1"), opts, nil)
			must(t, err)
			plan, err := Prepare(t.Context(), parseRef(t, c.url+"/app:2"), opts)
			must(t, err)
			total, requests, parts := plan.Total(), plan.Requests(), plan.spans != nil
			must(t, plan.Close())
			nginx.Reset()
			pulled, err := Pull(t.Context(), parseRef(t, c.url+"/app:2"), opts, nil)
			must(t, err)
			path, err := filepath.EvalSymlinks(pulled.Path)
			must(t, err)
			testutil.CompareTrees(t, changed, path)
			if parts != c.parts {
				t.Errorf("parts of the index: %t", parts)
			}
			if pulled.Bytes != total || pulled.Requests != requests {
				t.Errorf("planned %d bytes in %d requests, reported %d in %d", total, requests, pulled.Bytes, pulled.Requests)
			}
			if !c.parts {
				return
			}
			if n, bytes := nginx.Count(); int64(n) != requests || bytes != total {
				t.Errorf("planned %d bytes in %d requests, served %d in %d", total, requests, bytes, n)
			}
		})
	}
}

// A part of an index that lies costs an error, never a wrong file.
func TestPullRefusesAForgedPart(t *testing.T) {
	work := t.TempDir()
	tree, ref := pushTree(t, work, 1)
	changed := filepath.Join(t.TempDir(), "tree")
	must(t, os.CopyFS(changed, os.DirFS(tree)))
	must(t, os.WriteFile(filepath.Join(changed, "small"), []byte("new"), 0o644))
	opts := newOptions(t)
	_, err := Pull(t.Context(), ref, opts, nil)
	must(t, err)
	ref.Tag = "2"
	_, err = Push(t.Context(), "rootfs:"+changed, ref, PushOptions{})
	must(t, err)
	plan, err := Prepare(t.Context(), ref, PullOptions{Root: opts.Root, MaxBytes: -1, Deltas: DeltaNever})
	must(t, err)
	d := plan.Image.Manifest.Catar.Index.Digest
	must(t, plan.Close())
	// The ids of all chunks trade places; where they end stays.
	blob := filepath.Join(work, "app", "blobs", "sha256", d.Encoded())
	b, err := os.ReadFile(blob)
	must(t, err)
	items := b[64 : len(b)-40]
	var ids [][]byte
	for at := 0; at < len(items); at += 40 {
		ids = append(ids, slices.Clone(items[at+8:at+40]))
	}
	for i := range ids {
		copy(items[i*40+8:], ids[(i+1)%len(ids)])
	}
	must(t, os.WriteFile(blob, b, 0o644))
	opts.Deltas = DeltaNever
	if _, err := Pull(t.Context(), ref, opts, nil); err == nil {
		t.Error("a forged index made an image")
	}
}

func TestIndexRequests(t *testing.T) {
	for _, c := range []struct{ runs, want [][2]int }{
		{nil, nil},
		{[][2]int{{0, 1}, {5, 6}, {20, 21}}, [][2]int{{0, 6}, {20, 21}}},
		{[][2]int{{90, 110}}, [][2]int{{90, 100}, {100, 110}}},
		{[][2]int{{98, 99}, {101, 102}}, [][2]int{{98, 99}, {101, 102}}},
		{[][2]int{{101, 102}, {104, 105}}, [][2]int{{101, 105}}},
	} {
		if got := requests(c.runs, 100); !slices.Equal(got, c.want) {
			t.Errorf("%v: %v, want %v", c.runs, got, c.want)
		}
	}
}
