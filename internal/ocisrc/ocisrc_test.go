package ocisrc

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/ociv2-sync/ociv2-sync/internal/testutil"
	"github.com/ociv2-sync/ociv2-sync/translate"
)

// oneFileTar is a layer that holds one file.
func oneFileTar(t testing.TB, name, body string) []byte {
	t.Helper()
	return tarFiles(t, map[string]string{name: body})
}

// tarFiles writes an archive; a body that starts with "-> " makes a symlink.
func tarFiles(t testing.TB, files map[string]string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, body := range files {
		h := tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(body))}
		if target, ok := strings.CutPrefix(body, "-> "); ok {
			h.Typeflag, h.Linkname, h.Size, body = tar.TypeSymlink, target, 0, ""
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(body)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func gzipped(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func encode(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// testLayout is an OCI layout in the making.
type testLayout struct {
	files map[string]string
	index ocispec.Index
}

func newLayout() *testLayout {
	return &testLayout{map[string]string{"oci-layout": `{"imageLayoutVersion":"1.0.0"}`}, ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}}}
}

func (l *testLayout) blob(mediaType string, b []byte) ocispec.Descriptor {
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	l.files["blobs/sha256/"+d.Digest.Encoded()] = string(b)
	return d
}

// image adds an image for arch with one layer that holds the file called name.
func (l *testLayout) image(t testing.TB, arch, name string) ocispec.Descriptor {
	t.Helper()
	raw := oneFileTar(t, name, "content of "+name)
	p := ocispec.Platform{OS: "linux", Architecture: arch}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	m.Config = l.blob(ocispec.MediaTypeImageConfig, encode(t, ocispec.Image{Platform: p, RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(raw)}}}))
	m.Layers = []ocispec.Descriptor{l.blob(ocispec.MediaTypeImageLayerGzip, gzipped(t, raw))}
	d := l.blob(m.MediaType, encode(t, m))
	d.Platform = &p
	return d
}

func (l *testLayout) tag(name string, d ocispec.Descriptor) {
	d.Annotations = map[string]string{ocispec.AnnotationRefName: name}
	l.index.Manifests = append(l.index.Manifests, d)
}

