package seed

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/ociv2-sync/ociv2-sync/catar"
	"github.com/ociv2-sync/ociv2-sync/toc"
)

// large does not fit the spool's buffer.
var large = strings.Repeat("0123456789abcdef", spoolBuffer/16+5)

func tarOf(t testing.TB, files ...string) string {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := 0; i < len(files); i += 2 {
		h := &tar.Header{Name: files[i], Typeflag: tar.TypeReg, Size: int64(len(files[i+1])), Mode: 0o644}
		if strings.HasSuffix(files[i], "/") {
			h.Typeflag = tar.TypeDir
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, files[i+1]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func gzipOf(t testing.TB, s string) string {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, err := io.WriteString(w, s)
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func zstdOf(t testing.TB, s string) string {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	return string(w.EncodeAll([]byte(s), nil))
}

func catarOf(t testing.TB, name, content string) string {
	t.Helper()
	var b bytes.Buffer
	w := catar.NewWriter(&b, toc.ProjectionFlags)
	err := w.WriteEntry(&catar.Entry{Mode: 0o40755})
	if err == nil {
		err = w.WriteEntry(&catar.Entry{Depth: 1, Name: name, Mode: 0o100644, Size: uint64(len(content))})
	}
	if err == nil {
		_, err = io.WriteString(w, content)
	}
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func archiveAt(t *testing.T, path, spool string) *Archive {
	t.Helper()
	a, err := OpenArchive(path, ArchiveOptions{SpoolDir: spool})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	return a
}

func TestArchivesOfferTheirContents(t *testing.T) {
	hex := strings.Repeat("0a", 32)
	layer := tarOf(t, "usr/", "", "usr/a", "content one", "usr/big", large)
	manual := gzipOf(t, "a page of a manual")
	for name, file := range map[string]string{
		"tar":            layer,
		"tar.gz":         gzipOf(t, layer),
		"two members":    gzipOf(t, layer[:700]) + gzipOf(t, layer[700:]),
		"tar.zst":        zstdOf(t, layer),
		"catar":          catarOf(t, "big", large),
		"docker-archive": tarOf(t, "manifest.json", "[]", hex+"/layer.tar", layer),
		"docker-archive as of 25": tarOf(t, "blobs/", "", "blobs/sha256/"+hex, layer,
			"blobs/sha256/"+strings.Repeat("0b", 32), `{"a config": 1}`),
		"oci-archive":         tarOf(t, "./blobs/sha256/"+hex, gzipOf(t, layer)),
		"a gzip is a content": tarOf(t, "usr/share/man/man1/a.1.gz", manual, "big", large),
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "archive")
			if err := os.WriteFile(path, []byte(file), 0o644); err != nil {
				t.Fatal(err)
			}
			want := []string{large}
			switch name {
			case "catar":
			case "a gzip is a content":
				want = append(want, manual)
			default:
				want = append(want, "content one")
			}
			a := archiveAt(t, path, t.TempDir())
			got := find(t, a, append(want, "not in it at all", "content 1 b")...)
			if len(got) != len(want) {
				t.Errorf("found %d contents, want %d", len(got), len(want))
			}
			for _, w := range want {
				r, err := a.Open(t.Context(), got[w])
				if err != nil {
					t.Fatal(err)
				}
				b, err := io.ReadAll(r)
				if err := errors.Join(err, r.Close()); err != nil || string(b) != w {
					t.Errorf("%.20q... comes as %.20q..., %v", w, b, err)
				}
			}
		})
	}
}

// A plan keeps nothing, and finds the same.
func TestArchiveWithoutSpool(t *testing.T) {
	path := filepath.Join(t.TempDir(), "archive")
	if err := os.WriteFile(path, []byte(gzipOf(t, tarOf(t, "a", "content one", "b", large))), 0o644); err != nil {
		t.Fatal(err)
	}
	a := archiveAt(t, path, "")
	got := find(t, a, large, "content one")
	if len(got) != 2 {
		t.Errorf("found %d contents, want 2", len(got))
	}
	if _, err := a.Open(t.Context(), got[large]); err == nil {
		t.Error("opened what was not kept")
	}
}

// What there is no space for is found and counted, as in a plan, and not kept.
func TestArchiveLeavesSpace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "archive")
	if err := os.WriteFile(path, []byte(gzipOf(t, tarOf(t, "a", "content one", "b", large, "c", "unwanted"))), 0o644); err != nil {
		t.Fatal(err)
	}
	size := int64(len(large) + len("content one"))
	for name, leave := range map[string]int64{"none": 1 << 60, "all": 0, "plan": 0} {
		dir := t.TempDir()
		if name == "plan" {
			dir = ""
		}
		a := archiveAt(t, path, dir)
		a.Leave(leave)
		var got map[string]string
		for range 2 { // the second time, for what is there already
			if got = find(t, a, large, "content one"); len(got) != 2 {
				t.Errorf("%s: found %d contents, want 2", name, len(got))
			}
		}
		want := int64(0)
		if name == "all" {
			want = size
		}
		if found, kept := a.Spooled(); found != size || kept != want {
			t.Errorf("%s: %d bytes, %d of them kept, want %d, %d", name, found, kept, size, want)
		}
		if _, err := a.Open(t.Context(), got[large]); (err == nil) != (want > 0) {
			t.Errorf("%s: opened: %v", name, err)
		}
	}
}

