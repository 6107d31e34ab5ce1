package caibx_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/ociv2-sync/ociv2-sync/caibx"
	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/internal/testutil"
)

// golden is where casync's indexes are; gen.sh there made them.
const golden = "../testdata/chunks"

// input returns the input of that length of gen.sh: half noise, a quarter zeros,
// a quarter noise.
func input(length int) []byte {
	block, err := aes.NewCipher(make([]byte, 16))
	if err != nil {
		panic(err)
	}
	noise := make([]byte, length/4*3)
	cipher.NewCTR(block, make([]byte, 16)).XORKeyStream(noise, noise)
	half := noise[:length/2]
	return bytes.Join([][]byte{half, make([]byte, length/4), noise[length/2:]}, nil)
}

// index returns the index of b.
func index(tb testing.TB, b []byte, p chunk.Params, alg chunk.Algorithm) *caibx.Index {
	tb.Helper()
	x := &caibx.Index{Params: p, FeatureFlags: 0x9 << 60} // exclude bits, as casync sets them for blobs
	if alg == chunk.SHA512_256 {
		x.FeatureFlags |= caibx.FlagSHA512_256
	}
	c, err := chunk.NewChunker(bytes.NewReader(b), p)
	if err != nil {
		tb.Fatal(err)
	}
	for {
		piece, err := c.Next()
		if errors.Is(err, io.EOF) {
			return x
		}
		if err != nil {
			tb.Fatal(err)
		}
		x.Chunks = append(x.Chunks, caibx.Chunk{End: x.Size() + uint64(len(piece)), ID: alg.Sum(piece)})
	}
}

// encode returns x as it is written.
func encode(tb testing.TB, x *caibx.Index) []byte {
	tb.Helper()
	var w bytes.Buffer
	if n, err := x.WriteTo(&w); err != nil || n != int64(w.Len()) {
		tb.Fatalf("WriteTo = %d, %v; wrote %d", n, err, w.Len())
	}
	return w.Bytes()
}

// TestCuts compares cut points, chunk IDs and index layout with what casync made
// of the same inputs under many chunk sizes.
func TestCuts(t *testing.T) {
	cuts, err := os.ReadFile(filepath.Join(golden, "cuts.txt"))
	if err != nil {
		t.Fatal(err)
	}
	inputs := make(map[int][]byte)
	for line := range strings.Lines(string(cuts)) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		var length, chunks int
		var setting, digest string
		if _, err := fmt.Sscan(line, &length, &setting, &chunks, &digest); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if testing.Short() && length > 4<<20 {
			continue
		}
		p, err := chunk.ParseParams(setting)
		if err != nil {
			t.Fatal(err)
		}
		if inputs[length] == nil {
			inputs[length] = input(length)
		}
		x := index(t, inputs[length], p, chunk.SHA512_256)
		sum := sha256.Sum256(encode(t, x))
		if got := hex.EncodeToString(sum[:]); got != digest || len(x.Chunks) != chunks {
			t.Errorf("%d bytes, --chunk-size=%s: %d chunks, index %s; want %d, %s", length, setting, len(x.Chunks), got, chunks, digest)
		}
	}
}

func TestSmall(t *testing.T) {
	for name, alg := range map[string]chunk.Algorithm{"small": chunk.SHA512_256, "small-sha256": chunk.SHA256} {
		want, err := os.ReadFile(filepath.Join(golden, name+".caibx"))
		if err != nil {
			t.Fatal(err)
		}
		p, err := chunk.ParseParams("4K")
		if err != nil {
			t.Fatal(err)
		}
		if got := encode(t, index(t, input(60_000), p, alg)); !bytes.Equal(got, want) {
			t.Errorf("%s: our index differs from casync's", name)
		}
		x, err := caibx.Read(bytes.NewReader(want))
		if err != nil {
			t.Fatal(err)
		}
		if x.Algorithm() != alg || x.Params != p || x.Size() != 60_000 || !bytes.Equal(encode(t, x), want) {
			t.Errorf("%s: read as %v with sizes %v over %d bytes", name, x.Algorithm(), x.Params, x.Size())
		}
	}
}

// TestCasync draws inputs and settings and asks the installed casync.
func TestCasync(t *testing.T) {
	casync := testutil.Tool(t, "casync")
	dir := t.TempDir()
	file, idx := filepath.Join(dir, "file"), filepath.Join(dir, "x.caibx")
	for i := range 20 {
		seed := uint64(i)
		r := rand.New(rand.NewPCG(seed, 0))
		avg := 48 + r.Uint64N(1<<(6+seed%12))
		b := make([]byte, r.Uint64N(300*avg))
		for i := range b {
			b[i] = byte(r.Uint32()) & byte(255>>(seed%8)) // ever fewer values
		}
		p := chunk.Params{Min: 1 + r.Uint64N(avg), Avg: avg, Max: avg + r.Uint64N(4*avg)}
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		alg := chunk.Algorithm(i % 2)
		cmd := exec.CommandContext(t.Context(), casync, "make", "--chunk-size="+p.String(), "--digest="+alg.String(),
			"--store="+filepath.Join(dir, "store"+strconv.Itoa(i)), idx, file)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", cmd.Args, err, out)
		}
		want, err := os.ReadFile(idx)
		if err != nil {
			t.Fatal(err)
		}
		if got := encode(t, index(t, b, p, alg)); !bytes.Equal(got, want) {
			t.Errorf("%d bytes with seed %d, --chunk-size=%v: our index differs from casync's", len(b), seed, p)
		}
	}
}