// write writes the layout to a new directory.
func (l *testLayout) write(t testing.TB) string {
	t.Helper()
	if _, ok := l.files["index.json"]; !ok {
		l.files["index.json"] = string(encode(t, l.index))
	}
	dir := t.TempDir()
	for name, body := range l.files {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(body), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// writeTar writes files as an archive and returns its name.
func writeTar(t testing.TB, files map[string]string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "archive.tar")
	if err := os.WriteFile(name, tarFiles(t, files), 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

// names opens ref and returns the names of the nodes below the root.
func names(t testing.TB, ref string, opts Options) ([]string, error) {
	t.Helper()
	img, err := Open(t.Context(), ref, opts)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err := img.Close(); err != nil {
			t.Error(err)
		}
	}()
	s, err := translate.Merge(t.Context(), img, translate.MergeOptions{TempDir: t.TempDir()})
	if err != nil {
		return nil, err
	}
	defer s.Close()
	var list []string
	for _, n := range s.Nodes[1:] {
		list = append(list, n.Name)
	}
	return list, nil
}

func TestOpenLayout(t *testing.T) {
	single := newLayout()
	single.tag("v1", single.image(t, "amd64", "only"))

	many := newLayout()
	many.tag("v1", many.image(t, "amd64", "one"))
	many.tag("v2", many.image(t, "s390x", "two"))
	index := ocispec.Index{Manifests: []ocispec.Descriptor{many.image(t, "amd64", "for-amd64"), many.image(t, "arm64", "for-arm64")}}
	inner := many.blob(ocispec.MediaTypeImageIndex, encode(t, index))
	many.tag("multi", many.blob(ocispec.MediaTypeImageIndex, encode(t, ocispec.Index{Manifests: []ocispec.Descriptor{inner}})))
	many.tag("twice", many.image(t, "amd64", "for-amd64"))
	many.tag("twice", many.image(t, "arm64", "for-arm64"))
	pinned := many.index.Manifests[1].Digest.String()

	singleDir, manyDir := single.write(t), many.write(t)
	for _, tc := range []struct {
		ref, platform string
		want          string
		is            error
		says          string
	}{
		{ref: "oci:" + singleDir, want: "only"},
		{ref: "oci:" + singleDir + ":v1", want: "only"},
		{ref: "oci:" + singleDir, platform: "linux/arm64", is: ErrNotFound, says: "for linux/amd64, not linux/arm64"},
		{ref: "oci-archive:" + writeTar(t, single.files), want: "only"},
		{ref: "oci-archive:" + writeTar(t, single.files) + ":v1", want: "only"},
		{ref: "oci:" + manyDir + ":v2", want: "two"},
		{ref: "oci:" + manyDir + ":" + pinned, want: "two"},
		{ref: "oci:" + manyDir + ":multi", platform: "linux/arm64", want: "for-arm64"},
		{ref: "oci:" + manyDir + ":twice", platform: "linux/arm64", want: "for-arm64"},
		{ref: "oci:" + manyDir + ":multi", platform: "linux/riscv64", is: ErrNotFound, says: "linux/riscv64, only for [linux/amd64, linux/arm64]"},
		{ref: "oci:" + manyDir, is: ErrReference, says: `which of "v1", "v2"`},
		{ref: "oci:" + manyDir + ":v9", is: ErrNotFound, says: `no image "v9", only "v1"`},
		{ref: "oci:" + manyDir + ":", is: ErrReference},
		{ref: "oci:", is: ErrReference},
		{ref: "oci", is: ErrReference},
		{ref: "ocy:" + manyDir, is: ErrReference, says: `no transport "ocy"`},
		{ref: "oci:" + singleDir, platform: "linux", is: ErrReference, says: "platform"},
		{ref: "oci:" + manyDir + "/none", is: ErrNotFound},
		{ref: "oci:" + t.TempDir(), is: ErrNotFound, says: "not an OCI layout"},
		{ref: "oci-archive:" + manyDir + "/none", is: ErrNotFound},
	} {
		got, err := names(t, tc.ref, Options{Platform: tc.platform})
		if tc.is != nil {
			if !errors.Is(err, tc.is) || !strings.Contains(fmt.Sprint(err), tc.says) {
				t.Errorf("%s: error %v is not %q or does not say %q", tc.ref, err, tc.is, tc.says)
			}
			continue
		}
		if err != nil || !slices.Equal(got, []string{tc.want}) {
			t.Errorf("%s: got %v, %v, want %s", tc.ref, got, err, tc.want)
		}
	}
}

func TestOpenLayoutRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		spoil func(t *testing.T, l *testLayout)
		is    error
		says  string
	}{
		"index of garbage":        {func(_ *testing.T, l *testLayout) { l.files["index.json"] = "{" }, translate.ErrMalformed, "index.json"},
		"index too big":           {func(_ *testing.T, l *testLayout) { l.files["index.json"] = strings.Repeat(" ", maxDocument+1) }, translate.ErrLimit, "index.json"},
		"empty index":             {func(_ *testing.T, l *testLayout) { l.files["index.json"] = "{}" }, ErrNotFound, "no image"},
		"other version":           {func(_ *testing.T, l *testLayout) { l.files["oci-layout"] = `{"imageLayoutVersion":"2.0.0"}` }, translate.ErrUnsupported, "2.0.0"},
		"manifest missing":        {func(_ *testing.T, l *testLayout) { delete(l.files, blobName(l.index.Manifests[0])) }, ErrNotFound, "manifest sha256:"},
		"manifest flipped":        {func(_ *testing.T, l *testLayout) { l.flip(l.index.Manifests[0]) }, translate.ErrMismatch, "manifest sha256:"},
		"manifest of other size":  {func(_ *testing.T, l *testLayout) { l.index.Manifests[0].Size++ }, translate.ErrMismatch, "manifest sha256:"},
		"manifest too big":        {func(_ *testing.T, l *testLayout) { l.index.Manifests[0].Size = 1 << 60 }, translate.ErrLimit, "manifest sha256:"},
		"manifest digest invalid": {func(_ *testing.T, l *testLayout) { l.index.Manifests[0].Digest = "sha256:../../x" }, translate.ErrMalformed, "manifest"},
		"manifest no JSON": {func(_ *testing.T, l *testLayout) {
			l.index.Manifests[0] = l.blob(ocispec.MediaTypeImageManifest, []byte("no"))
		}, translate.ErrMalformed, "manifest sha256:"},
		"no manifest": {func(_ *testing.T, l *testLayout) { l.index.Manifests[0].MediaType = "text/plain" }, translate.ErrUnsupported, "text/plain"},
		"an artifact": {func(t *testing.T, l *testLayout) {
			l.index.Manifests[0] = l.blob(ocispec.MediaTypeImageManifest, encode(t, ocispec.Manifest{Config: l.blob(ocispec.MediaTypeEmptyJSON, []byte("{}"))}))
		}, translate.ErrUnsupported, "it is no image"},
		"config missing": {func(t *testing.T, l *testLayout) { delete(l.files, blobName(l.manifest(t).Config)) }, ErrNotFound, "config sha256:"},
		"layer missing":  {func(t *testing.T, l *testLayout) { delete(l.files, blobName(l.manifest(t).Layers[0])) }, ErrNotFound, "layer 1 of 1"},
		"layer flipped":  {func(t *testing.T, l *testLayout) { l.flip(l.manifest(t).Layers[0]) }, translate.ErrMismatch, "layer 1 of 1"},
		"nested too deep": {func(t *testing.T, l *testLayout) {
			for range maxNesting + 1 {
				l.index.Manifests[0] = l.blob(ocispec.MediaTypeImageIndex, encode(t, ocispec.Index{Manifests: l.index.Manifests}))
			}
		}, translate.ErrMalformed, "nested"},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLayout()
			l.tag("v1", l.image(t, "amd64", "a"))
			tc.spoil(t, l)
			_, err := names(t, "oci:"+l.write(t), Options{})
			if !errors.Is(err, tc.is) || !strings.Contains(fmt.Sprint(err), tc.says) || strings.Contains(fmt.Sprint(err), "\n") {
				t.Errorf("%v\nis not %q or does not say %q on one line", err, tc.is, tc.says)
			}
		})
	}
}

