package chunk

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"math/bits"
	"slices"
	"testing"
	"testing/iotest"

	"pgregory.net/rapid"
)

// noise returns n pseudo-random bytes.
func noise(seed byte, n int) []byte {
	block, err := aes.NewCipher(bytes.Repeat([]byte{seed}, 16))
	if err != nil {
		panic(err)
	}
	b := make([]byte, n)
	cipher.NewCTR(block, make([]byte, 16)).XORKeyStream(b, b)
	return b
}

// reference cuts b as docs/format/chunks.md, section 2, says, hashing the window
// anew at every byte.
func reference(b []byte, p Params) []int {
	d := discriminator(p)
	var cuts []int
	start := 0
	for i := range b {
		n := uint64(i + 1 - start)
		if p.Min == p.Max {
			if n == p.Max {
				cuts, start = append(cuts, i+1), i+1
			}
			continue
		}
		if n < max(p.Min, 48) {
			continue
		}
		var h uint32
		for k, c := range b[i-47 : i+1] {
			h ^= bits.RotateLeft32(buzhash[c], 47-k)
		}
		if n >= p.Max || uint64(h)%d == d-1 {
			cuts, start = append(cuts, i+1), i+1
		}
	}
	if start < len(b) {
		cuts = append(cuts, len(b))
	}
	return cuts
}

// cut returns the ends of the chunks of r.
func cut(tb testing.TB, r io.Reader, p Params, want []byte) []int {
	tb.Helper()
	c, err := NewChunker(r, p)
	if err != nil {
		tb.Fatal(err)
	}
	var cuts []int
	end := 0
	for {
		b, err := c.Next()
		if errors.Is(err, io.EOF) {
			if end != len(want) {
				tb.Fatalf("the chunks end at %d of %d", end, len(want))
			}
			return cuts
		}
		if err != nil {
			tb.Fatal(err)
		}
		if len(b) == 0 || end+len(b) > len(want) || !bytes.Equal(b, want[end:end+len(b)]) {
			tb.Fatalf("%d wrong bytes at %d", len(b), end)
		}
		end += len(b)
		cuts = append(cuts, end)
	}
}

func TestTable(t *testing.T) {
	var packed []byte
	all := uint32(0)
	for _, v := range buzhash {
		packed = binary.LittleEndian.AppendUint32(packed, v)
		all ^= v
	}
	sum := sha256.Sum256(packed)
	if got := hex.EncodeToString(sum[:]); all != 0 || got != "5b52080d38287da9d2e278466e3e0db7ec98e5e8b226f50612a56fa012b1f660" {
		t.Errorf("the table has digest %s and XOR %#x", got, all)
	}
}

func TestDiscriminator(t *testing.T) {
	for avg, want := range map[uint64]uint64{
		4 << 10: 3075, 16 << 10: 12318, 64 << 10: 49535, 128 << 10: 99777,
		256 << 10: 202440, 1 << 20: 886711, 4 << 20: 5721670,
		9 << 20: 36 << 20, 10 << 20: 40 << 20, 128 << 20: 128 << 20,
	} {
		if got := discriminator(around(avg)); got != want {
			t.Errorf("discriminator for %d is %d, want %d", avg, got, want)
		}
	}
	if got := discriminator(Params{3000, 3000, 9000}); got != 3000 {
		t.Errorf("discriminator for 3000:3000:9000 is %d", got)
	}
}

// The multiplication decides as the division does, also for D that no average
// leads to.
func TestCutTest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := rapid.Uint64Range(1, MaxSize).Draw(t, "d")
		test := cutTest{m: ^uint64(0)/d + 1}
		test.bound = test.m * (d - 1)
		h := rapid.Uint32().Draw(t, "h")
		// Around the multiples of d is where it could go wrong.
		for _, v := range []uint32{h, h / uint32(d) * uint32(d), 1<<32 - 1, 0} {
			for _, v := range []uint32{v - 2, v - 1, v, v + 1} {
				if got, want := test.cuts(v), uint64(v)%d == d-1; got != want {
					t.Fatalf("h %d mod %d: cut %v, want %v", v, d, got, want)
				}
			}
		}
	})
}

