package repotest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/ociv2-sync/ociv2-sync/internal/repo"
	"github.com/ociv2-sync/ociv2-sync/store"
)

func collect(t *testing.T, s repo.Space, o repo.CollectOptions) *repo.Collected {
	t.Helper()
	o.Now = time.Now
	c, err := repo.Collect(t.Context(), s, o)
	must(t, err)
	return c
}

// addDelta lists a delta, of any bytes, from one image to the one of a tag.
func addDelta(t *testing.T, s repo.Space, from repo.Publication, to string) {
	t.Helper()
	im, err := repo.Open(t.Context(), s, ref(to))
	must(t, err)
	data := []byte("delta to " + to)
	d := repo.NewDelta{Delta: repo.Delta{Blob: digest.FromBytes(data), Size: int64(len(data)), Head: 1, From: digest.FromBytes(from.TOC)}, Data: bytes.NewReader(data)}
	must(t, repo.AddDeltas(t.Context(), s, ref(to), im.Digest, im.Manifest.TOCDigest, []repo.NewDelta{d}, time.Now))
}

func deltas(t *testing.T, s repo.Space, name string) int {
	t.Helper()
	im, err := repo.Open(t.Context(), s, ref(name))
	must(t, err)
	return len(im.Deltas)
}

func testCollect(t *testing.T, s repo.Space) {
	one, two, three := Publication(t, s, "one"), Publication(t, s, "two"), Publication(t, s, "three")
	foreign := Publication(t, s, "foreign")
	must(t, Push(t.Context(), s, "app:1", one))
	must(t, Push(t.Context(), s, "app:2", two))
	must(t, Push(t.Context(), s, "app:3", three))
	must(t, Push(t.Context(), s, "app:latest", three))
	must(t, Push(t.Context(), s, "team/x:1", one))
	var index bytes.Buffer
	_, err := foreign.Catar.Index.WriteTo(&index)
	must(t, err)
	must(t, s.Create(t.Context(), "disk.caidx", index.Bytes()))
	must(t, s.Create(t.Context(), repo.StoreName+"/0000/readme", []byte("whatever")))
	must(t, s.Create(t.Context(), "app/.1.json.AAAA.tmp", []byte("being written")))
	addDelta(t, s, one, "app:2")
	addDelta(t, s, two, "app:3")

	if c := collect(t, s, repo.CollectOptions{}); c.Blobs.Files+c.Chunks.Files+c.Deltas+c.Others.Files != 0 {
		t.Errorf("what is needed goes: %+v", c)
	}
	if err := repo.Remove(t.Context(), s, ref("app:none"), time.Now); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("removed what is not there: %v", err)
	}
	must(t, repo.Remove(t.Context(), s, ref("app:2"), time.Now))
	names, err := repo.Catalog(t.Context(), s)
	if want := "[{app [1 3 latest]} {team/x [1]}]"; err != nil || fmt.Sprint(names) != want {
		t.Errorf("catalog %v, %v, want %s", names, err, want)
	}
	if c := collect(t, s, repo.CollectOptions{Grace: time.Hour, KeepDeltas: time.Hour}); c.Blobs.Files+c.Chunks.Files+c.Deltas != 0 {
		t.Errorf("what is young goes: %+v", c)
	}
	if deltas(t, s, "app:3") != 1 {
		t.Error("the delta from an image that devices may have is gone")
	}
	plan := collect(t, s, repo.CollectOptions{DryRun: true})
	done := collect(t, s, repo.CollectOptions{})
	if fmt.Sprintf("%+v", plan) != fmt.Sprintf("%+v", done) {
		t.Errorf("planned %+v, done %+v", plan, done)
	}
	if done.Chunks.Files != 1 || done.Blobs.Files < 5 || done.Deltas != 1 || deltas(t, s, "app:3") != 0 {
		t.Errorf("removed %+v", done)
	}
	for name, p := range map[string]repo.Publication{"app:1": one, "app:3": three, "app:latest": three, "team/x:1": one} {
		if !Check(t, s, name, p) {
			t.Errorf("%s has another image", name)
		}
	}
	for _, c := range foreign.Catar.Index.Chunks {
		if _, err := s.ReadFile(t.Context(), ChunkPath(c.ID), 1<<20); err != nil {
			t.Errorf("of an index that is no image's: %v", err)
		}
	}
	if _, err := s.ReadFile(t.Context(), repo.StoreName+"/0000/readme", 100); err != nil {
		t.Error(err)
	}

	// By count: two tags of one image are one.
	c := collect(t, s, repo.CollectOptions{Keep: 1, DryRun: true})
	if got := strings.Join(c.Tags, " "); got != "app:1" {
		t.Errorf("kept one: without %q", got)
	}
	if c := collect(t, s, repo.CollectOptions{Keep: 1, KeepWithin: time.Hour}); len(c.Tags) != 0 {
		t.Errorf("kept an hour: without %q", c.Tags)
	}
	c, err = repo.Collect(t.Context(), s, repo.CollectOptions{KeepWithin: time.Hour, Now: func() time.Time { return time.Now().Add(2 * time.Hour) }})
	must(t, err)
	if len(c.Tags) != 4 || c.KeptBlobs.Files != 0 || c.KeptChunks.Files != 1 {
		t.Errorf("kept nothing: %+v", c)
	}
	for e, err := range s.List(t.Context(), ".", true) {
		if must(t, err); strings.HasPrefix(e.Path, "app/") && !strings.HasSuffix(e.Path, ".tmp") || strings.HasPrefix(e.Path, "team") {
			t.Errorf("left %s", e.Path)
		}
	}

	// What it goes by must be whole.
	must(t, Push(t.Context(), s, "bad:1", two))
	must(t, s.Put(t.Context(), "bad/1.json", strings.NewReader("{"), 1))
	if _, err := repo.Collect(t.Context(), s, repo.CollectOptions{Now: time.Now}); !errors.Is(err, repo.ErrMalformed) || !strings.Contains(err.Error(), "bad/1.json") {
		t.Errorf("a tag that is damaged: %v", err)
	}
}

// Pushes of what was just about to be collected, beside collections, lose
// nothing.
func testCollectBeside(t *testing.T, s repo.Space) {
	pubs := []repo.Publication{Publication(t, s, "one"), Publication(t, s, "two"), Publication(t, s, "three")}
	must(t, Push(t.Context(), s, "kept:1", Publication(t, s, "kept"))) // so that it is a repository
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			if _, err := repo.Collect(ctx, s, repo.CollectOptions{Now: time.Now}); err != nil && ctx.Err() == nil {
				t.Error(err)
			}
		}
	})
	for i, p := range pubs {
		err := repo.Reserve(t.Context(), s, time.Now, func(ctx context.Context) error {
			// As a push does: what is there is not put again.
			Publication(t, s, []string{"one", "two", "three"}[i])
			_, err := repo.Publish(ctx, s, ref(fmt.Sprintf("app:%d", i)), p)
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
	stop()
	wg.Wait()
	for i, p := range pubs {
		if !Check(t, s, fmt.Sprintf("app:%d", i), p) {
			t.Errorf("app:%d has another image", i)
		}
	}
}
