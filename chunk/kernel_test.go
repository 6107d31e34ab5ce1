package chunk

import (
	"bytes"
	"math/bits"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// cutsOf returns the ends of the chunks of b, which arrives in pieces, under one
// kernel.
func cutsOf(k kernel, b []byte, p Params, piece int) []int {
	c := Cutter{p: p, test: newCutTest(p), vector: newVectorTest(discriminator(p)), kernel: k}
	c.zeros = c.zeroSize()
	var cuts []int
	start, end := 0, 0
	for end < len(b) {
		end = min(len(b), end+piece)
		for {
			n, ok := c.Next(b[start:end:end])
			if !ok {
				break
			}
			start += n
			cuts = append(cuts, start)
		}
	}
	if start < len(b) {
		cuts = append(cuts, len(b))
	}
	return cuts
}

// all are the kernels of this machine and plain Go.
func all() []kernel { return append(kernels(), kernel{name: "plain"}) }

func TestKernels(t *testing.T) {
	data := slices.Concat(noise(1, 100_000), make([]byte, 30_000), bytes.Repeat([]byte("period"), 5000), noise(2, 100_001))
	for _, p := range append(someParams, Params{256, 1024, 4096}, Params{1024, 4096, 16384}, Params{1, 6000, 60_000}, Params{65, 5000, 1 << 20}) {
		want := reference(data, p)
		for _, k := range all() {
			for _, piece := range []int{len(data), 1 << 16, 1000, 64} {
				if got := cutsOf(k, data, p, piece); !slices.Equal(got, want) {
					t.Errorf("%s, %v by %d: %d cuts, want %d", k.name, p, piece, len(got), len(want))
				}
			}
		}
	}
}

func FuzzKernels(f *testing.F) {
	for i, p := range someParams {
		f.Add(noise(byte(i), 5000), p.Min, p.Avg, p.Max, uint16(5000))
	}
	f.Fuzz(func(t *testing.T, b []byte, mn, avg, mx uint64, piece uint16) {
		p := Params{Min: mn, Avg: avg, Max: mx}
		if p.cuttable() != nil {
			t.Skip()
		}
		want := reference(b, p)
		for _, k := range all() {
			if got := cutsOf(k, b, p, int(piece)+1); !slices.Equal(got, want) {
				t.Errorf("%s, %v: cuts %v, want %v", k.name, p, got, want)
			}
		}
	})
}

// drawParams draws any sizes.
func drawParams(t *rapid.T) Params {
	p := Params{Min: rapid.Uint64Range(1, 3000).Draw(t, "min")}
	p.Avg = p.Min + rapid.Uint64Range(0, 10_000).Draw(t, "more")
	p.Max = max(p.Avg, window) + rapid.Uint64Range(0, 50_000).Draw(t, "most")
	return p
}

// drawPart draws some of the given bytes, or repetitions of a few of them.
func drawPart(t *rapid.T, random []byte) []byte {
	part := random[rapid.IntRange(0, len(random)-1).Draw(t, "at"):]
	if period := rapid.IntRange(0, 200).Draw(t, "period"); period > 0 {
		part = bytes.Repeat(part[:min(period, len(part))], 3000/period+1)
	}
	return part[:rapid.IntRange(0, len(part)).Draw(t, "length")]
}

// Any sizes, and data that is noise, zeros and repetitions.
func TestKernelsProperty(t *testing.T) {
	random := noise(9, 1<<16)
	rapid.Check(t, func(t *rapid.T) {
		p := drawParams(t)
		var b []byte
		for range rapid.IntRange(1, 6).Draw(t, "parts") {
			b = append(b, drawPart(t, random)...)
		}
		piece := rapid.IntRange(1, len(b)+1).Draw(t, "piece")
		want := reference(b, p)
		for _, k := range kernels() {
			if got := cutsOf(k, b, p, piece); !slices.Equal(got, want) {
				t.Fatalf("%s, %v: cuts %v, want %v", k.name, p, got, want)
			}
		}
	})
}

// passes reports whether h passes the test, as the kernels have it.
func (v *vectorTest) passes(h uint32) bool {
	return bits.RotateLeft32(^h*v[0], -int(v[1])) <= v[2]
}

// The test in 32 bits decides as the division does, but for the one value that
// its comment names.
func TestVectorTest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := rapid.Uint64Range(1, MaxSize).Draw(t, "d")
		v := newVectorTest(d)
		h := rapid.Uint32().Draw(t, "h")
		for _, h := range []uint32{h, h / uint32(d) * uint32(d), 1<<32 - 1, 0} {
			for _, h := range []uint32{h - 2, h - 1, h, h + 1} {
				if got, want := v.passes(h), uint64(h)%d == d-1 || h == 1<<32-1; got != want {
					t.Fatalf("h %d mod %d: passes %v, want %v", h, d, got, want)
				}
			}
		}
	})
}

func BenchmarkKernels(b *testing.B) {
	data := noise(5, 16<<20)
	for _, k := range all() {
		for name, p := range map[string]Params{"64K": DefaultParams(), "4K": around(4 << 10), "1M": around(1 << 20)} {
			b.Run(k.name+"/"+name, func(b *testing.B) {
				b.SetBytes(int64(len(data)))
				b.ReportAllocs()
				for b.Loop() {
					c, err := NewCutter(p)
					if err != nil {
						b.Fatal(err)
					}
					c.kernel = k
					for rest, n, ok := data, 0, true; ok; rest = rest[n:] {
						n, ok = c.Next(rest)
						n = min(n, len(rest))
					}
				}
			})
		}
	}
}
