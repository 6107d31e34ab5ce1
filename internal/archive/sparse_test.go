package archive

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/ociv2-sync/ociv2-sync/catar"
	"github.com/ociv2-sync/ociv2-sync/chunk"
)

// A file with holes makes what its dense copy makes, and terabytes of holes take
// no time worth naming.
func TestMakeSparse(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "sparse")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	for i, off := range []int64{0, 3 << 20, 3<<20 + 5000, 9 << 20} {
		if _, err := f.WriteAt(bytes.Repeat([]byte{byte(i + 1), 7, 9}, 40_000), off); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Truncate(20 << 20); err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	dense := filepath.Join(dir, "dense")
	if err := os.WriteFile(dense, data, 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(source string, opts MakeOptions) (*Made, []byte) {
		t.Helper()
		opts.Kind, opts.Flags, opts.Params = BlobIndex, BlobFlags(catar.SHA512_256, false), chunk.DefaultParams()
		opts.Store = filepath.Join(dir, "store")
		out := filepath.Join(dir, "out.caibx")
		made, err := Make(t.Context(), source, out, nil, opts)
		if err != nil {
			t.Fatal(err)
		}
		index, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		return made, index
	}
	want, wantIndex := run(dense, MakeOptions{})
	got, gotIndex := run(name, MakeOptions{})
	if got.Digest != want.Digest || got.Digest != chunk.SHA512_256.Sum(data) || !bytes.Equal(gotIndex, wantIndex) {
		t.Error("the sparse file gives something else")
	}
	got, gotIndex = run(name, MakeOptions{NoDigest: true})
	if got.Digest != (chunk.ID{}) || !bytes.Equal(gotIndex, wantIndex) {
		t.Error("without the digest there is another result")
	}
	if err := f.Truncate(1 << 36); err != nil {
		t.Skip(err) // this filesystem has no such files
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if made, _ := run(name, MakeOptions{NoDigest: true}); made.Size != 1<<36 {
		t.Errorf("%d bytes", made.Size)
	}
}
