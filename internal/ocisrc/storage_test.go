package ocisrc

import (
	"archive/tar"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"golang.org/x/sys/unix"

	"github.com/ociv2-sync/ociv2-sync/internal/testutil"
	"github.com/ociv2-sync/ociv2-sync/translate"
)

// splitEntries takes a tar apart, as engines do when they store a layer.
func splitEntries(t testing.TB, raw []byte) (entries []splitEntry, files map[string]string) {
	t.Helper()
	files = map[string]string{}
	all := bytes.NewReader(raw)
	tr := tar.NewReader(all)
	at := 0
	for {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		must(t, err)
		from := len(raw) - all.Len()
		entries = append(entries, splitEntry{Type: splitSegment, Payload: raw[at:from]}, splitEntry{Type: splitFile, NameRaw: []byte(h.Name), Size: h.Size})
		at = from + int(h.Size)
		files[h.Name] = string(raw[from:at])
	}
	return append(entries, splitEntry{Type: splitSegment, Payload: raw[at:]}), files
}

// record is what an engine keeps of the entries.
func record(t testing.TB, entries []splitEntry) []byte {
	t.Helper()
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	for _, e := range entries {
		must(t, enc.Encode(e))
	}
	return gzipped(t, b.Bytes())
}

// testStorage is a storage with an image of two layers, and one of the first of them.
func testStorage(t testing.TB, driver string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	write := func(name string, b []byte) {
		name = filepath.Join(dir, name)
		must(t, os.MkdirAll(filepath.Dir(name), 0o755))
		must(t, os.WriteFile(name, b, 0o644))
	}
	var layers []storedLayer
	var ids []digest.Digest
	var images []storedImage
	for i, name := range []string{"one", "two"} {
		raw := oneFileTar(t, name, "content of "+name)
		entries, files := splitEntries(t, raw)
		id := "layer" + name
		write(driver+"-layers/"+id+".tar-split.gz", record(t, entries))
		for f, body := range files {
			write(storageDrivers[driver](id)+"/"+f, []byte(body))
		}
		l := storedLayer{ID: id, Size: int64(len(raw))}
		if i > 0 {
			l.Parent = layers[i-1].ID
		}
		layers, ids = append(layers, l), append(ids, digest.FromBytes(raw))

		config := encode(t, ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"}, RootFS: ocispec.RootFS{Type: "layers", DiffIDs: ids}})
		m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, Config: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: digest.FromBytes(config), Size: int64(len(config))}}
		manifest := encode(t, m)
		img := storedImage{ID: strings.Repeat(fmt.Sprint(i), 64), Digest: digest.FromBytes(manifest), Names: []string{"localhost/team/" + name + ":latest"}, Layer: id}
		write(driver+"-images/"+img.ID+"/manifest", manifest)
		write(driver+"-images/"+img.ID+"/="+base64.StdEncoding.EncodeToString([]byte(m.Config.Digest)), config)
		images = append(images, img)
	}
	images = append(images, storedImage{ID: "3", Names: []string{"docker.io/other/two:latest"}})
	write(driver+"-images/images.json", encode(t, images))
	write(driver+"-layers/layers.json", encode(t, layers))
	return dir
}

func TestOpenStorage(t *testing.T) {
	overlay, vfs := testStorage(t, "overlay"), testStorage(t, "vfs")
	img, err := Open(t.Context(), "containers-storage:team/two", Options{Storage: overlay})
	must(t, err)
	pin := img.Info().ManifestDigest.String()
	must(t, img.Close())
	for ref, want := range map[string][]string{
		"localhost/team/two:latest":             {"one", "two"},
		"localhost/team/two":                    {"one", "two"},
		"team/two":                              {"one", "two"},
		"one":                                   {"one"},
		"@" + strings.Repeat("1", 12):           {"one", "two"},
		"localhost/team/two@" + pin:             {"one", "two"},
		"@" + pin:                               {"one", "two"},
		"[" + vfs + "]team/two":                 {"one", "two"},
		"[vfs@" + vfs + "+/run/x:vfs.opt=1]one": {"one"},
		"[overlay@" + overlay + "]localhost/team/one:latest": {"one"},
	} {
		got, err := names(t, "containers-storage:"+ref, Options{Storage: overlay})
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %v, %v", ref, got, err)
		}
	}
	for ref, is := range map[string]error{
		"":                          ErrReference,
		"[x":                        ErrReference,
		"[vfs@" + vfs + "]":         ErrReference,
		"two":                       ErrReference, // of two registries
		"[btrfs@" + overlay + "]x":  translate.ErrUnsupported,
		"[" + overlay + "/none]x":   ErrNotFound,
		"[" + t.TempDir() + "]x":    ErrNotFound,
		"[vfs@" + overlay + "]one":  ErrNotFound,
		"team/two:v2":               ErrNotFound,
		"localhost/team/one@" + pin: ErrNotFound,
	} {
		if _, err := names(t, "containers-storage:"+ref, Options{Storage: overlay}); !errors.Is(err, is) {
			t.Errorf("%q: error %v, want %v", ref, err, is)
		}
	}
	if _, err := names(t, "containers-storage:one", Options{}); !errors.Is(err, ErrReference) {
		t.Errorf("without a storage: %v", err)
	}
}

