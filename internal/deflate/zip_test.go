package deflate

import (
	"archive/zip"
	"bytes"
	"compress/flate"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	kpflate "github.com/klauspost/compress/flate"

	"github.com/ociv2-sync/ociv2-sync/internal/testutil"
)

// TestGo compares with the standard library, as programs use it: in pieces of 32
// KiB, and at once. It says at which levels this Go is the one that deltas know.
func TestGo(t *testing.T) {
	t.Parallel()
	if exact := goExact(); slices.Contains(exact[1:], false) {
		t.Skipf("this Go compresses otherwise: %v", exact)
	}
	all := samples(t)
	for at, name := range slices.Sorted(maps.Keys(all)) {
		in := all[name]
		if at%2 == 0 { // all of them take long
			in = in[:min(len(in), 40_000)]
		}
		for level := 1; level <= 9; level++ {
			if level != 6 && level != at%9+1 {
				continue
			}
			var want bytes.Buffer
			w, err := flate.NewWriter(&want, level)
			if err != nil {
				t.Fatal(err)
			}
			if level != 6 {
				_, err = w.Write(in)
			} else {
				_, err = io.CopyBuffer(w, struct{ io.Reader }{bytes.NewReader(in)}, make([]byte, 32<<10))
			}
			if err != nil || w.Close() != nil {
				t.Fatal(err)
			}
			compare(t, name, golang+Encoder(level), in, want.Bytes())
		}
	}
}

// An encoder of a Go that writes otherwise is not valid.
func TestOtherGo(t *testing.T) {
	in := goSample()
	in[len(in)/2] ^= 1
	for level := 1; level < len(goSums); level++ {
		if goSum(in, level) == goSums[level] {
			t.Errorf("level %d: another input has the same sum", level)
		}
	}
}

