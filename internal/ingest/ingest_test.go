package ingest_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"testing/iotest"

	"go.uber.org/goleak"

	"github.com/ociv2-sync/ociv2-sync/caibx"
	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/internal/ingest"
	"github.com/ociv2-sync/ociv2-sync/internal/testutil"
	"github.com/ociv2-sync/ociv2-sync/store"
	"github.com/ociv2-sync/ociv2-sync/store/local"
	"github.com/ociv2-sync/ociv2-sync/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var params = chunk.Params{Min: 4 << 10, Avg: 16 << 10, Max: 64 << 10}

// blobFlags are the feature flags that casync gives to blobs.
const blobFlags = 0xb << 60

// sample returns n bytes that hold noise, text, zeros and a repetition.
func sample(n int) []byte {
	r := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, n/4)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	text := bytes.Repeat([]byte("All work and no play. "), n/4/22+1)[:n/4]
	return slices.Concat(b, text, make([]byte, n/4), b)
}

// restore puts the stream together again.
func restore(t *testing.T, s store.Store, x *caibx.Index) []byte {
	t.Helper()
	var b []byte
	for i, c := range x.Chunks {
		_, size := x.Span(i)
		p, err := s.Get(t.Context(), c.ID, store.MaxPacked(size))
		if err != nil {
			t.Fatal(err)
		}
		piece, err := store.Unpack(nil, p, x.Algorithm(), c.ID, size)
		if err != nil {
			t.Fatal(err)
		}
		b = append(b, piece...)
	}
	return b
}

func TestStream(t *testing.T) {
	data := sample(20 << 20)
	for jobs, flags := range map[int]uint64{3: blobFlags, 7: blobFlags, 8: blobFlags &^ caibx.FlagSHA512_256} {
		mem := new(storetest.Memory)
		s := &storetest.Counting{Store: mem}
		var progress []int64
		o := ingest.Options{
			Params: params, FeatureFlags: flags, Store: s, Jobs: jobs, Digest: true,
			Progress: func(done int64) { progress = append(progress, done) },
		}
		res, err := ingest.Stream(t.Context(), iotest.HalfReader(bytes.NewReader(data)), o)
		if err != nil {
			t.Fatal(err)
		}
		if res.Index.Params != params || res.Index.FeatureFlags != flags || !bytes.Equal(restore(t, s, res.Index), data) {
			t.Error("the index does not give the stream")
		}
		if res.Digest != res.Index.Algorithm().Sum(data) {
			t.Errorf("the digest of the stream is %s", res.Digest)
		}
		unique := make(map[chunk.ID]int64)
		for i, c := range res.Index.Chunks {
			size, err := s.Store.(store.Statter).StoredSize(t.Context(), c.ID)
			if err != nil || size != res.Stored[i] {
				t.Fatalf("chunk %d is stored in %d bytes, %v; result says %d", i, size, err, res.Stored[i])
			}
			unique[c.ID] = size
		}
		packed := int64(0)
		for _, n := range unique {
			packed += n
		}
		puts, putBytes := s.Puts()
		if int(puts) != len(unique) || putBytes != packed || mem.Len() != len(unique) ||
			res.New.Chunks != len(unique) || res.Packed != packed ||
			res.New.Chunks+res.Reused.Chunks != len(res.Index.Chunks) || res.New.Bytes+res.Reused.Bytes != int64(len(data)) ||
			res.Reused.Bytes < 5<<20 {
			t.Errorf("%d unique chunks in %d bytes: put %d in %d, result %+v %+v %d",
				len(unique), packed, puts, putBytes, res.New, res.Reused, res.Packed)
		}
		if !slices.IsSorted(progress) || progress[len(progress)-1] != int64(len(data)) {
			t.Errorf("progress %v", progress)
		}
		if q := s.Questions(); q > int64(len(res.Index.Chunks)/10) {
			t.Errorf("the store was asked %d times about %d chunks", q, len(res.Index.Chunks))
		}

		// Once more: nothing is put; and without a store the index is the same.
		again, err := ingest.Stream(t.Context(), bytes.NewReader(data), o)
		if err != nil || again.New.Chunks != 0 || again.Reused.Bytes != int64(len(data)) || !slices.Equal(again.Stored, res.Stored) {
			t.Errorf("again: %+v, %v", again.New, err)
		}
		o.Store, o.Progress = nil, nil
		alone, err := ingest.Stream(t.Context(), bytes.NewReader(data), o)
		if err != nil || !slices.Equal(alone.Index.Chunks, res.Index.Chunks) || alone.Stored != nil {
			t.Errorf("without a store: %v", err)
		}
	}
}

