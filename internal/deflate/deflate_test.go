package deflate

import (
	"bytes"
	"compress/flate"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"github.com/ociv2-sync/ociv2-sync/internal/testutil"
)

// compress compresses in at once.
func compress(in []byte, e Encoder) []byte {
	var out bytes.Buffer
	var z Writer
	z.Reset(&out, e)
	_, _ = z.Write(in)
	_ = z.Close() // out takes everything
	return out.Bytes()
}

// samples are inputs that lead into every corner: window and block ends, stored,
// fixed and own codes, codes that are too long, runs, matches at all distances.
func samples(t testing.TB) map[string][]byte {
	r := rand.New(rand.NewPCG(7, 7))
	text := func(n, words int) []byte {
		var list []string
		for range words {
			w := make([]byte, 2+r.IntN(9))
			for i := range w {
				w[i] = byte('a' + r.IntN(26))
			}
			list = append(list, string(w))
		}
		var b []byte
		for len(b) < n {
			b = append(b, list[min(r.IntN(words), r.IntN(words))]...)
			b = append(b, " \n"[r.IntN(12)/11])
		}
		return b[:n]
	}
	noise := make([]byte, 200_000)
	for i := range noise {
		noise[i] = byte(r.Uint32())
	}
	skewed := make([]byte, 150_000) // Fibonacci-like frequencies: long codes
	for i := range skewed {
		k := 0
		for r.IntN(5) < 2 && k < 40 {
			k++
		}
		skewed[i] = byte(k)
	}
	s := map[string][]byte{
		"empty": nil, "one": {'x'}, "two": []byte("xy"), "three": []byte("aaa"), "short": []byte("hello hello hello"),
		"zeros": make([]byte, 300_000), "noise": noise, "skewed": skewed, "mixed": append(text(70_000, 500), append(noise[:70_000:70_000], text(70_000, 500)...)...),
		"few words": text(250_000, 12), "many words": text(500_000, 20_000),
		"binary": readSelf(t),
	}
	for _, n := range []int{257, 258, 259, 4096, 32505, 32506, 32507, 32768, 65273, 65274, 65275, 65535, 65536, 65537, 98304, 98042, 98043} {
		s["text of "+strconv.Itoa(n)] = text(n, 300)
	}
	return s
}

func readSelf(t testing.TB) []byte {
	t.Helper()
	b, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	return b[len(b)/3 : len(b)/3+300_000]
}

