package archive

import (
	"bytes"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/folbricht/desync"

	"github.com/ociv2-sync/ociv2-sync/catar"
	"github.com/ociv2-sync/ociv2-sync/chunk"
)

// silent is a progress bar that nobody sees.
type silent struct{ io.Writer }

func (silent) SetTotal(int)     {}
func (silent) Start()           {}
func (silent) Finish()          {}
func (silent) Increment() int   { return 0 }
func (silent) Add(int) int      { return 0 }
func (silent) Set(int)          {}
func quiet() desync.ProgressBar { return silent{io.Discard} }

// blob writes a file that makes chunks of all sizes and returns its bytes.
func blob(t *testing.T, path string) []byte {
	t.Helper()
	r := rand.New(rand.NewPCG(3, 4))
	b := make([]byte, 3<<20)
	for i := range b[:2<<20] {
		b[i] = byte(r.Uint32())
	}
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
	return b
}

// desync assembles a blob from our index and our store.
func TestDesyncReadsOurs(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	want := blob(t, at("blob"))
	_, err := Make(t.Context(), at("blob"), at("blob.caibx"), nil, MakeOptions{
		Kind: BlobIndex, Flags: catar.SHA512_256, Params: chunk.DefaultParams(), Store: at("default.castr"),
	})
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(at("blob.caibx"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	x, err := desync.IndexFromReader(f)
	if err != nil {
		t.Fatal(err)
	}
	s, err := desync.NewLocalStore(at("default.castr"), desync.StoreOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := desync.AssembleFile(t.Context(), at("out"), x, s, nil, desync.AssembleOptions{N: 2}); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(at("out")); err != nil || !bytes.Equal(got, want) {
		t.Errorf("desync made %d bytes of %d, %v", len(got), len(want), err)
	}
}

// We extract a blob from the index and the store that desync made, and make
// the same index of it.
func TestWeReadDesyncs(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	want := blob(t, at("blob"))
	p := chunk.DefaultParams()
	x, _, err := desync.IndexFromFile(t.Context(), at("blob"), 2, p.Min, p.Avg, p.Max, quiet())
	if err != nil {
		t.Fatal(err)
	}
	var index bytes.Buffer
	if _, err := x.WriteTo(&index); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(at("blob.caibx"), index.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(at("default.castr"), 0o755); err != nil {
		t.Fatal(err)
	}
	s, err := desync.NewLocalStore(at("default.castr"), desync.StoreOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := desync.ChopFile(t.Context(), at("blob"), x.Chunks, s, 2, quiet()); err != nil {
		t.Fatal(err)
	}
	in, err := Open(t.Context(), at("blob.caibx"), OpenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if _, err := ExtractBlob(t.Context(), in, at("out"), BlobOptions{}); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(at("out")); err != nil || !bytes.Equal(got, want) {
		t.Errorf("we made %d bytes of %d, %v", len(got), len(want), err)
	}
	_, err = Make(t.Context(), at("blob"), at("ours.caibx"), nil, MakeOptions{
		Kind: BlobIndex, Flags: catar.Flags(x.Index.FeatureFlags), Params: p, Store: at("ours.castr"),
	})
	if err != nil {
		t.Fatal(err)
	}
	if ours, err := os.ReadFile(at("ours.caibx")); err != nil || !bytes.Equal(ours, index.Bytes()) {
		t.Errorf("our index of %d bytes is not that of desync, %d bytes, %v", len(ours), index.Len(), err)
	}
}