// What is wrong in a storage is an error that names the layer.
func TestOpenStorageRefuses(t *testing.T) {
	entries, _ := splitEntries(t, oneFileTar(t, "two", "content of two"))
	with := func(change func(e []splitEntry)) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			e := slices.Clone(entries)
			change(e)
			must(t, os.WriteFile(dir+"/overlay-layers/layertwo.tar-split.gz", record(t, e), 0o644))
		}
	}
	file := func(b []byte) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			must(t, os.WriteFile(dir+"/overlay-layers/layertwo.tar-split.gz", b, 0o644))
		}
	}
	content := func(b string) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			must(t, os.WriteFile(dir+"/overlay/layertwo/diff/two", []byte(b), 0o644))
		}
	}
	for name, c := range map[string]struct {
		spoil func(t *testing.T, dir string)
		is    error
		says  string
	}{
		"no record":    {func(t *testing.T, dir string) { must(t, os.Remove(dir+"/overlay-layers/layertwo.tar-split.gz")) }, translate.ErrUnsupported, "layer 2 of 2"},
		"no files":     {func(t *testing.T, dir string) { must(t, os.RemoveAll(dir+"/overlay/layertwo")) }, ErrNotFound, "layer 2 of 2"},
		"file gone":    {func(t *testing.T, dir string) { must(t, os.Remove(dir+"/overlay/layertwo/diff/two")) }, ErrNotFound, "layer 2 of 2"},
		"file changed": {content("CONTENT OF TWO"), translate.ErrMismatch, "layer 2 of 2"},
		"file cut":     {content("cont"), translate.ErrMismatch, `"two" is shorter`},
		"file outside": {func(t *testing.T, dir string) {
			must(t, os.Remove(dir+"/overlay/layertwo/diff/two"))
			must(t, os.WriteFile(dir+"/secret", []byte("content of two"), 0o644))
			must(t, os.Symlink("../../../secret", dir+"/overlay/layertwo/diff/two"))
		}, nil, "escapes"},
		"record no gzip":   {file([]byte("{}")), translate.ErrMalformed, "record"},
		"record empty":     {file(nil), translate.ErrMalformed, "record"},
		"record cut":       {file(record(t, entries)[:40]), translate.ErrMalformed, "record"},
		"record no JSON":   {file(gzipped(t, []byte("x"))), translate.ErrMalformed, "record"},
		"long line":        {file(gzipped(t, make([]byte, maxSplitLine+1))), translate.ErrMalformed, "record"},
		"unknown type":     {with(func(e []splitEntry) { e[0].Type = 3 }), translate.ErrMalformed, "type 3"},
		"negative size":    {with(func(e []splitEntry) { e[1].Size = -1 }), translate.ErrMalformed, "size -1"},
		"other header":     {with(func(e []splitEntry) { e[0].Payload = bytes.Clone(e[0].Payload); e[0].Payload[0] = 'T' }), translate.ErrMalformed, "layer 2 of 2"},
		"name that climbs": {with(func(e []splitEntry) { e[1].NameRaw = []byte("../../../overlay-images/images.json") }), ErrNotFound, "layer 2 of 2"},
		"layer missing": {func(t *testing.T, dir string) {
			must(t, os.WriteFile(dir+"/overlay-layers/layers.json", []byte(`[{"id":"layertwo","parent":"x"}]`), 0o644))
		}, ErrNotFound, `layer "x"`},
		"layers in a circle": {func(t *testing.T, dir string) {
			must(t, os.WriteFile(dir+"/overlay-layers/layers.json", []byte(`[{"id":"layertwo","parent":"layertwo"}]`), 0o644))
		}, ErrNotFound, `layer "layertwo"`},
		"layers no JSON": {func(t *testing.T, dir string) {
			must(t, os.WriteFile(dir+"/overlay-layers/layers.json", []byte(`{`), 0o644))
		}, translate.ErrMalformed, "layers.json"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := testStorage(t, "overlay")
			c.spoil(t, dir)
			_, err := names(t, "containers-storage:team/two", Options{Storage: dir})
			if err == nil || c.is != nil && !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("error %v is not %v or does not say %q", err, c.is, c.says)
			}
		})
	}
}