func blobName(d ocispec.Descriptor) string { return "blobs/sha256/" + d.Digest.Encoded() }

func (l *testLayout) flip(d ocispec.Descriptor) {
	b := []byte(l.files[blobName(d)])
	b[len(b)/2] ^= 1
	l.files[blobName(d)] = string(b)
}

func (l *testLayout) manifest(t testing.TB) (m ocispec.Manifest) {
	t.Helper()
	if err := json.Unmarshal([]byte(l.files[blobName(l.index.Manifests[0])]), &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// A layout's blobs may not be links to elsewhere.
// Indexes may lead to indexes, but not on and on: neither in depth, nor by listing each
// other so often that no one could read them all.
func TestNestedIndexes(t *testing.T) {
	nest := func(levels, times int) string {
		l := newLayout()
		l.tag("v1", l.image(t, "amd64", "one"))
		for range levels {
			l.index.Manifests[0] = l.blob(ocispec.MediaTypeImageIndex, encode(t, ocispec.Index{Manifests: slices.Repeat(l.index.Manifests, times)}))
		}
		l.tag("v1", l.index.Manifests[0])
		l.index.Manifests = l.index.Manifests[1:]
		return "oci:" + l.write(t) + ":v1"
	}
	got, err := Platforms(t.Context(), nest(maxNesting-1, 1000), Options{})
	if err != nil || !slices.Equal(got, []string{"linux/amd64"}) {
		t.Errorf("%v, %v", got, err)
	}
	deep := nest(maxNesting+1, 1)
	if _, err := Platforms(t.Context(), deep, Options{}); !errors.Is(err, translate.ErrMalformed) || !strings.Contains(err.Error(), "nested indexes") {
		t.Errorf("error %v", err)
	}
	if _, err := Open(t.Context(), deep, Options{}); !errors.Is(err, translate.ErrMalformed) || !strings.Contains(err.Error(), "nested indexes") {
		t.Errorf("error %v", err)
	}
	// One that names itself is not what its digest says.
	self := newLayout()
	self.tag("v1", ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex})
	d := &self.index.Manifests[0]
	loop := encode(t, ocispec.Index{Manifests: []ocispec.Descriptor{{MediaType: d.MediaType, Digest: digest.FromString("loop"), Size: 300}}})
	d.Digest, d.Size = digest.FromString("loop"), int64(len(loop))
	self.files[blobName(*d)] = string(loop)
	if _, err := Platforms(t.Context(), "oci:"+self.write(t)+":v1", Options{}); !errors.Is(err, translate.ErrMismatch) {
		t.Errorf("error %v", err)
	}
}

func TestOpenLayoutStaysInside(t *testing.T) {
	l := newLayout()
	l.tag("v1", l.image(t, "amd64", "a"))
	dir := l.write(t)
	blob := filepath.Join(dir, blobName(l.manifest(t).Config))
	outside := filepath.Join(t.TempDir(), "config")
	if err := os.Rename(blob, outside); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, blob); err != nil {
		t.Fatal(err)
	}
	if _, err := names(t, "oci:"+dir, Options{}); err == nil {
		t.Error("read a config from outside the layout")
	}
}