// files writes the samples into a directory, and returns their paths by name.
func files(t *testing.T, all map[string][]byte) map[string]string {
	t.Helper()
	dir, paths := t.TempDir(), map[string]string{}
	for name, b := range all {
		paths[name] = filepath.Join(dir, name)
		if err := os.WriteFile(paths[name], b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return paths
}

// TestGNU compares with gzip(1), byte by byte. It reads files otherwise than
// pipes, and looks at what the file before has left in its window: so each file
// has a process of its own.
func TestGNU(t *testing.T) {
	testutil.Need(t, "gzip")
	t.Parallel()
	all := samples(t)
	for name, path := range files(t, all) {
		for level := Encoder(1); level <= 9; level++ {
			out, err := exec.CommandContext(t.Context(), "gzip", "-nc", "-"+strconv.Itoa(int(level)), path).Output()
			if err != nil {
				t.Fatal(err)
			}
			compare(t, name, gnu+level, all[name], out[fixedHeader:len(out)-trailer])
		}
	}
}

// TestZlib compares with the zlib of Python.
func TestZlib(t *testing.T) {
	testutil.Need(t, "python3")
	t.Parallel()
	const program = `
import sys, zlib
for path in sys.argv[1:]:
	b = open(path, "rb").read()
	for memory in 8, 9:
		for level in range(1, 10):
			c = zlib.compressobj(level, zlib.DEFLATED, -15, memory)
			open(path + ".%d.%d" % (memory, level), "wb").write(c.compress(b) + c.flush())
`
	all := samples(t)
	paths := files(t, all)
	args := slices.AppendSeq([]string{"-c", program}, maps.Values(paths))
	if out, err := exec.CommandContext(t.Context(), "python3", args...).CombinedOutput(); err != nil {
		t.Fatalf("%v, %s", err, out)
	}
	for name, in := range all {
		for _, family := range []Encoder{zlib, zlibLarge} {
			for level := Encoder(1); level <= 9; level++ {
				want, err := os.ReadFile(fmt.Sprintf("%s.%d.%d", paths[name], 8+(family-zlib)>>4, level))
				if err != nil {
					t.Fatal(err)
				}
				compare(t, name, family+level, in, want)
			}
		}
	}
}

// TestPerl compares with the zlib of Perl.
func TestPerl(t *testing.T) {
	testutil.Need(t, "perl")
	in := samples(t)["few words"]
	for _, level := range []Encoder{1, 9} {
		cmd := exec.CommandContext(t.Context(), "perl", "-MIO::Compress::RawDeflate=rawdeflate,$RawDeflateError", "-e",
			`binmode STDIN; binmode STDOUT; local $/; my $b = <STDIN>; rawdeflate(\$b => \my $z, -Level => $ARGV[0]) or die; print $z`, strconv.Itoa(int(level)))
		cmd.Stdin = bytes.NewReader(in)
		out, err := cmd.Output()
		if err != nil {
			t.Skip("this Perl has no IO::Compress")
		}
		compare(t, "few words", zlibLarge+level, in, out) // its default memLevel is 9
	}
}

func compare(t *testing.T, name string, e Encoder, in, want []byte) {
	t.Helper()
	got := compress(in, e)
	if bytes.Equal(got, want) {
		return
	}
	at := 0
	for at < min(len(got), len(want)) && got[at] == want[at] {
		at++
	}
	t.Errorf("%s, encoder %#x: %d bytes, want %d; they differ from byte %d on", name, uint8(e), len(got), len(want), at)
}

// TestTree counts how many of the gzip and zip files below a directory have an
// encoder.
func TestTree(t *testing.T) {
	dir := os.Getenv("OCIV2_SYNC_GZIP_TREE")
	if dir == "" {
		t.Skip("OCIV2_SYNC_GZIP_TREE names no directory")
	}
	found := map[string]map[Encoder]int{"gzip": {}, "zip": {}} // by kind; 0 is none
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		kind, e, made := "gzip", Encoder(0), b
		if bytes.HasPrefix(b, []byte("\x1f\x8b\x08")) {
			if m, ok := Open(b); ok {
				e, made = m.Encoder, gzipFile(t, m)
			}
		} else if list := streamsOf(bytes.NewReader(b), int64(len(b))); len(list) > 0 {
			kind = "zip"
			if form, by, ok := OpenZip(b); ok {
				e, made = by, again(t, form, by, 1000)
			}
		} else {
			return nil
		}
		if found[kind][e]++; e == 0 {
			t.Logf("no encoder: %s", path)
		}
		if !bytes.Equal(made, b) {
			t.Errorf("%s is not made again", path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("files by encoder: %v", found)
}

// gzipFile makes a gzip file again.
func gzipFile(t testing.TB, m *Member) []byte {
	t.Helper()
	var b bytes.Buffer
	var f FileWriter
	if err := f.Reset(&b, m.Header, m.Encoder); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(m.Data); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// What is written does not depend on the pieces in which it comes, nor on what a
// Writer made before.
func TestPieces(t *testing.T) {
	t.Parallel()
	var z Writer
	all := samples(t)
	for at, name := range slices.Sorted(maps.Keys(all)) {
		b := all[name]
		for i, e := range encoders() {
			if i%8 != at%8 {
				continue
			}
			var out bytes.Buffer
			z.Reset(&out, e)
			for rest := b; len(rest) > 0; {
				n := min(len(rest), 1+(len(rest)*7919+i)%100_000)
				if _, err := z.Write(rest[:n]); err != nil {
					t.Fatal(err)
				}
				rest = rest[n:]
			}
			if err := z.Close(); err != nil {
				t.Fatal(err)
			}
			compare(t, name, e, b, out.Bytes())
		}
	}
}

func TestValid(t *testing.T) {
	count := 0
	for e := range 256 {
		if Encoder(e).Valid() {
			count++
		}
	}
	list := encoders()
	if slices.Sort(list); len(slices.Compact(list)) != count || slices.ContainsFunc(list, func(e Encoder) bool { return !e.Valid() }) {
		t.Errorf("%d encoders are tried, %d are valid", len(list), count)
	}
	for _, e := range []Encoder{0, 1, gnu, gnu + 10, zlib, zlibLarge, zlibLarge + 10, golang, golang + 10, 0x51} {
		if e.Valid() {
			t.Errorf("%#x is valid", uint8(e))
		}
	}
}

func FuzzRoundTrip(f *testing.F) {
	for i := range encoders() {
		f.Add([]byte("hello hello hello, yellow fellow"), uint8(i))
	}
	f.Fuzz(func(t *testing.T, b []byte, which uint8) {
		list := encoders()
		z := compress(b, list[int(which)%len(list)])
		got, err := io.ReadAll(flate.NewReader(bytes.NewReader(z)))
		if err != nil || !bytes.Equal(got, b) {
			t.Fatalf("%d bytes come back as %d, %v", len(b), len(got), err)
		}
	})
}

func BenchmarkGNU9(b *testing.B) {
	in := samples(b)["many words"]
	b.SetBytes(int64(len(in)))
	for b.Loop() {
		compress(in, gnu+9)
	}
}