var someParams = []Params{
	{1, 16, 64},
	{12, 48, 192},
	{1, 64, 256},
	{48, 48, 49},
	{49, 49, 50},
	{20, 30, 48},
	{64, 64, 256},
	{64, 256, 256},
	{250, 1000, 4000},
	{3000, 3000, 9000},
	{1, 10 << 20, 20 << 20},
	{32, 32, 32},
	{100, 100, 100},
}

func TestChunkerAgainstReference(t *testing.T) {
	data := slices.Concat(noise(1, 20_000), make([]byte, 3000), bytes.Repeat([]byte("period"), 2000), noise(2, 10_000))
	for _, p := range someParams {
		want := reference(data, p)
		for name, r := range map[string]io.Reader{
			"whole":         bytes.NewReader(data),
			"halves":        iotest.HalfReader(bytes.NewReader(data)),
			"bytes":         iotest.OneByteReader(bytes.NewReader(data)),
			"data with EOF": iotest.DataErrReader(bytes.NewReader(data)),
		} {
			if got := cut(t, r, p, data); !slices.Equal(got, want) {
				t.Errorf("%v, %s: %d cuts, want %d", p, name, len(got), len(want))
			}
		}
	}
}

func FuzzChunker(f *testing.F) {
	for i, p := range someParams {
		f.Add(noise(byte(i), 5000), p.Min, p.Avg, p.Max)
	}
	f.Fuzz(func(t *testing.T, b []byte, mn, avg, mx uint64) {
		p := Params{Min: mn, Avg: avg, Max: mx}
		if p.cuttable() != nil {
			t.Skip()
		}
		if got, want := cut(t, bytes.NewReader(b), p, b), reference(b, p); !slices.Equal(got, want) {
			t.Errorf("%v: cuts %v, want %v", p, got, want)
		}
	})
}

// Chunks beyond the read-ahead, and the buffer that holds them.
func TestChunkerLarge(t *testing.T) {
	data := noise(3, 9<<20)
	p := Params{Min: 3 << 20, Avg: 3 << 20, Max: 3 << 20}
	if got := cut(t, bytes.NewReader(data), p, data); !slices.Equal(got, []int{3 << 20, 6 << 20, 9 << 20}) {
		t.Errorf("cuts %v", got)
	}
	c, err := NewChunker(bytes.NewReader(data), Params{1 << 20, 2 << 20, 4 << 20})
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := c.Next(); err != nil {
			break
		}
	}
	if len(c.buf) > 4<<20+readSize {
		t.Errorf("the buffer has %d bytes", len(c.buf))
	}
}

func TestChunkerErrors(t *testing.T) {
	boom := errors.New("boom")
	c, err := NewChunker(io.MultiReader(bytes.NewReader(noise(4, 1000)), iotest.ErrReader(boom)), Params{100, 100, 100})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 12 {
		_, err := c.Next()
		if want := i >= 10; errors.Is(err, boom) != want {
			t.Errorf("chunk %d: %v", i, err)
		}
	}
	// An error that wraps io.EOF is not the end of the stream.
	c, err = NewChunker(iotest.ErrReader(&wrapped{io.EOF}), DefaultParams())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Next(); err == nil || err == io.EOF { //nolint:errorlint // the bare value is what must not come
		t.Errorf("error %v", err)
	}
	c, err = NewChunker(stuck{}, DefaultParams())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Next(); !errors.Is(err, io.ErrNoProgress) {
		t.Errorf("error %v, want io.ErrNoProgress", err)
	}
	for _, p := range []Params{{}, {0, 1, 1}, {2, 1, 3}, {1, 3, 2}, {1, 1, MaxSize + 1}, {1, 16, 47}} {
		if _, err := NewChunker(nil, p); !errors.Is(err, ErrParams) {
			t.Errorf("%v: error %v, want ErrParams", p, err)
		}
	}
}

type wrapped struct{ error }

func (w *wrapped) Unwrap() error { return w.error }

type stuck struct{}

func (stuck) Read([]byte) (int, error) { return 0, nil }

func BenchmarkChunker(b *testing.B) {
	data := noise(5, 64<<20)
	for name, p := range map[string]Params{"64K": DefaultParams(), "1M": around(1 << 20)} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			for b.Loop() {
				c, err := NewChunker(bytes.NewReader(data), p)
				if err != nil {
					b.Fatal(err)
				}
				for err == nil {
					_, err = c.Next()
				}
			}
		})
	}
}