func TestEmptyStream(t *testing.T) {
	res, err := ingest.Stream(t.Context(), bytes.NewReader(nil), ingest.Options{Params: params, Store: new(storetest.Memory)})
	if err != nil || len(res.Index.Chunks) != 0 {
		t.Errorf("%+v, %v", res, err)
	}
}

// Whatever fails ends it all, with that error and no result.
func TestFailures(t *testing.T) {
	boom := errors.New("boom")
	data := sample(8 << 20)
	third := func(n int64) error {
		if n >= 2 {
			return boom
		}
		return nil
	}
	for name, tt := range map[string]struct {
		r    io.Reader
		s    store.Store
		p    chunk.Params
		want error
	}{
		"put":       {bytes.NewReader(data), &storetest.Faulty{Store: new(storetest.Memory), PutFault: third}, params, boom},
		"read":      {io.MultiReader(bytes.NewReader(data), iotest.ErrReader(boom)), new(storetest.Memory), params, boom},
		"sizes":     {nil, new(storetest.Memory), chunk.Params{}, chunk.ErrParams},
		"read-only": {nil, store.Chain(), params, errors.ErrUnsupported},
	} {
		t.Run(name, func(t *testing.T) {
			for _, jobs := range []int{1, 6} {
				if again, ok := tt.r.(*bytes.Reader); ok {
					again.Reset(data)
				}
				res, err := ingest.Stream(t.Context(), tt.r, ingest.Options{Params: tt.p, Store: tt.s, Jobs: jobs})
				if !errors.Is(err, tt.want) || res != nil {
					t.Errorf("%d jobs: %v, %v; want %v", jobs, res, err, tt.want)
				}
			}
		})
	}
	if _, err := ingest.Stream(t.Context(), nil, ingest.Options{Params: params, FeatureFlags: 1 << 50}); !errors.Is(err, caibx.ErrMalformed) {
		t.Errorf("unknown feature flags: %v", err)
	}
}

func TestCancel(t *testing.T) {
	for _, jobs := range []int{1, 6} {
		ctx, cancel := context.WithCancel(t.Context())
		s := &storetest.Faulty{Store: new(storetest.Memory), PutFault: func(n int64) error {
			if n == 5 {
				cancel()
			}
			return nil
		}}
		res, err := ingest.Stream(ctx, endless{}, ingest.Options{Params: params, Store: s, Jobs: jobs})
		if !errors.Is(err, context.Canceled) || res != nil {
			t.Errorf("%d jobs: %v, %v", jobs, res, err)
		}
	}
}

type endless struct{}

func (endless) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	return len(b), nil
}

