package ingest_test

import (
	"bytes"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/internal/ingest"
	"github.com/ociv2-sync/ociv2-sync/store/storetest"
)

// holes is a reader that tells of some of its zeros and refuses to skip others.
type holes struct {
	t    interface{ Fatalf(string, ...any) }
	data []byte
	most int // that it tells of at once

	bytes.Reader
}

func newHoles(t interface{ Fatalf(string, ...any) }, data []byte, most int) *holes {
	h := &holes{t: t, data: data, most: most}
	h.Reset(data)
	return h
}

func (h *holes) Zeros() (int64, error) {
	rest := h.data[len(h.data)-h.Len():]
	n := 0
	for n < len(rest) && n < h.most && rest[n] == 0 {
		n++
	}
	return int64(n), nil
}

func (h *holes) Skip(n int64) {
	if told, _ := h.Zeros(); n < 0 || n > told {
		h.t.Fatalf("skips %d of %d zeros", n, told)
	}
	_, _ = h.Seek(n, 1)
}

// What is known of holes changes nothing of the result.
func TestSparse(t *testing.T) {
	settings := []chunk.Params{params, {Min: 40, Avg: 5251, Max: 8000}, {Min: 777, Avg: 777, Max: 777}, {Min: 48, Avg: 60_000, Max: 200_000}}
	random := sample(1 << 20)
	rapid.Check(t, func(t *rapid.T) {
		var data []byte
		for range rapid.IntRange(1, 5).Draw(t, "parts") {
			at := rapid.IntRange(0, len(random)).Draw(t, "at")
			data = slices.Concat(data, random[at:at+rapid.IntRange(0, min(len(random)-at, 30_000)).Draw(t, "data")],
				make([]byte, rapid.SampledFrom([]int{0, 100, 7999, 8000, 65_536, 600_000}).Draw(t, "hole")))
		}
		p := rapid.SampledFrom(settings).Draw(t, "params")
		o := ingest.Options{Params: p, FeatureFlags: blobFlags, Store: new(storetest.Memory), Digest: true}
		want, err := ingest.Stream(t.Context(), bytes.NewReader(data), o)
		if err != nil {
			t.Fatal(err)
		}
		done := int64(0)
		o.Store, o.Progress, o.Jobs = new(storetest.Memory), func(n int64) { done = n }, rapid.SampledFrom([]int{1, 5}).Draw(t, "jobs")
		got, err := ingest.Stream(t.Context(), newHoles(t, data, rapid.IntRange(1, 1_000_000).Draw(t, "most")), o)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got.Index.Chunks, want.Index.Chunks) || got.Digest != want.Digest || !slices.Equal(got.Stored, want.Stored) ||
			got.New != want.New || got.Reused != want.Reused || got.Packed != want.Packed || done != int64(len(data)) {
			t.Errorf("%v: with holes %+v %+v, without %+v %+v", p, got.New, got.Reused, want.New, want.Reused)
		}
	})
}
