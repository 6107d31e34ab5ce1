package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/goleak"

	"github.com/ociv2-sync/ociv2-sync/caibx"
	"github.com/ociv2-sync/ociv2-sync/catar"
	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/internal/ingest"
	"github.com/ociv2-sync/ociv2-sync/internal/testutil"
	"github.com/ociv2-sync/ociv2-sync/internal/tree"
	"github.com/ociv2-sync/ociv2-sync/store"
	"github.com/ociv2-sync/ociv2-sync/store/httpstore"
	"github.com/ociv2-sync/ociv2-sync/store/local"
	"github.com/ociv2-sync/ociv2-sync/toc"
	"github.com/ociv2-sync/ociv2-sync/translate"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testConfig = `{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}`

func testInfo() *translate.ImageInfo {
	return &translate.ImageInfo{
		Config:          []byte(testConfig),
		ConfigMediaType: ocispec.MediaTypeImageConfig,
		ManifestDigest:  digest.FromString("where it comes from"),
		Platform:        ocispec.Platform{OS: "linux", Architecture: "amd64"},
	}
}

// publication makes the tree of an image whose one file has the given content,
// and puts its chunks into the repository in dir. With extra the tree has a name
// that the catar leaves out.
func publication(t testing.TB, dir, content string, extra bool) Publication {
	t.Helper()
	root := t.TempDir()
	name := "file"
	if extra {
		name = strings.Repeat("x", 240)
	}
	for _, f := range []string{name, "other"} {
		if err := os.WriteFile(filepath.Join(root, f), []byte(content+f), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	src, err := tree.Scan(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := src.Close(); err != nil {
			t.Error(err)
		}
	}()
	chunks, err := local.Open(filepath.Join(dir, StoreName), local.Options{Create: true})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := chunks.Close(); err != nil {
			t.Error(err)
		}
	}()
	take := func(flags catar.Flags, write func(*bytes.Buffer) error) Chunks {
		var b bytes.Buffer
		if err := write(&b); err != nil {
			t.Fatal(err)
		}
		r, err := ingest.Stream(t.Context(), &b, ingest.Options{Params: chunk.DefaultParams(), FeatureFlags: uint64(flags), Store: chunks})
		if err != nil {
			t.Fatal(err)
		}
		return Chunks{Index: r.Index, Sizes: r.Stored}
	}
	p := Publication{Info: testInfo(), Now: time.Now}
	p.Catar = take(toc.ProjectionFlags, func(b *bytes.Buffer) error { return toc.WriteCatar(t.Context(), src, b) })
	x := take(catar.SHA512_256, func(b *bytes.Buffer) error { return toc.WriteExtra(t.Context(), src, b) })
	if extra {
		p.Extra = &x
	}
	if p.TOC, err = toc.Marshal(&toc.TOC{Nodes: src.Nodes}); err != nil {
		t.Fatal(err)
	}
	return p
}

func mustRef(t testing.TB, s string) Ref {
	t.Helper()
	r, err := ParseRef(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func publish(t testing.TB, ref string, p Publication) *Published {
	t.Helper()
	r := mustRef(t, ref)
	done, err := Publish(t.Context(), openDir(t, r.Repo), r, p)
	if err != nil {
		t.Fatal(err)
	}
	return done[0]
}

func openDir(t testing.TB, dir string) *Dir {
	t.Helper()
	d, err := OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// readAll opens an image and reads everything that its manifest names.
func readAll(ctx context.Context, files Files, ref Ref) (*Image, *Tree, error) {
	im, err := Open(ctx, files, ref)
	if err != nil {
		return nil, nil, err
	}
	tr, err := im.Tree(ctx)
	if err != nil {
		return nil, nil, err
	}
	if _, err := im.Catar(ctx); err != nil {
		return nil, nil, err
	}
	if _, err := im.Extra(ctx); err != nil {
		return nil, nil, err
	}
	_, err = im.Spans(ctx)
	return im, tr, err
}

// TestPublishAndOpen publishes images and reads them back from the directory
// and through nginx.
func TestPublishAndOpen(t *testing.T) {
	dir := t.TempDir()
	client := httpstore.NewClient(httpstore.Options{})
	defer client.Close()
	server := testutil.StartNginx(t, dir)
	web, err := client.Dir(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"/app:1", "/app", "//team/app:1.0"} {
		for _, extra := range []bool{false, true} {
			p := publication(t, dir, name, extra)
			done := publish(t, dir+name, p)
			for _, from := range []struct {
				files Files
				repo  string
			}{{openDir(t, dir), dir}, {web, server.URL}} {
				for _, ref := range []Ref{mustRef(t, from.repo+name), mustRef(t, from.repo+strings.Split(name, ":")[0]+"@"+done.Digest.String())} {
					im, tr, err := readAll(t.Context(), from.files, ref)
					if err != nil {
						t.Fatal(err)
					}
					if im.Digest != done.Digest || string(im.Config) != testConfig || !bytes.Equal(tr.Canonical, p.TOC) {
						t.Errorf("%s: read something else", ref)
					}
					if ref.Tag != "" && im.Serial != done.Serial {
						t.Errorf("%s: serial %d, want %d", ref, im.Serial, done.Serial)
					}
					checkChunks(t, im, p)
					if at, err := im.Store(false); err != nil || at != from.repo+"/"+StoreName {
						t.Errorf("%s: store %q, %v", ref, at, err)
					}
				}
			}
		}
	}
	names, err := Catalog(t.Context(), web)
	if want := "[{app [1 latest]} {team/app [1.0]}]"; err != nil || fmt.Sprint(names) != want {
		t.Errorf("catalog %v, %v, want %s", names, err, want)
	}
	if _, err := Open(t.Context(), web, mustRef(t, server.URL+"/app:2")); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("no such tag: %v", err)
	}
}

func checkChunks(t *testing.T, im *Image, p Publication) {
	t.Helper()
	c, err := im.Catar(t.Context())
	if err != nil || !slices.Equal(c.Index.Chunks, p.Catar.Index.Chunks) || !slices.Equal(c.Sizes, p.Catar.Sizes) {
		t.Errorf("%s: catar: %+v, %v", im.Ref, c, err)
	}
	x, err := im.Extra(t.Context())
	if err != nil || (x.Index == nil) != (p.Extra == nil) {
		t.Errorf("%s: extra: %+v, %v", im.Ref, x, err)
	}
	if p.Extra != nil && !slices.Equal(x.Sizes, p.Extra.Sizes) {
		t.Errorf("%s: sizes %v", im.Ref, x.Sizes)
	}
	spans, err := im.Spans(t.Context())
	if err != nil || spans.Catar != len(c.Index.Chunks) || !slices.Equal(spans.Stored, append(c.Sizes, x.Sizes...)) {
		t.Fatalf("%s: spans %+v, %v", im.Ref, spans, err)
	}
	all := c.Index.Chunks
	if x.Index != nil {
		all = append(all[:len(all):len(all)], x.Index.Chunks...)
	}
	for i := range all {
		ids, err := im.IDs(t.Context(), spans, i, 1)
		if err != nil || ids[0] != all[i].ID {
			t.Errorf("%s: id of chunk %d: %v, %v", im.Ref, i, ids, err)
		}
	}
}

// TestOneRequest holds a pull of a known image to one file.
func TestOneRequest(t *testing.T) {
	dir := t.TempDir()
	publish(t, dir+"/app:1", publication(t, dir, "x", false))
	server := testutil.StartNginx(t, dir)
	client := httpstore.NewClient(httpstore.Options{})
	defer client.Close()
	web, err := client.Dir(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), web, mustRef(t, server.URL+"/app:1")); err != nil {
		t.Fatal(err)
	}
	if n, _ := server.Count(); n != 1 {
		t.Errorf("%d requests", n)
	}
}

// TestOtherTools lets casync and the OCI tools look at a repository.
func TestOtherTools(t *testing.T) {
	dir := t.TempDir()
	publish(t, dir+"/app:1", publication(t, dir, "x", true))
	server := testutil.StartNginx(t, dir)
	for _, c := range [][]string{
		{"casync", "extract", "--store=" + server.URL + "/" + StoreName, server.URL + "/app/1.caidx", filepath.Join(t.TempDir(), "out")},
		{"casync", "list", "--store=" + filepath.Join(dir, StoreName), filepath.Join(dir, "app", "1.caidx")},
		{"skopeo", "inspect", "--raw", "oci:" + filepath.Join(dir, "app") + ":1"},
		{"umoci", "list", "--layout", filepath.Join(dir, "app")},
		{"umoci", "gc", "--layout", filepath.Join(dir, "app")},
		{"umoci", "stat", "--json", "--image", filepath.Join(dir, "app") + ":1"},
	} {
		t.Run(strings.Join(c[:2], " "), func(t *testing.T) {
			testutil.Need(t, c[0])
			out, err := exec.CommandContext(t.Context(), c[0], c[1:]...).CombinedOutput()
			// umoci has no figures for an artifact; it must say so and live.
			refuses := c[1] == "stat"
			if (err != nil) != refuses || bytes.Contains(out, []byte("goroutine ")) {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
	// What umoci's gc left must still be an image.
	if _, _, err := readAll(t.Context(), openDir(t, dir), mustRef(t, dir+"/app:1")); err != nil {
		t.Error(err)
	}
}

// TestPublishKeepsOthers checks that a push replaces its own tag alone, and that
// serials grow even when the clock goes back.
func TestPublishKeepsOthers(t *testing.T) {
	dir := t.TempDir()
	first := publish(t, dir+"/app:1", publication(t, dir, "1", false))
	p := publication(t, dir, "2", false)
	second := publish(t, dir+"/app:2", p)
	p.Now = func() time.Time { return time.Unix(1000, 0) }
	again := publish(t, dir+"/app:2", p)
	if again.Digest != second.Digest || again.Serial <= second.Serial {
		t.Errorf("pushed %+v, then %+v", second, again)
	}
	im, err := Open(t.Context(), openDir(t, dir), mustRef(t, dir+"/app:1"))
	if err != nil || im.Digest != first.Digest {
		t.Errorf("the other tag is %+v, %v", im, err)
	}
	b, err := os.ReadFile(filepath.Join(dir, "app", "index.json"))
	if err != nil {
		t.Fatal(err)
	}
	index, err := parseLayoutIndex(b)
	if err != nil || len(index.Manifests) != 2 {
		t.Errorf("index.json: %s, %v", b, err)
	}
}

func TestPublishAtOnce(t *testing.T) {
	dir := t.TempDir()
	var pubs []Publication
	for i := range 6 {
		pubs = append(pubs, publication(t, dir, fmt.Sprint(i), false))
	}
	space := openDir(t, dir)
	var wg sync.WaitGroup
	for i, p := range pubs {
		ref := mustRef(t, fmt.Sprintf("%s/app%d:t%d", dir, i%2, i))
		wg.Go(func() {
			if _, err := Publish(t.Context(), space, ref, p); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	names, err := Catalog(t.Context(), openDir(t, dir))
	if want := "[{app0 [t0 t2 t4]} {app1 [t1 t3 t5]}]"; err != nil || fmt.Sprint(names) != want {
		t.Errorf("catalog %v, %v, want %s", names, err, want)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".lock*")); left != nil {
		t.Errorf("left %q", left)
	}
}

func TestPublishRefuses(t *testing.T) {
	dir := t.TempDir()
	good, space := publication(t, dir, "1", false), openDir(t, dir)
	tests := []struct {
		name   string
		is     error
		change func(*Publication, *Ref)
	}{
		{"digest", ErrRef, func(_ *Publication, r *Ref) { r.Tag, r.Digest = "", digest.FromString("x") }},
		{"other tree", ErrMismatch, func(p *Publication, _ *Ref) { p.TOC = publication(t, dir, "longer", false).TOC }},
		{"bad tree", toc.ErrInvalid, func(p *Publication, _ *Ref) { p.TOC = p.TOC[1:] }},
		{"sizes", ErrMalformed, func(p *Publication, _ *Ref) { p.Catar.Sizes = nil }},
		{"size", ErrMalformed, func(p *Publication, _ *Ref) { p.Catar.Sizes = []int64{1 << 40} }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, ref := good, mustRef(t, dir+"/app:1")
			tt.change(&p, &ref)
			if _, err := Publish(t.Context(), space, ref, p); !errors.Is(err, tt.is) {
				t.Error(err)
			}
		})
	}
	if _, err := os.Stat(filepath.Join(dir, "app")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("something was written: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Publish(ctx, space, mustRef(t, dir+"/app:1"), good); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "app", "1.json")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the tag was written: %v", err)
	}
}

// TestDamage damages every file of a repository in turn: each is either found
// out with an error that names it, or does not matter to the tag that is read.
func TestDamage(t *testing.T) {
	dir := t.TempDir()
	publish(t, dir+"/app:1", publication(t, dir, "1", true))
	files := openDir(t, dir)
	damages := map[string]func([]byte) []byte{
		"empty":   func([]byte) []byte { return nil },
		"cut":     func(b []byte) []byte { return b[:len(b)-1] },
		"longer":  func(b []byte) []byte { return append(b, ' ', 'x') },
		"flipped": func(b []byte) []byte { b[len(b)/2] ^= 1; return b },
		"huge":    func(b []byte) []byte { return append(b, make([]byte, 1<<20)...) },
	}
	err := filepath.WalkDir(filepath.Join(dir, "app"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		good, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for name, damage := range damages {
			if err := os.WriteFile(path, damage(bytes.Clone(good)), 0o644); err != nil {
				return err
			}
			_, _, err := readAll(t.Context(), files, mustRef(t, dir+"/app:1"))
			rel, _ := filepath.Rel(dir, path)
			switch {
			case !matters(good, rel):
				if err != nil {
					t.Errorf("%s %s: %v", name, rel, err)
				}
			case err == nil:
				t.Errorf("%s %s was not found out", name, rel)
			case !strings.Contains(err.Error(), filepath.ToSlash(rel)):
				t.Errorf("%s %s: %v does not name it", name, rel, err)
			case !isBad(err):
				t.Errorf("%s %s: %v", name, rel, err)
			}
		}
		return os.WriteFile(path, good, 0o644)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// matters reports whether a reader of the tag needs the file; the config, the
// manifest and the empty config are embedded or not used.
func matters(b []byte, rel string) bool {
	return rel == "app/1.json" || strings.Contains(rel, "blobs") && !bytes.HasPrefix(b, []byte("{"))
}

func isBad(err error) bool {
	for _, is := range []error{ErrMalformed, ErrMismatch, translate.ErrMalformed, store.ErrTooLarge, toc.ErrInvalid, caibx.ErrMalformed} {
		if errors.Is(err, is) {
			return true
		}
	}
	return false
}

func TestDirReadsRegularFilesOnly(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "out")); err != nil {
		t.Fatal(err)
	}
	d := openDir(t, dir)
	for _, p := range []string{"out", ".", "../x"} {
		if b, err := d.ReadFile(t.Context(), p, 1<<20); err == nil {
			t.Errorf("read %d bytes of %q", len(b), p)
		}
	}
	if _, err := OpenDir(filepath.Join(dir, "none")); !errors.Is(err, store.ErrNotFound) {
		t.Error(err)
	}
}
