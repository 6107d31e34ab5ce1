package chunk

import (
	"bytes"
	"slices"
	"testing"
)

// One more than the hash of zeros is 3943 * 673487, so that these discriminators,
// and 1, have it as a cut; others cut zeros where they must.
func TestZeros(t *testing.T) {
	data := slices.Concat(noise(3, 5000), make([]byte, 60_000), noise(4, 3000), make([]byte, 20_000))
	for _, tt := range []struct {
		p     Params
		early bool
	}{
		{Params{Min: 40, Avg: 5251, Max: 8000}, true},
		{Params{Min: 100, Avg: 5251, Max: 20_000}, true},
		{Params{Min: 1, Avg: 1, Max: 100}, true},
		{Params{Min: 100, Avg: 5250, Max: 8000}, false},
		{Params{Min: 16, Avg: 64, Max: 256}, false},
		{Params{Min: 777, Avg: 777, Max: 777}, false},
	} {
		c, err := NewCutter(tt.p)
		if err != nil {
			t.Fatal(err)
		}
		want := reference(make([]byte, 50_000), tt.p)
		if c.ZeroSize() != want[0] || c.ZeroSize() != want[1]-want[0] || c.ZeroSize() < int(tt.p.Max) != tt.early {
			t.Errorf("%v: %d, want %d", tt.p, c.ZeroSize(), want[:2])
		}
		for _, k := range all() {
			if got := cutsOf(k, data, tt.p, 9000); !slices.Equal(got, reference(data, tt.p)) {
				t.Errorf("%s, %v: other cuts", k.name, tt.p)
			}
		}
	}
	for n := range 100 {
		b := make([]byte, n)
		if !IsZero(b) {
			t.Errorf("%d zeros", n)
		}
		for i := range b {
			b[i] = 1
			if IsZero(b) {
				t.Errorf("%d zeros but for byte %d", n, i)
			}
			b[i] = 0
		}
	}
}

func BenchmarkZeros(b *testing.B) {
	data := bytes.Repeat([]byte{0}, 16<<20)
	b.SetBytes(int64(len(data)))
	c, err := NewCutter(DefaultParams())
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		for rest, n, ok := data, 0, true; ok; rest = rest[n:] {
			n, ok = c.Next(rest)
			n = min(n, len(rest))
		}
		c.Reset()
	}
}
