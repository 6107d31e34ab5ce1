package xz_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"slices"
	"testing"

	"github.com/ociv2-sync/ociv2-sync/internal/testutil"
	"github.com/ociv2-sync/ociv2-sync/internal/xz"
)

func noise(n int) []byte {
	r := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// text returns n bytes that compress as text does: words, some of them anew.
func text(n int) []byte {
	r := rand.New(rand.NewPCG(3, 4))
	var words []string
	var b []byte
	for len(b) < n {
		if len(words) == 0 || r.IntN(20) == 0 {
			words = append(words, fmt.Sprintf("%x ", r.Uint32()>>r.IntN(28)))
		}
		b = append(b, words[r.IntN(len(words))]...)
	}
	return b[:n]
}

// samples are inputs of many kinds and lengths.
func samples() map[string][]byte {
	all := map[string][]byte{}
	for _, n := range []int{1, 2, 3, 4, 5, 100, 4095, 65535, 65536, 65537, 300_000} {
		all[fmt.Sprintf("noise %d", n)] = noise(n)
		all[fmt.Sprintf("zeros %d", n)] = make([]byte, n)
		all[fmt.Sprintf("text %d", n)] = text(n)
	}
	all["zeros over 2 MiB"] = make([]byte, 2<<20+1) // more than one LZMA2 chunk can hold
	all["mixed"] = slices.Concat(noise(100_000), text(100_000), make([]byte, 5000), noise(200_000), text(300_000))
	all["noise twice"] = bytes.Repeat(noise(200_000), 2)
	return all
}

// xz-utils reads what Compress writes, and so does Expand.
func TestCompress(t *testing.T) {
	testutil.Need(t, "xz")
	c := new(xz.Compressor)
	for name, b := range samples() {
		packed := c.Compress(nil, b)
		got, err := xz.Expand(nil, packed, len(b))
		if err != nil || !bytes.Equal(got, b) {
			t.Errorf("%s: Expand: %v", name, err)
		}
		if len(packed) > len(b)+len(b)/1000+100 {
			t.Errorf("%s: packed to %d bytes", name, len(packed))
		}
		cmd := exec.CommandContext(t.Context(), "xz", "-dc", "--single-stream")
		cmd.Stdin = bytes.NewReader(packed)
		if out, err := cmd.Output(); err != nil || !bytes.Equal(out, b) {
			t.Errorf("%s: xz: %v", name, err)
		}
	}
}

// Expand reads what xz-utils writes.
func TestExpand(t *testing.T) {
	testutil.Need(t, "xz")
	args := [][]string{
		{"-0"},
		{"-6"},
		{"-9e"},
		{"--check=none"},
		{"--check=crc32"},
		{"--check=sha256"},
		{"--block-size=50000"},
		{"-T2", "--block-size=70000"},
		{"--lzma2=lc=0,lp=4,pb=0"},
		{"--lzma2=lc=4,lp=0,pb=4,dict=4096"},
		{"--lzma2=lc=1,lp=3,pb=1"},
	}
	for name, b := range samples() {
		if len(b) != 1 && len(b) != 4095 && len(b) != 65537 && name != "mixed" {
			continue
		}
		for _, a := range args {
			cmd := exec.CommandContext(t.Context(), "xz", append([]string{"-zc"}, a...)...)
			cmd.Stdin = bytes.NewReader(b)
			packed, err := cmd.Output()
			if err != nil {
				t.Fatal(err)
			}
			got, err := xz.Expand(nil, packed, len(b))
			if err != nil || !bytes.Equal(got, b) {
				t.Errorf("%s with %v: %v", name, a, err)
			}
		}
	}
}

// Whatever is not one intact stream of the right length is refused.
func TestExpandRefuses(t *testing.T) {
	b := slices.Concat(text(300), noise(100), text(500))
	good := new(xz.Compressor).Compress(nil, b)
	check := func(name string, data []byte, size int) {
		if got, err := xz.Expand(nil, data, size); err == nil || !errors.Is(err, xz.ErrCorrupt) && !errors.Is(err, xz.ErrUnsupported) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
	for i := range good {
		check(fmt.Sprintf("cut at %d", i), good[:i], len(b))
		bad := slices.Clone(good)
		bad[i] ^= 1 << (i % 8)
		check(fmt.Sprintf("byte %d changed", i), bad, len(b))
	}
	check("two streams", slices.Concat(good, good), len(b))
	check("two streams, both expected", slices.Concat(good, good), 2*len(b))
	check("padding", append(slices.Clone(good), 0, 0, 0, 0), len(b))
	for _, size := range []int{0, 1, len(b) - 1, len(b) + 1, 1 << 40} {
		check(fmt.Sprintf("as %d bytes", size), good, size)
	}
	if bcj := filtered(t, b); bcj != nil {
		if _, err := xz.Expand(nil, bcj, len(b)); !errors.Is(err, xz.ErrUnsupported) {
			t.Errorf("another filter: %v", err)
		}
	}
}

func filtered(t *testing.T, b []byte) []byte {
	if _, err := exec.LookPath("xz"); err != nil {
		return nil
	}
	cmd := exec.CommandContext(t.Context(), "xz", "-zc", "--x86", "--lzma2")
	cmd.Stdin = bytes.NewReader(b)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func FuzzExpand(f *testing.F) {
	c := new(xz.Compressor)
	for _, b := range [][]byte{text(300), noise(50), make([]byte, 1000), slices.Concat(noise(300), text(500), noise(300))} {
		f.Add(c.Compress(nil, b), uint32(len(b)))
	}
	f.Fuzz(func(t *testing.T, data []byte, size uint32) {
		got, err := xz.Expand(nil, data, int(size))
		if n, sizeErr := xz.Size(data); err == nil && (sizeErr != nil || n != uint64(size)) {
			t.Errorf("size %d, %v", n, sizeErr)
		}
		if err == nil && len(got) != int(size) || err != nil && got != nil {
			t.Errorf("%d bytes, %v", len(got), err)
		}
	})
}

func FuzzRoundTrip(f *testing.F) {
	f.Add(text(300), 1)
	f.Add(noise(70), 3)
	c := new(xz.Compressor)
	f.Fuzz(func(t *testing.T, b []byte, times int) {
		b = bytes.Repeat(b, times&7+1)
		if len(b) == 0 {
			return
		}
		got, err := xz.Expand(nil, c.Compress(nil, b), len(b))
		if err != nil || !bytes.Equal(got, b) {
			t.Error(err)
		}
	})
}

func BenchmarkCompress(b *testing.B) {
	in := text(64 << 10)
	c := new(xz.Compressor)
	b.SetBytes(int64(len(in)))
	var out []byte
	for b.Loop() {
		out = c.Compress(out, in)
	}
	b.ReportMetric(float64(len(in))/float64(len(out)), "ratio")
}

func BenchmarkExpand(b *testing.B) {
	in := text(64 << 10)
	packed := new(xz.Compressor).Compress(nil, in)
	b.SetBytes(int64(len(in)))
	var out []byte
	for b.Loop() {
		var err error
		if out, err = xz.Expand(out, packed, len(in)); err != nil {
			b.Fatal(err)
		}
	}
}
