package seed

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
)

// lists is a Memory that remembers the lists of archives by their paths.
type lists struct {
	noMemory
	known map[string][]byte
}

func (l lists) Scan(string) Scan { return l }

func (l lists) RecallList(path string, _ os.FileInfo) ([]byte, bool) {
	b, ok := l.known[path]
	return b, ok
}

func (l lists) LearnList(path string, _, _ os.FileInfo, _ time.Time, list []byte) {
	l.known[path] = list
}

// wantedOf wants contents.
func wantedOf(contents ...string) *Wanted {
	want := &Wanted{}
	for _, c := range contents {
		want.add(digest(c), int64(len(c)), "")
	}
	return want
}

// An archive that was read once is known: what it has is reported without
// reading it, and got out of it alone.
func TestArchiveIsReadOnce(t *testing.T) {
	hex := strings.Repeat("0a", 32)
	layer := tarOf(t, "usr/", "", "usr/a", "content one", "usr/big", large, "usr/other", "other")
	for name, file := range map[string]string{
		"tar":            layer,
		"tar.gz":         gzipOf(t, layer),
		"tar.zst":        zstdOf(t, layer),
		"catar":          catarOf(t, "a", "content one"),
		"docker-archive": tarOf(t, hex+"/layer.tar", layer, "manifest.json", "[]"),
		"oci-archive":    tarOf(t, "blobs/sha256/"+hex, gzipOf(t, layer)),
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "archive")
			if err := os.WriteFile(path, []byte(file), 0o644); err != nil {
				t.Fatal(err)
			}
			memory := lists{known: make(map[string][]byte)}
			opened := func(spool string) *Archive {
				t.Helper()
				a, err := OpenArchive(path, ArchiveOptions{SpoolDir: spool, Memory: memory})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { a.Close() })
				return a
			}
			i, err := Index(t.Context(), opened(""))
			if err != nil || i.Read == 0 || i.Read != i.Files || i.ReadBytes != i.Bytes {
				t.Fatalf("%+v, %v", i, err)
			}
			if again, err := Index(t.Context(), opened("")); err != nil || again.Read != 0 || again.Files != i.Files || again.Bytes != i.Bytes {
				t.Errorf("again: %+v, %v", again, err)
			}
			got := make(map[Digest]string)
			var sizes []int64
			a := opened(t.TempDir())
			read, err := a.look(t.Context(), wantedOf("content one", large, "missing one"), func(d Digest, at string) { got[d] = at },
				func(size int64) { sizes = append(sizes, size) })
			if err != nil {
				t.Fatal(err)
			}
			if _, ok := got[digest("content one")]; !ok || slices.ContainsFunc(sizes, func(s int64) bool { return s != 0 }) {
				t.Errorf("known before it is read: %v; may hold more of sizes %v", got, sizes)
			}
			if err := read(t.Context()); err != nil {
				t.Fatal(err)
			}
			for d, at := range got {
				r, err := a.Open(t.Context(), at)
				if err != nil {
					t.Fatal(err)
				}
				b, err := io.ReadAll(r)
				if err != nil || sha256.Sum256(b) != d {
					t.Errorf("%s: %d other bytes, %v", at, len(b), err)
				}
				r.Close()
			}
			// One that changed all the same gives nothing, or what its reader
			// sees to be wrong.
			if err := os.WriteFile(path, []byte(strings.Replace(file, "content one", "content two", 1))[:len(file)/2], 0o644); err != nil {
				t.Fatal(err)
			}
			a = opened(t.TempDir())
			clear(got)
			if err := a.Find(t.Context(), wantedOf("content one", large), func(d Digest, at string) { got[d] = at }); err != nil {
				t.Fatal(err)
			}
			for d, at := range got {
				if r, err := a.Open(t.Context(), at); err == nil {
					b, err := io.ReadAll(r)
					r.Close()
					if err == nil && sha256.Sum256(b) != d {
						t.Logf("%s: other bytes, for the copier to see", at)
					}
				}
			}
		})
	}
}

