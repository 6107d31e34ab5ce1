package transfer

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/ociv2-sync/ociv2-sync/internal/repo"
	"github.com/ociv2-sync/ociv2-sync/internal/stores"
	"github.com/ociv2-sync/ociv2-sync/store/httpstore"
	"github.com/ociv2-sync/ociv2-sync/store/sshstore"
)

// A pull connects to a store behind ssh while it reads metadata, once it is known that
// there is something to pull.
func TestPullConnectsEarly(t *testing.T) {
	work := t.TempDir()
	tree, dialled, ssh := filepath.Join(work, "tree"), filepath.Join(work, "dialled"), filepath.Join(work, "ssh")
	must(t, os.Mkdir(tree, 0o755))
	must(t, os.WriteFile(filepath.Join(tree, "file"), bytes.Repeat([]byte("x"), 1000), 0o644))
	must(t, os.WriteFile(ssh, fmt.Appendf(nil, "#!/bin/sh\necho >>%s\nexit 255\n", dialled), 0o755))
	_, err := Push(t.Context(), "rootfs:"+tree, parseRef(t, filepath.Join(work, "repo", "app:1")), PushOptions{})
	must(t, err)
	files := http.FileServer(http.Dir(filepath.Join(work, "repo")))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/blobs/") {
			for begin := time.Now(); ; time.Sleep(time.Millisecond) {
				if _, err := os.Stat(dialled); err == nil {
					break
				}
				if time.Since(begin) > 10*time.Second {
					t.Error("metadata is read, and there is no connection for chunks")
					break
				}
			}
		}
		files.ServeHTTP(w, r)
	}))
	defer server.Close()
	client := httpstore.NewClient(httpstore.Options{})
	defer client.Close()
	opts := PullOptions{
		Root: filepath.Join(work, "root"), MaxBytes: -1, Lenient: true, Stores: []string{"host:/x.castr"},
		Clients: stores.Clients{HTTP: client, SSH: sshstore.Options{Command: ssh}},
	}
	// The store is down, but the image has its own.
	_, err = Pull(t.Context(), parseRef(t, server.URL+"/app:1"), opts, nil)
	must(t, err)
	must(t, os.Remove(dialled))
	again, err := Pull(t.Context(), parseRef(t, server.URL+"/app:1"), opts, nil)
	must(t, err)
	if _, err := os.Stat(dialled); err == nil || !again.Present {
		t.Error("a connection is made for an image that is there")
	}
}

// told notes what it is told to expect.
type told struct {
	repo.Files
	tag, platform string
	blobs         bool
}

func (e *told) Expect(tag, platform string, blobs bool) {
	e.tag, e.platform, e.blobs = tag, platform, blobs
}

// A repository is told what is read first: of a tag its file, and the blobs where all of
// them are wanted; of a digest nothing.
func TestExpect(t *testing.T) {
	digest := "sha256:" + strings.Repeat("0", 64)
	for ref, want := range map[string]told{
		"/r/app:1":         {tag: "app/1.json", platform: runtime.GOOS + "/" + runtime.GOARCH},
		"/r//team/app:1":   {tag: "team/app/1.json", platform: "linux/arm/v7", blobs: true},
		"/r/app@" + digest: {},
	} {
		ref := parseRef(t, ref)
		if want.blobs {
			ref.Platform = want.platform
		}
		var e told
		(&Prepared{all: want.blobs}).expect(&e, ref)
		if e != want {
			t.Errorf("%v: %+v", ref, e)
		}
	}
}
