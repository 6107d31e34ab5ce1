package ocidest

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/ociv2-sync/ociv2-sync/internal/durable"
	"github.com/ociv2-sync/ociv2-sync/toc"
	"github.com/ociv2-sync/ociv2-sync/translate"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const content = "what is in the file"

// image is an image of one file.
func image(file string) Image {
	return Image{
		Source: &toc.Source{
			Nodes: []toc.Node{
				{Mode: toc.TypeDir | 0o755, Link: -1},
				{Name: "f", Depth: 1, Mode: toc.TypeRegular | 0o644, Size: int64(len(content)), Digest: sha256.Sum256([]byte(content)), Link: -1},
			},
			Open: func(context.Context, int) (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(file)), nil },
		},
		Config: []byte(`{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]},"history":[]}`),
	}
}

// files lists what is in dir, with all below it.
func files(t *testing.T, dir string) (names []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		names = append(names, strings.TrimPrefix(path, dir))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// An image whose contents are not what they should be leaves nothing behind, and
// what was there as it was.
func TestWriteFails(t *testing.T) {
	dir := t.TempDir()
	at := map[string]string{"oci": dir + "/l", "oci-archive": dir + "/a", "docker-archive": dir + "/d"}
	broken := func() {
		t.Helper()
		for kind, path := range at {
			_, err := Write(t.Context(), kind, path, "", image("something else"), Options{Replace: true})
			if !errors.Is(err, toc.ErrContent) {
				t.Errorf("%s: error %v", kind, err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if _, err := Write(ctx, kind, path, "", image(content), Options{Replace: true}); !errors.Is(err, context.Canceled) {
				t.Errorf("%s: error %v", kind, err)
			}
		}
	}
	broken()
	if got := files(t, dir); len(got) != 1 {
		t.Errorf("left behind: %v", got)
	}
	for kind, path := range at {
		if _, err := Write(t.Context(), kind, path, "", image(content), Options{}); err != nil {
			t.Fatal(err)
		}
	}
	before := files(t, dir)
	broken()
	if got := files(t, dir); strings.Join(got, " ") != strings.Join(before, " ") {
		t.Errorf("there was %v, is %v", before, got)
	}
	for _, kind := range []string{"oci-archive", "docker-archive"} {
		if err := Check(kind, at[kind], "", false); !errors.Is(err, durable.ErrOccupied) {
			t.Errorf("%s: error %v", kind, err)
		}
	}
}

// The bytes are pinned: other ones mean other digests for every exported image.
func TestWriteGolden(t *testing.T) {
	for _, c := range []struct {
		kind        string
		compression Compression
		want        string
	}{
		{"oci", Gzip, "sha256:ed9209500c5d4ca155446c517a0f7d8ab825cd98178ae80a5070ccfb5023023a"},
		{"oci-archive", Gzip, "sha256:ed9209500c5d4ca155446c517a0f7d8ab825cd98178ae80a5070ccfb5023023a"},
		{"oci", Zstd, "sha256:4f2779ba598d8339a7c42f64b9ca9dbaf43ac918aa39d53cab28351f744b3fec"},
		{"docker-archive", Gzip, "sha256:11a3f5797255b2902ed0f7fa015b846eb31f47b3e80671f25a7e7371873479bf"},
	} {
		w, err := Write(t.Context(), c.kind, filepath.Join(t.TempDir(), "x"), "name", image(content), Options{Compression: c.compression})
		if err != nil {
			t.Fatal(err)
		}
		if w.Digest.String() != c.want {
			t.Errorf("%s, compression %d: digest %s, want %s", c.kind, c.compression, w.Digest, c.want)
		}
	}
}

func TestAddToIndex(t *testing.T) {
	dir := t.TempDir() + "/l"
	if _, err := Write(t.Context(), "oci", dir, "mine", image(content), Options{}); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "index.json")
	index := `{"annotations":{"a":"b"},"manifests":[{"x":1,"annotations":{"org.opencontainers.image.ref.name":"other"}},{"digest":"d"}],"schemaVersion":2}`
	if err := os.WriteFile(path, []byte(index), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Write(t.Context(), "oci", dir, "mine", image(content), Options{}); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"annotations":{"a":"b"}`, `{"x":1,`, `{"digest":"d"}`, `"mine"`} {
		if !strings.Contains(string(b), want) {
			t.Errorf("no %s in %s", want, b)
		}
	}
	for _, bad := range []string{"", "[]", `{"manifests":{}}`, `{"manifests":[1]}`} {
		if err := os.WriteFile(path, []byte(bad), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := Write(t.Context(), "oci", dir, "mine", image(content), Options{}); !errors.Is(err, translate.ErrMalformed) {
			t.Errorf("%s: error %v", bad, err)
		}
		if b, err := os.ReadFile(path); err != nil || string(b) != bad {
			t.Errorf("%s became %s, %v", bad, b, err)
		}
	}
}

// Who adds to a layout waits for who else does, but not for ever.
func TestAddToIndexWaits(t *testing.T) {
	dir := t.TempDir() + "/l"
	if _, err := Write(t.Context(), "oci", dir, "a", image(content), Options{}); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(filepath.Join(dir, "blobs"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := Write(ctx, "oci", dir, "b", image(content), Options{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
}

func TestNames(t *testing.T) {
	for ref, want := range map[string]string{
		"app": "app:latest", "app:v1": "app:v1", "h.example:5000/a/b": "h.example:5000/a/b:latest", "localhost/a__b:V1": "localhost/a__b:V1", "": "",
	} {
		if got, err := dockerTag(ref); err != nil || got != want {
			t.Errorf("%q: %q, %v", ref, got, err)
		}
	}
	for _, ref := range []string{"App", "a:", "a b", "a//b", "-a", "a:-b", "a@sha256:00"} {
		if got, err := dockerTag(ref); !errors.Is(err, ErrReference) {
			t.Errorf("%q: %q, %v", ref, got, err)
		}
	}
	for _, ref := range []string{"-", "a b", "a..b", "\n"} {
		if err := checkRef(ref); !errors.Is(err, ErrReference) {
			t.Errorf("%q: %v", ref, err)
		}
	}
	if _, err := ParseCompression("xz"); !errors.Is(err, ErrReference) {
		t.Error(err)
	}
}
