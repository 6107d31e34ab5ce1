package inflate_test

import (
	"bufio"
	"bytes"
	"compress/flate"
	"compress/gzip"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"testing/iotest"

	kgzip "github.com/klauspost/compress/gzip"

	"github.com/ociv2-sync/ociv2-sync/internal/inflate"
)

// samples are bytes of several kinds.
func samples() map[string][]byte {
	random := make([]byte, 300<<10)
	rand.NewChaCha8([32]byte{3}).Read(random)
	text := make([]byte, 0, 600<<10)
	words := rand.New(rand.NewPCG(1, 2))
	for len(text) < 600<<10 {
		at := words.IntN(len(random) - 64)
		text = append(text, random[at:at+3+words.IntN(words.IntN(60)+1)]...)
	}
	near := make([]byte, 0, 200<<10) // short distances
	for len(near) < 200<<10 {
		near = append(near, bytes.Repeat(random[words.IntN(1000):][:1+words.IntN(20)], 1+words.IntN(40))...)
	}
	return map[string][]byte{
		"empty": nil, "one": {7}, "zeros": make([]byte, 1<<20), "random": random, "text": text, "near": near,
	}
}

func pack(t testing.TB, level int, members ...[]byte) []byte {
	t.Helper()
	var b bytes.Buffer
	for _, m := range members {
		w, err := gzip.NewWriterLevel(&b, level)
		if err != nil {
			t.Fatal(err)
		}
		w.Name, w.Comment, w.Extra = "name", "comment", []byte("extra")
		if _, err := w.Write(m); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

func TestReader(t *testing.T) {
	var all [][]byte
	for name, data := range samples() {
		for _, level := range []int{flate.HuffmanOnly, flate.NoCompression, 1, 6, 9} {
			packed := pack(t, level, data)
			for what, r := range map[string]io.Reader{"whole": bytes.NewReader(packed), "halves": iotest.HalfReader(bytes.NewReader(packed))} {
				got, err := io.ReadAll(inflate.NewReader(bufio.NewReaderSize(r, 4096)))
				if err != nil || !bytes.Equal(got, data) {
					t.Errorf("%s, level %d, %s: %d bytes of %d: %v", name, level, what, len(got), len(data), err)
				}
			}
		}
		all = append(all, data)
	}
	// Several members, and something behind them that is none.
	r := bufio.NewReader(bytes.NewReader(append(pack(t, 6, all...), "\x00\x00rest"...)))
	got, err := io.ReadAll(inflate.NewReader(r))
	if err != nil || !bytes.Equal(got, slices.Concat(all...)) {
		t.Errorf("members: %d bytes: %v", len(got), err)
	}
	if rest, err := io.ReadAll(r); string(rest) != "\x00\x00rest" || err != nil {
		t.Errorf("left: %q, %v", rest, err)
	}
}

func TestRefused(t *testing.T) {
	packed := pack(t, 6, []byte("some text, some text, some more text"))
	for n := range len(packed) {
		if _, err := io.ReadAll(inflate.NewReader(bufio.NewReader(bytes.NewReader(packed[:n])))); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("cut at %d: %v", n, err)
		}
	}
	for at, want := range map[int]error{0: inflate.ErrFormat, 2: inflate.ErrFormat, len(packed) - 1: inflate.ErrChecksum, len(packed) - 8: inflate.ErrChecksum} {
		bad := slices.Clone(packed)
		bad[at] ^= 0x10
		if _, err := io.ReadAll(inflate.NewReader(bufio.NewReader(bytes.NewReader(bad)))); !errors.Is(err, want) {
			t.Errorf("byte %d: %v, want %v", at, err, want)
		}
	}
	failing := iotest.TimeoutReader(iotest.OneByteReader(bytes.NewReader(packed)))
	if _, err := io.ReadAll(inflate.NewReader(bufio.NewReader(failing))); !errors.Is(err, iotest.ErrTimeout) {
		t.Errorf("a reader that fails: %v", err)
	}
}

// Names and comments may be as long as compress/gzip allows.
func TestLongHeader(t *testing.T) {
	packed := pack(t, 6, []byte("some text"))
	for n, want := range map[int]error{511: nil, 512: inflate.ErrFormat} {
		for _, text := range []string{"name", "comment"} {
			long := bytes.Replace(packed, []byte(text+"\x00"), append(bytes.Repeat([]byte("x"), n), 0), 1)
			_, err := io.ReadAll(inflate.NewReader(bufio.NewReader(bytes.NewReader(long))))
			if !errors.Is(err, want) {
				t.Errorf("a %s of %d bytes: %v, want %v", text, n, err, want)
			}
			if _, theirs := plain(long); (err == nil) != (theirs == nil) {
				t.Errorf("a %s of %d bytes: %v, compress/gzip says %v", text, n, err, theirs)
			}
		}
	}
}

// FuzzReader compares with the standard library: the same bytes, and an error where
// that has one.
func FuzzReader(f *testing.F) {
	for _, data := range samples() {
		for _, level := range []int{flate.HuffmanOnly, 0, 6} {
			f.Add(pack(f, level, data[:min(len(data), 3000)]))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		want, wantErr := plain(b)
		got, err := io.ReadAll(inflate.NewReader(bufio.NewReaderSize(bytes.NewReader(b), 64)))
		if (err == nil) != (wantErr == nil) {
			t.Fatalf("%v, compress/gzip says %v", err, wantErr)
		}
		if err == nil && !bytes.Equal(got, want) {
			t.Fatalf("%d bytes, want %d, or others", len(got), len(want))
		}
	})
}

// TestMutations is a little of the fuzzing for every day.
func TestMutations(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for name, data := range samples() {
		packed := pack(t, 6, data[:min(len(data), 2000)])
		for range 400 {
			bad := slices.Clone(packed)
			for range 1 + r.IntN(3) {
				bad[r.IntN(len(bad))] = byte(r.Uint32())
			}
			want, wantErr := plain(bad)
			got, err := io.ReadAll(inflate.NewReader(bufio.NewReaderSize(bytes.NewReader(bad), 64)))
			if (err == nil) != (wantErr == nil) || err == nil && !bytes.Equal(got, want) {
				t.Fatalf("%s: %d bytes, %v; compress/gzip: %d bytes, %v; of %x", name, len(got), err, len(want), wantErr, bad)
			}
		}
	}
}

// plain is Reader by means of the standard library.
func plain(b []byte) (all []byte, _ error) {
	r := bufio.NewReaderSize(bytes.NewReader(b), 64)
	z, err := gzip.NewReader(r)
	for err == nil {
		z.Multistream(false)
		var data []byte
		if data, err = io.ReadAll(z); err != nil {
			break
		}
		all = append(all, data...)
		if next, _ := r.Peek(1); len(next) == 0 || next[0] != 0x1f {
			return all, nil
		}
		err = z.Reset(r)
	}
	return nil, err
}

// BenchmarkReader compares with the decoders of klauspost/compress and of the
// standard library. The data is this test's own program, if nothing else is named.
func BenchmarkReader(b *testing.B) {
	name, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	data, err := os.ReadFile(name)
	if err != nil {
		b.Fatal(err)
	}
	packed := pack(b, 6, data)
	for _, bb := range []struct {
		name string
		open func(*bufio.Reader) (io.Reader, error)
	}{
		{"ours", func(r *bufio.Reader) (io.Reader, error) { return inflate.NewReader(r), nil }},
		{"klauspost", func(r *bufio.Reader) (io.Reader, error) { return kgzip.NewReader(r) }},
		{"std", func(r *bufio.Reader) (io.Reader, error) { return gzip.NewReader(r) }},
	} {
		b.Run(bb.name, func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			b.ReportAllocs()
			buf := make([]byte, 64<<10)
			for b.Loop() {
				r, err := bb.open(bufio.NewReaderSize(bytes.NewReader(packed), 64<<10))
				for err == nil {
					_, err = r.Read(buf)
				}
				if err != io.EOF {
					b.Fatal(err)
				}
			}
		})
	}
}