// FuzzSplitTar reads anything as the record of an archive: it ends, and what was whole
// comes out whole.
func FuzzSplitTar(f *testing.F) {
	raw := oneFileTar(f, "two", "content of two")
	entries, _ := splitEntries(f, raw)
	f.Add(record(f, entries))
	f.Add(gzipped(f, []byte(`{"type":1,"name":"two","size":9}`)))
	dir := f.TempDir()
	must(f, os.WriteFile(dir+"/two", []byte("content of two"), 0o644))
	f.Fuzz(func(t *testing.T, b []byte) {
		root, err := os.OpenRoot(dir)
		must(t, err)
		s := newSplitTar(io.NopCloser(bytes.NewReader(b)), root)
		got, err := io.ReadAll(io.LimitReader(s, 1<<20))
		if bytes.Equal(b, record(t, entries)) && (err != nil || !bytes.Equal(got, raw)) {
			t.Errorf("%v, %d bytes of %d", err, len(got), len(raw))
		}
		must(t, s.Close())
	})
}

func zstandard(t testing.TB, b []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	must(t, err)
	defer w.Close()
	return w.EncodeAll(b, nil)
}

func TestOpenTarball(t *testing.T) {
	raw := tarFiles(t, map[string]string{"f": "content", "d/.wh.x": "a name", ".wh..wh..opq": "another"})
	for name, b := range map[string][]byte{"plain": raw, "gzip": gzipped(t, raw), "zstd": zstandard(t, raw)} {
		file := filepath.Join(t.TempDir(), "t:ar") // the name has no further parts
		must(t, os.WriteFile(file, b, 0o644))
		got, err := names(t, "tar:"+file, Options{Platform: "linux/arm64"})
		if err != nil || !slices.Equal(got, []string{".wh..wh..opq", "d", ".wh.x", "f"}) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	file := filepath.Join(t.TempDir(), "a")
	for name, c := range map[string]struct {
		b  []byte
		is error
	}{
		"cut":      {raw[:700], translate.ErrMalformed},
		"no end":   {raw[:len(raw)-1024], translate.ErrMalformed},
		"gzip cut": {gzipped(t, raw)[:60], translate.ErrMalformed},
		"garbage":  {append(bytes.Clone(raw), "garbage"...), translate.ErrMalformed},
		"no tar":   {[]byte(strings.Repeat("text", 500)), translate.ErrMalformed},
		"xz":       {[]byte("\xfd7zXZ"), translate.ErrUnsupported},
	} {
		must(t, os.WriteFile(file, c.b, 0o644))
		if _, err := names(t, "tar:"+file, Options{}); !errors.Is(err, c.is) {
			t.Errorf("%s: error %v", name, err)
		}
	}
	for ref, is := range map[string]error{"tar:" + file + "/none": nil, "tar:" + t.TempDir(): ErrReference, "tar:" + t.TempDir() + "/none": ErrNotFound} {
		if _, err := names(t, ref, Options{}); err == nil || is != nil && !errors.Is(err, is) {
			t.Errorf("%s: error %v", ref, err)
		}
	}
}

// storedLikeLayout has skopeo store an image of a layout as podman does, and fails the
// test unless it is the same there.
func storedLikeLayout(t *testing.T, layout, tag string) {
	t.Helper()
	testutil.Need(t, "skopeo")
	want := mergedNodes(t, "oci:"+layout+":"+tag)
	for _, driver := range []string{"vfs", "overlay"} {
		dir := t.TempDir()
		t.Cleanup(func() { _ = unix.Unmount(dir+"/root/overlay", unix.MNT_DETACH) }) // by overlay alone
		ref := "containers-storage:[" + driver + "@" + dir + "/root+" + dir + "/run]localhost/app:" + tag
		run(t, "skopeo", "copy", "-q", "oci:"+layout+":"+tag, ref)
		if got := mergedNodes(t, ref); fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", want) {
			t.Errorf("%s: another tree in the storage", driver)
		}
	}
}