// A layout's blobs that are no files are refused, not waited for.
func TestOpenLayoutRefusesFIFO(t *testing.T) {
	l := newLayout()
	l.tag("v1", l.image(t, "amd64", "a"))
	dir := l.write(t)
	blob := filepath.Join(dir, blobName(l.manifest(t).Layers[0]))
	if err := os.Remove(blob); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(blob, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := names(t, "oci:"+dir, Options{}); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Error(err)
	}
}

// dockerFiles is an archive of docker save with two images, as Docker wrote them
// until 24 (old: the second image's layer is a symlink to the first's) or later.
func dockerFiles(t testing.TB, old bool) map[string]string {
	t.Helper()
	files := map[string]string{}
	var list []map[string]any
	for i, tags := range [][]string{{"example.org/a:1", "a:latest"}, nil} {
		raw := oneFileTar(t, "shared", "x")
		layers := []string{string(raw)}
		ids := []digest.Digest{digest.FromBytes(raw)}
		if i == 1 {
			raw := oneFileTar(t, "second", "y")
			layers = append(layers, string(gzipped(t, raw)))
			ids = append(ids, digest.FromBytes(raw))
		}
		config := encode(t, ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"}, RootFS: ocispec.RootFS{Type: "layers", DiffIDs: ids}})
		name := digest.FromBytes(config).Encoded()
		m := map[string]any{"RepoTags": tags}
		var layerNames []string
		for j, l := range layers {
			n := blobName(ocispec.Descriptor{Digest: digest.FromString(l)})
			if old {
				n = fmt.Sprintf("%d%d/layer.tar", i, j)
			}
			if old && i == 1 && j == 0 {
				l = "-> ../00/layer.tar"
			}
			layerNames = append(layerNames, n)
			files[n] = l
		}
		m["Layers"], m["Config"] = layerNames, "blobs/sha256/"+name
		if old {
			m["Config"] = name + ".json"
		}
		files[m["Config"].(string)] = string(config)
		list = append(list, m)
	}
	files["manifest.json"] = string(encode(t, list))
	return files
}

func TestOpenDockerArchive(t *testing.T) {
	for _, old := range []bool{true, false} {
		ref := "docker-archive:" + writeTar(t, dockerFiles(t, old))
		for _, tc := range []struct {
			tag  string
			want []string
			is   error
		}{
			{":example.org/a:1", []string{"shared"}, nil},
			{":a", []string{"shared"}, nil},
			{":docker.io/library/a:latest", []string{"shared"}, nil},
			{":@0", []string{"shared"}, nil},
			{":@1", []string{"second", "shared"}, nil},
			{":@2", nil, ErrNotFound},
			{":@x", nil, ErrReference},
			{":a:2", nil, ErrNotFound},
			{"", nil, ErrReference},
		} {
			got, err := names(t, ref+tc.tag, Options{})
			if !errors.Is(err, tc.is) || !slices.Equal(got, tc.want) {
				t.Errorf("old %t, %s: %v, %v", old, tc.tag, got, err)
			}
		}
	}
}

func TestOpenDockerArchiveRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		spoil func(files map[string]string)
		is    error
		says  string
	}{
		"no manifest.json":           {func(f map[string]string) { delete(f, "manifest.json") }, ErrNotFound, "not an archive of docker save"},
		"manifest.json of garbage":   {func(f map[string]string) { f["manifest.json"] = "[" }, translate.ErrMalformed, "manifest.json"},
		"no image":                   {func(f map[string]string) { f["manifest.json"] = "[]" }, ErrNotFound, "no image"},
		"layer missing":              {func(f map[string]string) { delete(f, "00/layer.tar") }, ErrNotFound, "00/layer.tar"},
		"layer is a link to itself":  {func(f map[string]string) { f["00/layer.tar"] = "-> layer.tar" }, translate.ErrMalformed, "too many links"},
		"layer is a link to outside": {func(f map[string]string) { f["00/layer.tar"] = "-> /etc/passwd" }, ErrNotFound, "00/layer.tar"},
		"layer of xz":                {func(f map[string]string) { f["00/layer.tar"] = "\xfd7zXZ" }, translate.ErrUnsupported, "xz"},
		"layer empty":                {func(f map[string]string) { f["00/layer.tar"] = "" }, translate.ErrMismatch, "layer 1 of 1"},
		"other layer":                {func(f map[string]string) { f["00/layer.tar"] = strings.Replace(f["00/layer.tar"], "x", "z", 1) }, translate.ErrMismatch, "layer 1 of 1"},
		"config changed": {func(f map[string]string) {
			for n := range f {
				if strings.HasSuffix(n, ".json") && n != "manifest.json" {
					f[n] += " "
				}
			}
		}, translate.ErrMismatch, "config"},
	} {
		t.Run(name, func(t *testing.T) {
			files := dockerFiles(t, true)
			tc.spoil(files)
			ref := "docker-archive:" + writeTar(t, files)
			if name != "no image" {
				ref += ":@0"
			}
			_, err := names(t, ref, Options{})
			if !errors.Is(err, tc.is) || !strings.Contains(fmt.Sprint(err), tc.says) || strings.Contains(fmt.Sprint(err), "\n") {
				t.Errorf("%v\nis not %q or does not say %q on one line", err, tc.is, tc.says)
			}
		})
	}
	for name, b := range map[string][]byte{"compressed": gzipped(t, []byte("x")), "cut": tarFiles(t, dockerFiles(t, true))[:2000]} {
		archive := filepath.Join(t.TempDir(), "a.tar")
		if err := os.WriteFile(archive, b, 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := names(t, "docker-archive:"+archive+":@0", Options{}); err == nil {
			t.Errorf("%s archive: no error", name)
		}
	}
}