// goZip is a zip file by Go, with the lengths behind the data, as Java has them.
func goZip(t testing.TB, members map[string][]byte, method uint16, level int) []byte {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	z.RegisterCompressor(zip.Deflate, func(w io.Writer) (io.WriteCloser, error) { return flate.NewWriter(w, level) })
	for _, name := range slices.Sorted(maps.Keys(members)) {
		w, err := z.CreateHeader(&zip.FileHeader{Name: name, Method: method})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(members[name]); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// again makes the file of an inflated form, which it gets in pieces.
func again(t testing.TB, form []byte, e Encoder, piece int) []byte {
	t.Helper()
	var out bytes.Buffer
	var w ZipWriter
	w.Reset(&out, e)
	for p := range slices.Chunk(form, piece) {
		if _, err := w.Write(p); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// Zip files of Python's zlib come out of their inflated form bit for bit.
func TestZip(t *testing.T) {
	testutil.Need(t, "python3")
	t.Parallel()
	const program = `
import sys, zipfile
with zipfile.ZipFile(sys.argv[1], "w") as z:
	for i, path in enumerate(sys.argv[2:]):
		kind = zipfile.ZIP_STORED if i % 5 == 4 else zipfile.ZIP_DEFLATED
		z.write(path, "member%d" % i, kind, compresslevel=6)
`
	all := samples(t)
	for name, b := range all { // all of them take long
		all[name] = b[:min(len(b), 30_000+len(name))]
	}
	path := filepath.Join(t.TempDir(), "zip")
	paths := files(t, all)
	args := []string{"-c", program, path}
	for _, name := range slices.Sorted(maps.Keys(paths)) {
		args = append(args, paths[name])
	}
	if out, err := exec.CommandContext(t.Context(), "python3", args...).CombinedOutput(); err != nil {
		t.Fatalf("%v, %s", err, out)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	form, e, ok := OpenZip(b)
	if !ok || e&0xf != 6 {
		t.Fatalf("encoder %#x, %v", uint8(e), ok)
	}
	if len(form) < 500_000 {
		t.Errorf("the form has %d bytes", len(form))
	}
	for _, piece := range []int{7, len(form)} {
		if !bytes.Equal(again(t, form, e, piece), b) {
			t.Errorf("in pieces of %d the file is another", piece)
		}
	}
	// A base is shown the same way, whoever made it.
	if base, ok := Inflate(bytes.NewReader(b), int64(len(b)), MaxData); !ok || !bytes.Equal(base, form) {
		t.Error("as a base it has another form")
	}
}

// Members that the encoder does not make stay as they are.
func TestZipOfTwoEncoders(t *testing.T) {
	all := samples(t)
	members := map[string][]byte{"a": all["few words"][:60_000], "b": all["text of 32768"], "c": nil}
	b := goZip(t, members, zip.Deflate, 5)
	form, e, ok := OpenZip(b)
	if !ok || goExact()[5] && e != golang+5 {
		t.Fatalf("encoder %#x, %v", uint8(e), ok)
	}
	if !bytes.Contains(form, members["a"]) || !bytes.Contains(form, members["b"]) || !bytes.Equal(again(t, form, e, 1000), b) {
		t.Error("not made again")
	}
	// The larger one by Go, the other by a program that is not known.
	var other bytes.Buffer
	w, err := kpflate.NewWriter(&other, 5)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(members["b"]); err != nil || w.Close() != nil {
		t.Fatal(err)
	}
	var mixed bytes.Buffer
	z := zip.NewWriter(&mixed)
	z.RegisterCompressor(zip.Deflate, func(w io.Writer) (io.WriteCloser, error) { return flate.NewWriter(w, 5) })
	if w, err := z.Create("a"); err != nil {
		t.Fatal(err)
	} else if _, err := w.Write(members["a"]); err != nil {
		t.Fatal(err)
	}
	if w, err := z.CreateRaw(&zip.FileHeader{Name: "b", Method: zip.Deflate, CompressedSize64: uint64(other.Len()), UncompressedSize64: uint64(len(members["b"]))}); err != nil {
		t.Fatal(err)
	} else if _, err := w.Write(other.Bytes()); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	form, e, ok = OpenZip(mixed.Bytes())
	if !ok || !bytes.Contains(form, members["a"]) || bytes.Contains(form, members["b"]) || !bytes.Equal(again(t, form, e, 1000), mixed.Bytes()) {
		t.Error("with a member by another program it is not made again")
	}
}

// What is no zip file with deflate streams, or says what is not so, has no form.
func TestNoForm(t *testing.T) {
	text := bytes.Repeat([]byte("all work and no play "), 1000)
	good := goZip(t, map[string][]byte{"a": text, "b": text}, zip.Deflate, 6)
	directory := bytes.Index(good, []byte("PK\x01\x02"))
	change := func(at int, v uint32) []byte {
		b := bytes.Clone(good)
		binary.LittleEndian.PutUint32(b[directory+at:], v)
		return b
	}
	for what, b := range map[string][]byte{
		"nothing":               nil,
		"text":                  text,
		"stored only":           goZip(t, map[string][]byte{"a": text}, zip.Store, 0),
		"cut":                   good[:len(good)-30],
		"more packed bytes":     change(20, 1<<30),
		"one packed byte less":  change(20, binary.LittleEndian.Uint32(good[directory+20:])-1),
		"one packed byte more":  change(20, binary.LittleEndian.Uint32(good[directory+20:])+1),
		"more data":             change(24, uint32(len(text))+1),
		"less data":             change(24, uint32(len(text))-1),
		"much more data":        change(24, 1<<31),
		"overlapping members":   change(42+46+1, 0), // where b begins: at a
		"beyond the end":        change(42, 1<<30),
		"larger than the limit": goZip(t, map[string][]byte{"zeros": make([]byte, 2<<20)}, zip.Deflate, 1),
	} {
		if form, ok := Inflate(bytes.NewReader(b), int64(len(b)), 1<<20); ok {
			t.Errorf("%s: a form of %d bytes", what, len(form))
		}
		if form, e, ok := OpenZip(b); ok && !bytes.Equal(again(t, form, e, 100), b) {
			t.Errorf("%s: it is not made again", what)
		}
	}
	for _, form := range [][]byte{
		nil,
		{1},
		{1, 1},
		{1, 1, 1},
		{1, 1, 1, 'x'},
		{1, 0, 2, 'x'},
		bytes.Repeat([]byte{0xff}, 100), binary.AppendUvarint(nil, maxMembers+1),
	} {
		var w ZipWriter
		w.Reset(io.Discard, zlib+6)
		if _, err := w.Write(form); err == nil && w.Close() == nil {
			t.Errorf("%x is taken for a form", form)
		}
	}
}

func FuzzZip(f *testing.F) {
	for i := range 3 {
		b := goZip(f, map[string][]byte{"a": []byte("hello hello hello"), "b": fmt.Appendf(nil, "%0*d", 300, i)}, zip.Deflate, 4+i)
		form, _ := Inflate(bytes.NewReader(b), int64(len(b)), 1<<16)
		f.Add(b, form)
	}
	f.Fuzz(func(t *testing.T, b, form []byte) {
		var w ZipWriter
		w.Reset(io.Discard, zlib+6)
		if _, err := w.Write(form); err == nil {
			_ = w.Close()
		}
		form, ok := Inflate(bytes.NewReader(b), int64(len(b)), 1<<16)
		if ok && len(form) > 1<<16 {
			t.Fatalf("a form of %d bytes", len(form))
		}
		if ok {
			again(t, form, zlib+6, 11) // what it makes depends on the encoder
		}
	})
}