// Of a plain tar the sizes are known without reading it, and of one that has
// nothing of a size that is wanted nothing is read.
func TestTarSizesAreForeseen(t *testing.T) {
	hex := strings.Repeat("0a", 32)
	layer := tarOf(t, "a", "12345", "b", large)
	for name, c := range map[string]struct {
		file string
		want []int64
	}{
		"tar":            {layer, []int64{5}},
		"docker-archive": {tarOf(t, hex+".tar", layer, "manifest.json", "{}"), []int64{5}},
		"oci-archive":    {tarOf(t, "blobs/sha256/"+hex, gzipOf(t, layer)), []int64{anySize}},
		"compressed":     {gzipOf(t, layer), []int64{anySize}},
		"nothing":        {tarOf(t, "a", "1234"), nil},
	} {
		path := filepath.Join(t.TempDir(), "archive")
		if err := os.WriteFile(path, []byte(c.file), 0o644); err != nil {
			t.Fatal(err)
		}
		var sizes []int64
		_, err := archiveAt(t, path, "").look(t.Context(), wantedOf("54321"), func(Digest, string) { t.Error("found") },
			func(size int64) { sizes = append(sizes, size) })
		if err != nil || !slices.Equal(sizes, c.want) {
			t.Errorf("%s: sizes %v, %v, want %v", name, sizes, err, c.want)
		}
	}
}

// tableEntry is an entry of the tables of eStargz and zstd:chunked.
type tableEntry struct {
	Type   string `json:"type"`
	Name   string `json:"name"`
	Size   int64  `json:"size,omitempty"`
	Digest string `json:"digest,omitempty"`
	Offset int64  `json:"offset,omitempty"`
	Inner  int64  `json:"innerOffset,omitempty"`
}