// Stock casync extracts what was ingested, with a wide range of chunk sizes, and
// writes the same index.
func TestCasync(t *testing.T) {
	casync := testutil.Tool(t, "casync")
	data := sample(3 << 20)
	for _, setting := range []string{"auto", "4K", "64K:64K:64K", "1M"} {
		p, err := chunk.ParseParams(setting)
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		path := func(name string) string { return filepath.Join(dir, name) }
		s, err := local.Open(path("ours.castr"), local.Options{Create: true})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		res, err := ingest.Stream(t.Context(), bytes.NewReader(data), ingest.Options{Params: p, FeatureFlags: blobFlags, Store: s})
		if err != nil {
			t.Fatal(err)
		}
		var idx bytes.Buffer
		_, err = res.Index.WriteTo(&idx)
		if err := errors.Join(err, os.WriteFile(path("ours.caibx"), idx.Bytes(), 0o600), os.WriteFile(path("in"), data, 0o600)); err != nil {
			t.Fatal(err)
		}
		run := func(args ...string) {
			t.Helper()
			if out, err := exec.CommandContext(t.Context(), casync, args...).CombinedOutput(); err != nil {
				t.Fatalf("casync %v: %v\n%s", args, err, out)
			}
		}
		run("extract", "--store="+path("ours.castr"), path("ours.caibx"), path("out"))
		run("make", "--chunk-size="+setting, "--store="+path("theirs.castr"), path("theirs.caibx"), path("in"))
		out, err1 := os.ReadFile(path("out"))
		theirs, err2 := os.ReadFile(path("theirs.caibx"))
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(out, data) {
			t.Errorf("%s: casync extracts something else", setting)
		}
		if !bytes.Equal(theirs, idx.Bytes()) {
			t.Errorf("%s: casync's index differs", setting)
		}
		// And the other way: its chunks are ours.
		theirStore, err := local.Open(path("theirs.castr"), local.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer theirStore.Close()
		if !bytes.Equal(restore(t, theirStore, res.Index), data) {
			t.Errorf("%s: casync's store gives something else", setting)
		}
	}
}

// Chunks larger than a batch, which has to grow; several jobs, so that it is small.
func TestLargeChunks(t *testing.T) {
	data := slices.Concat(sample(4<<20), make([]byte, 12<<20), sample(1<<20))
	for _, setting := range []string{"1M", "3M:3M:3M", "48:9M:10M"} {
		p, err := chunk.ParseParams(setting)
		if err != nil {
			t.Fatal(err)
		}
		mem := new(storetest.Memory)
		res, err := ingest.Stream(t.Context(), iotest.HalfReader(bytes.NewReader(data)), ingest.Options{
			Params: p, FeatureFlags: blobFlags, Store: mem, Jobs: 40,
		})
		if err != nil {
			t.Fatal(err)
		}
		var want []uint64
		c, err := chunk.NewChunker(bytes.NewReader(data), p)
		end := uint64(0)
		for err == nil {
			var b []byte
			if b, err = c.Next(); err == nil {
				end += uint64(len(b))
				want = append(want, end)
			}
		}
		var got []uint64
		for _, c := range res.Index.Chunks {
			got = append(got, c.End)
		}
		if !slices.Equal(got, want) || !bytes.Equal(restore(t, mem, res.Index), data) {
			t.Errorf("%s: cuts %v, want %v", setting, got, want)
		}
	}
}

// What is allocated does not grow with the number of chunks, save for the index.
func TestNoGarbage(t *testing.T) {
	data := sample(32 << 20)
	mem := new(storetest.Memory)
	o := ingest.Options{Params: params, FeatureFlags: blobFlags, Store: mem, Jobs: 1}
	run := func(b []byte) (chunks int, allocs float64) {
		allocs = testing.AllocsPerRun(2, func() {
			res, err := ingest.Stream(t.Context(), bytes.NewReader(b), o)
			if err != nil {
				t.Fatal(err)
			}
			chunks = len(res.Index.Chunks)
		})
		return chunks, allocs
	}
	n1, a1 := run(data[:8<<20])
	n2, a2 := run(data)
	if n2 < n1+500 || a2-a1 > float64(n2-n1)/10 {
		t.Errorf("%v allocations for %d chunks, %v for %d", a1, n1, a2, n2)
	}
}

func BenchmarkStream(b *testing.B) {
	data := sample(64 << 20)
	for name, s := range map[string]store.Store{"index": nil, "full": new(storetest.Memory)} {
		b.Run(name, func(b *testing.B) {
			o := ingest.Options{Params: chunk.DefaultParams(), FeatureFlags: blobFlags, Store: s}
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := ingest.Stream(b.Context(), bytes.NewReader(data), o); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