func TestLayoutOffersEveryLayer(t *testing.T) {
	dir := t.TempDir()
	for i, s := range []string{
		gzipOf(t, tarOf(t, "a", "content one")), zstdOf(t, tarOf(t, "b", "content two!")), `{"schemaVersion":2}`,
		gzipOf(t, "no archive at all"), gzipOf(t, tarOf(t, "c", large))[:2000], "",
	} {
		write(t, dir, fmt.Sprintf("blobs/sha256/%064d", i), s)
	}
	a, err := OpenLayout(dir, ArchiveOptions{SpoolDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if got := find(t, a, "content one", "content two!", large); len(got) != 2 {
		t.Errorf("found %d contents, want 2", len(got))
	}
	if _, err := OpenLayout(t.TempDir(), ArchiveOptions{}); !errors.Is(err, ErrUnknown) {
		t.Errorf("a directory without blobs: %v", err)
	}
}

// What an archive has before it breaks is good.
func TestTruncatedArchive(t *testing.T) {
	whole := tarOf(t, "a", "content one", "b", large)
	for name, file := range map[string]string{
		"cut": whole[:spoolBuffer], "cut and compressed": gzipOf(t, whole)[:1800], "garbage": whole[:1536] + strings.Repeat("garbage!", 1000),
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "archive")
			if err := os.WriteFile(path, []byte(file), 0o644); err != nil {
				t.Fatal(err)
			}
			a := archiveAt(t, path, t.TempDir())
			if got := find(t, a, "content one", large); len(got) != 1 || got["content one"] == "" {
				t.Errorf("found %d contents, want the first", len(got))
			}
		})
	}
}

func TestOpenArchiveRefusesOthers(t *testing.T) {
	dir := t.TempDir()
	for name, s := range map[string]string{"empty": "", "text": "hello", "long text": strings.Repeat("hello ", 1000), "zeros": strings.Repeat("\x00", 1024)} {
		write(t, dir, name, s)
		if _, err := OpenArchive(filepath.Join(dir, name), ArchiveOptions{}); !errors.Is(err, ErrUnknown) {
			t.Errorf("%s: error %v, want %v", name, err, ErrUnknown)
		}
	}
	if _, err := OpenArchive(dir, ArchiveOptions{}); err == nil {
		t.Error("a directory was opened as an archive")
	}
}

func TestSpoolGivesBackWhatIsNotWanted(t *testing.T) {
	s := newSpool()
	if err := s.open(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	defer s.close()
	buf := make([]byte, spoolBuffer)
	for _, path := range []string{"", "kept", "", ""} {
		_, keep, err := s.take(strings.NewReader(large), int64(len(large)), buf)
		if err == nil {
			err = keep(path)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if s.end != int64(len(large)) {
		t.Errorf("%d bytes are in use, want %d", s.end, len(large))
	}
}

func FuzzArchive(f *testing.F) {
	hex := strings.Repeat("0a", 32)
	layer := tarOf(f, "a", "content one", "dir/", "")
	for _, s := range []string{
		layer, gzipOf(f, layer), zstdOf(f, layer), catarOf(f, "a", "content one"), tarOf(f, hex+"/layer.tar", gzipOf(f, layer)),
	} {
		f.Add([]byte(s))
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := os.CreateTemp(dir, "")
		if err != nil {
			t.Fatal(err)
		}
		defer os.Remove(file.Name())
		_, err = file.Write(data)
		if err := errors.Join(err, file.Close()); err != nil {
			t.Fatal(err)
		}
		a, err := OpenArchive(file.Name(), ArchiveOptions{SpoolDir: dir})
		if err != nil {
			return
		}
		defer a.Close()
		var want Wanted
		want.add(digest("content one"), 11, "a")
		var mu sync.Mutex
		err = a.Find(t.Context(), &want, func(_ Digest, path string) {
			mu.Lock()
			defer mu.Unlock()
			r, err := a.Open(t.Context(), path)
			if err != nil {
				t.Fatal(err)
			}
			if b, err := io.ReadAll(r); err != nil || string(b) != "content one" {
				t.Errorf("found %q, %v", b, err)
			}
		})
		if err != nil {
			t.Error(err)
		}
	})
}