func tableJSON(t testing.TB, entries []tableEntry) []byte {
	t.Helper()
	b, err := json.Marshal(map[string]any{"version": 1, "entries": entries})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func gzipMember(t testing.TB, b, extra []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := gzip.NewWriterLevel(&out, gzip.NoCompression)
	if err != nil {
		t.Fatal(err)
	}
	w.Extra = extra
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// parts is a tar cut where the contents of its files begin and end.
func parts(t testing.TB, contents ...string) (out [][]byte) {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	cut := func() {
		out = append(out, bytes.Clone(b.Bytes()))
		b.Reset()
	}
	for i, c := range contents {
		if err := w.WriteHeader(&tar.Header{Name: fmt.Sprint(i), Typeflag: tar.TypeReg, Size: int64(len(c)), Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		cut()
		if _, err := io.WriteString(w, c); err != nil {
			t.Fatal(err)
		}
		cut()
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	cut()
	return out
}

// eStargz makes a layer as docs/estargz.md of stargz-snapshotter says, each content
// in a member of its own, large ones in two, the last one behind its header.
func eStargz(t testing.TB, contents ...string) []byte {
	t.Helper()
	var out []byte
	var entries []tableEntry
	all := parts(t, contents...)
	for i, c := range contents {
		e := tableEntry{Type: "reg", Name: fmt.Sprint(i), Size: int64(len(c)), Digest: fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(c)))}
		head, body := all[2*i], all[2*i+1]
		if i == len(contents)-1 {
			e.Offset, e.Inner = int64(len(out)), int64(len(head))
			out = append(out, gzipMember(t, slices.Concat(head, body), nil)...)
			entries = append(entries, e)
			break
		}
		out = append(out, gzipMember(t, head, nil)...)
		e.Offset = int64(len(out))
		out = append(out, gzipMember(t, body[:len(body)/2], nil)...)
		out = append(out, gzipMember(t, body[len(body)/2:], nil)...)
		entries = append(entries, e, tableEntry{Type: "chunk", Name: e.Name, Offset: e.Offset})
	}
	out = append(out, gzipMember(t, all[len(all)-1], nil)...)
	at := len(out)
	out = append(out, gzipMember(t, []byte(tarOf(t, stargzTable, string(tableJSON(t, entries)))), nil)...)
	extra := append([]byte("SG\x16\x00"), fmt.Sprintf("%016xSTARGZ", at)...)
	return append(out, gzipMember(t, nil, extra)...)
}

// zstdChunked makes a layer as containers/storage does, with the footer of today or
// the one of old.
func zstdChunked(t testing.TB, old bool, contents ...string) []byte {
	t.Helper()
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer enc.Close()
	var out []byte
	var entries []tableEntry
	all := parts(t, contents...)
	for i, c := range contents {
		out = enc.EncodeAll(all[2*i], out)
		entries = append(entries, tableEntry{
			Type: "reg", Name: fmt.Sprint(i), Size: int64(len(c)),
			Digest: fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(c))), Offset: int64(len(out)),
		})
		out = enc.EncodeAll(all[2*i+1], out)
	}
	out = enc.EncodeAll(all[len(all)-1], out)
	skippable := func(b []byte) {
		out = append(out, 0x50, 0x2a, 0x4d, 0x18)
		out = binary.LittleEndian.AppendUint32(out, uint32(len(b)))
		out = append(out, b...)
	}
	table := tableJSON(t, entries)
	packed := enc.EncodeAll(table, nil)
	skippable(packed)
	at := len(out) - len(packed)
	var footer []byte
	for _, v := range []int{at, len(packed), len(table), 1, 0, 0, 0} {
		footer = binary.LittleEndian.AppendUint64(footer, uint64(v))
	}
	if old {
		footer = footer[:4*8]
	}
	skippable(append(footer, 0x47, 0x6e, 0x55, 0x6c, 0x49, 0x6e, 0x55, 0x78))
	return out
}

// Of a layer with a table of contents only what is wanted is decompressed, and
// nothing to know what it has.
func TestLayersWithTables(t *testing.T) {
	contents := []string{"content one", large, "content two"}
	for name, file := range map[string][]byte{
		"eStargz":          eStargz(t, contents...),
		"zstd:chunked":     zstdChunked(t, false, contents...),
		"old zstd:chunked": zstdChunked(t, true, contents...),
	} {
		path := filepath.Join(t.TempDir(), "layer")
		if err := os.WriteFile(path, file, 0o644); err != nil {
			t.Fatal(err)
		}
		a := archiveAt(t, path, "")
		got := make(map[Digest]string)
		_, err := a.look(t.Context(), wantedOf(contents...), func(d Digest, at string) { got[d] = at },
			func(size int64) { t.Errorf("%s: may hold more of size %d", name, size) })
		if err != nil || len(got) != len(contents) {
			t.Fatalf("%s: %d contents, %v", name, len(got), err)
		}
		for d, at := range got {
			r, err := a.Open(t.Context(), at)
			if err != nil {
				t.Fatal(err)
			}
			if b, err := io.ReadAll(r); err != nil || sha256.Sum256(b) != d {
				t.Errorf("%s: %d other bytes, %v", name, len(b), err)
			}
			r.Close()
		}
		// Without the table it is a layer as any other.
		if err := os.WriteFile(path, file[:len(file)-1], 0o644); err != nil {
			t.Fatal(err)
		}
		if got := find(t, archiveAt(t, path, ""), contents...); len(got) != len(contents) {
			t.Errorf("%s: %d contents found by reading", name, len(got))
		}
	}
}

func FuzzTable(f *testing.F) {
	f.Add(eStargz(f, "one", "two", "three"))
	f.Add(zstdChunked(f, false, "one", "two"))
	f.Add(zstdChunked(f, true, "one", "two"))
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(t.TempDir(), "layer")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		for _, m := range tableOf(bytes.NewReader(b), int64(len(b))) {
			r, err := m.inside(path).open()
			if err != nil {
				continue
			}
			if n, _ := io.Copy(io.Discard, io.LimitReader(r, 1<<20)); n > m.size {
				t.Errorf("%d bytes of %d", n, m.size)
			}
			r.Close()
		}
	})
}

func FuzzParseList(f *testing.F) {
	f.Add(appendList(nil, []member{{digest: Digest{1}, size: 1, offset: -1, entries: []int{1, 200}}, {size: 1 << 40, offset: 512, entries: []int{7}}}))
	f.Add(appendList(nil, nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		members, err := parseList(b)
		if err != nil {
			return
		}
		again, err := parseList(appendList(nil, members))
		if err != nil || !reflect.DeepEqual(again, members) {
			t.Fatalf("%v, %v, want %v", again, err, members)
		}
	})
}