// TestOpenWhatOtherToolsWrite opens an image that umoci made and skopeo copied.
func TestOpenWhatOtherToolsWrite(t *testing.T) {
	testutil.Need(t, "umoci", "skopeo")
	dir := t.TempDir()
	layout, src := filepath.Join(dir, "layout"), filepath.Join(dir, "src")
	for _, d := range []string{src, filepath.Join(dir, "more")} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 20 {
		if err := os.WriteFile(filepath.Join(src, fmt.Sprint("file", i)), bytes.Repeat([]byte{byte(i)}, i*1000), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	run(t, "umoci", "init", "--layout", layout)
	run(t, "umoci", "new", "--image", layout+":v1")
	run(t, "umoci", "insert", "--image", layout+":v1", src, "/")
	run(t, "umoci", "insert", "--image", layout+":v1", filepath.Join(dir, "more"), "/more")
	run(t, "umoci", "insert", "--image", layout+":v1", "--whiteout", "/more")
	run(t, "skopeo", "copy", "oci:"+layout+":v1", "oci-archive:"+dir+"/oci.tar:v1")
	run(t, "skopeo", "copy", "oci:"+layout+":v1", "docker-archive:"+dir+"/docker.tar:a/b:v1")
	run(t, "skopeo", "copy", "oci:"+layout+":v1", "oci:"+dir+"/zstd:v1", "--dest-compress-format=zstd", "--dest-compress")

	want, err := names(t, "oci:"+layout+":v1", Options{})
	if err != nil || len(want) < 10 || slices.Contains(want, "more") {
		t.Fatal(want, err)
	}
	for _, ref := range []string{"oci-archive:" + dir + "/oci.tar", "docker-archive:" + dir + "/docker.tar:a/b:v1", "oci:" + dir + "/zstd:v1"} {
		got, err := names(t, ref, Options{})
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %d nodes, not %d: %v", ref, len(got), len(want), err)
		}
	}
}

func TestTarFSReads(t *testing.T) {
	archive, err := openTar(t.Context(), writeTar(t, map[string]string{"./a": "1", "d/b": "-> ../a", "../x": "no"}))
	if err != nil {
		t.Fatal(err)
	}
	defer archive.Close()
	for name, want := range map[string]string{"a": "1", "d/b": "1"} {
		if b, err := fs.ReadFile(archive, name); err != nil || string(b) != want {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
	if _, err := archive.Open("../x"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}
