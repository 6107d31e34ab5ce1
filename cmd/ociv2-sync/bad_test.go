package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/internal/testutil"
)

// fault is something wrong with the bytes of an object.
type fault struct {
	name   string
	change func(b, other []byte) []byte // other is the same object of another image
	code   int                          // when an object that is named by a digest has it
}

var faults = []fault{
	{"missing", func(_, _ []byte) []byte { return nil }, exitNotFound},
	{"empty", func(_, _ []byte) []byte { return []byte{} }, exitCorrupt},
	{"cut", func(b, _ []byte) []byte { return b[:len(b)/2] }, exitCorrupt},
	{"one byte short", func(b, _ []byte) []byte { return b[:len(b)-1] }, exitCorrupt},
	{"flipped", func(b, _ []byte) []byte { b[len(b)/2] ^= 0x10; return b }, exitCorrupt},
	{"longer", func(b, _ []byte) []byte { return append(b, 0) }, exitCorrupt},
	{"much longer", func(b, _ []byte) []byte { return append(b, make([]byte, 8<<20)...) }, exitCorrupt},
	{"swapped", func(_, other []byte) []byte { return other }, exitCorrupt},
	{"garbage", func(b, _ []byte) []byte { return bytes.Repeat([]byte{0xff, 'x', 0, '"'}, len(b)/4+1)[:len(b)] }, exitCorrupt},
}

// lab is a repository with three images of the same name: old, which the device
// has; new, which is tampered with; and other, whose files have the sizes of
// those of new and other bytes.
type lab struct {
	t    *testing.T
	repo string
	*device
	dest string // a directory with something in it, to be replaced

	localCode int  // the exit code for a repository in a directory, if it differs
	localOnly bool // over HTTP it is none of our business
}

func newLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{t: t, repo: filepath.Join(t.TempDir(), "repo"), device: newDevice(t), dest: filepath.Join(t.TempDir(), "dest")}
	for i, tag := range []string{"old", "new", "other"} {
		tree := filepath.Join(t.TempDir(), "tree")
		must(t, os.Mkdir(tree, 0o755))
		for k := range 4 {
			writeNoise(t, filepath.Join(tree, fmt.Sprint("file", k)), uint64(10*i+k), 150_000)
		}
		setTime(t, tree)
		l.must("push", "--deltas=0", "rootfs:"+tree, l.repo+"/app:"+tag)
	}
	l.must("pull", l.repo+"/app:old")
	must(t, os.Mkdir(l.dest, 0o755))
	must(t, os.WriteFile(filepath.Join(l.dest, "precious"), []byte("keep me"), 0o600))
	return l
}

// manifestOf is as much of a manifest as a test changes.
type manifestOf map[string]any

func (m manifestOf) layer(i int) map[string]any { return m["layers"].([]any)[i].(map[string]any) }

// The layers of a manifest.
const (
	layerConfig = iota
	layerTOC
	layerIndex
	layerSizes
)

// tag reads TAG.json and the manifest in it.
func (l *lab) tag(name string) (tag map[string]any, m manifestOf) {
	l.t.Helper()
	b, err := os.ReadFile(l.repo + "/app/" + name + ".json")
	must(l.t, err)
	must(l.t, json.Unmarshal(b, &tag))
	desc := tag["manifests"].([]any)[0].(map[string]any)
	b, err = os.ReadFile(l.blob(desc["digest"].(string)))
	must(l.t, err)
	must(l.t, json.Unmarshal(b, &m))
	return tag, m
}

func (l *lab) blob(digest string) string {
	return l.repo + "/app/blobs/sha256/" + strings.TrimPrefix(digest, "sha256:")
}

func (l *lab) layerPath(tag string, i int) string {
	_, m := l.tag(tag)
	return l.blob(m.layer(i)["digest"].(string))
}

// put writes a blob and makes a descriptor name it.
func (l *lab) put(desc map[string]any, b []byte) {
	l.t.Helper()
	digest := fmt.Sprintf("sha256:%x", sha256.Sum256(b))
	must(l.t, os.WriteFile(l.blob(digest), b, 0o644))
	desc["digest"], desc["size"] = digest, len(b)
	delete(desc, "data")
}

// forge has change falsify the manifest of new, and publishes it as who owns the
// repository could.
func (l *lab) forge(change func(m manifestOf)) {
	l.t.Helper()
	tag, m := l.tag("new")
	change(m)
	b, err := json.Marshal(m)
	must(l.t, err)
	l.put(tag["manifests"].([]any)[0].(map[string]any), b)
	l.writeTag(tag)
}

func (l *lab) writeTag(tag any) {
	l.t.Helper()
	b, err := json.Marshal(tag)
	must(l.t, err)
	l.overwrite(l.repo+"/app/new.json", b)
}

// overwrite replaces a file, nil bytes remove it.
func (l *lab) overwrite(path string, b []byte) {
	l.t.Helper()
	must(l.t, os.Remove(path))
	if b != nil {
		must(l.t, os.WriteFile(path, b, 0o644))
	}
}

// restoring returns a function that puts the repository back.
func (l *lab) restoring() func() {
	l.t.Helper()
	safe := filepath.Join(l.t.TempDir(), "safe")
	cp := func(from, to string) {
		l.t.Helper()
		if out, err := exec.CommandContext(l.t.Context(), "cp", "-a", from, to).CombinedOutput(); err != nil {
			l.t.Fatalf("cp: %v\n%s", err, out)
		}
	}
	cp(l.repo, safe)
	return func() {
		must(l.t, os.RemoveAll(l.repo))
		cp(safe, l.repo)
	}
}

// refused pulls new into the root and over a directory, from the repository's
// path and over HTTP, and expects code, one line with the words, and everything
// as it was.
func (l *lab) refused(code int, words ...string) {
	l.t.Helper()
	var paths []string
	for _, dir := range []string{"images", "trees", "refs", "blobs"} {
		paths = append(paths, filepath.Join(l.root, dir))
	}
	check := unchanged(l.t, append(paths, l.dest)...)
	server := httptest.NewServer(http.FileServer(http.Dir(l.repo)))
	defer server.Close()
	for _, where := range []string{server.URL, l.repo} {
		if where == l.repo && l.localCode != 0 {
			code = l.localCode
		} else if where != l.repo && l.localOnly {
			continue
		}
		l.fails(code, words, "pull", "-q", where+"/app:new")
		l.fails(code, words, "pull", "-q", "--replace", where+"/app:new", "rootfs:"+l.dest)
	}
	check()
	for dir, want := range map[string]int{filepath.Dir(l.dest): 1, filepath.Join(l.root, "tmp"): 0} {
		entries, err := os.ReadDir(dir)
		must(l.t, err)
		if len(entries) != want {
			l.t.Errorf("left in %s: %v", dir, entries)
		}
	}
}

// TestDamagedObjects damages every object of an image in every way: the pull
// says which, and changes nothing.
func TestDamagedObjects(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	restore := l.restoring()
	chunkOf := func(tag string) string {
		// A chunk that this image alone has: those of other images are there already.
		var found string
		must(t, filepath.WalkDir(l.repo+"/default.castr", func(path string, e os.DirEntry, err error) error {
			if err == nil && !e.IsDir() && found == "" && l.only(path, tag) {
				found = path
			}
			return err
		}))
		return found
	}
	for _, object := range []struct {
		name        string
		path, other string
	}{
		{"manifest", "", ""},
		{"toc", l.layerPath("new", layerTOC), l.layerPath("other", layerTOC)},
		{"index", l.layerPath("new", layerIndex), l.layerPath("other", layerIndex)},
		{"sizes", l.layerPath("new", layerSizes), l.layerPath("other", layerSizes)},
		{"chunk", chunkOf("new"), chunkOf("other")},
		{"TAG.json", l.repo + "/app/new.json", l.repo + "/app/other.json"},
	} {
		for _, f := range faults {
			if object.name == "TAG.json" && f.name == "swapped" {
				continue // that is the other image, whole
			}
			t.Run(object.name+" "+f.name, func(t *testing.T) {
				defer restore()
				at := &lab{t: t, repo: l.repo, device: &device{t: t, root: l.root}, dest: l.dest}
				path, code := object.path, f.code
				if object.name == "manifest" {
					// Embedded in TAG.json it cannot be missing.
					tag, _ := at.tag("new")
					desc := tag["manifests"].([]any)[0].(map[string]any)
					path = at.blob(desc["digest"].(string))
					delete(desc, "data")
					at.writeTag(tag)
				}
				b, err := os.ReadFile(path)
				must(t, err)
				var other []byte
				if object.other != "" {
					other, err = os.ReadFile(object.other)
					must(t, err)
				} else {
					other = []byte(`{"schemaVersion":2}`)
				}
				at.overwrite(path, f.change(b, other))
				if object.name == "TAG.json" && (f.name == "longer" || f.name == "much longer") {
					code = exitCorrupt // zero bytes are no JSON
				}
				if object.name == "chunk" && f.name == "empty" {
					at.localCode = exitNotFound // what a crash left of a write is no chunk
				}
				name := strings.TrimSuffix(filepath.Base(path), ".cacnk")
				at.refused(code, name)
			})
		}
	}
}

// only reports whether a chunk holds bytes of one image's files alone: it is in
// that image's index and in no other.
func (l *lab) only(chunkPath, tag string) bool {
	id, err := chunk.ParseID(strings.TrimSuffix(filepath.Base(chunkPath), ".cacnk"))
	must(l.t, err)
	for _, other := range []string{"old", "new", "other"} {
		b, err := os.ReadFile(l.repo + "/app/" + other + ".caidx")
		must(l.t, err)
		if bytes.Contains(b, id[:]) != (other == tag) {
			return false
		}
	}
	return true
}

// TestForgedImages publishes images whose digests are right and whose parts
// contradict each other or reach for what is not theirs.
func TestForgedImages(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	restore := l.restoring()
	_, other := l.tag("other")
	read := func(path string) []byte {
		b, err := os.ReadFile(path)
		must(t, err)
		return b
	}
	annotate := func(name string, value any) func(manifestOf) {
		return func(m manifestOf) { m["annotations"].(map[string]any)["io.github.ociv2-sync."+name] = value }
	}
	bomb := func() []byte {
		w, err := zstd.NewWriter(nil)
		must(t, err)
		defer w.Close()
		return w.EncodeAll(make([]byte, 64<<20), nil)
	}
	for name, tt := range map[string]struct {
		forge func(l *lab, m manifestOf)
		code  int
		words []string
	}{
		"table of contents of another image": {func(_ *lab, m manifestOf) {
			m["layers"].([]any)[layerTOC] = other.layer(layerTOC)
		}, exitCorrupt, []string{"blobs/sha256/"}},
		"table of contents that is none":  {func(l *lab, m manifestOf) { l.put(m.layer(layerTOC), []byte("nothing of the kind")) }, exitCorrupt, []string{"blobs/sha256/"}},
		"table of contents that explodes": {func(l *lab, m manifestOf) { l.put(m.layer(layerTOC), bomb()) }, exitCorrupt, []string{"blobs/sha256/"}},
		"index of other bytes": {func(_ *lab, m manifestOf) {
			// The sizes agree, the chunks are good, and they make other files.
			m["layers"].([]any)[layerIndex], m["layers"].([]any)[layerSizes] = other.layer(layerIndex), other.layer(layerSizes)
		}, exitCorrupt, []string{"file0", "table of contents"}},
		"index with a chunk less": {func(l *lab, m manifestOf) {
			b := read(l.layerPath("new", layerIndex))
			l.put(m.layer(layerIndex), append(b[:len(b)-80:len(b)-80], b[len(b)-40:]...))
		}, exitCorrupt, []string{"blobs/sha256/"}},
		"index that is none":     {func(l *lab, m manifestOf) { l.put(m.layer(layerIndex), []byte("no index")) }, exitCorrupt, []string{"blobs/sha256/"}},
		"sizes of another":       {func(l *lab, m manifestOf) { l.put(m.layer(layerSizes), bomb()) }, exitCorrupt, []string{"blobs/sha256/"}},
		"sizes that are none":    {func(l *lab, m manifestOf) { l.put(m.layer(layerSizes), []byte("??")) }, exitCorrupt, []string{"blobs/sha256/"}},
		"archive size":           {func(_ *lab, m manifestOf) { annotate("catar.size", "12")(m) }, exitCorrupt, []string{"12"}},
		"archive size no number": {func(_ *lab, m manifestOf) { annotate("catar.size", "big")(m) }, exitCorrupt, []string{"catar.size"}},
		"archive flags":          {func(_ *lab, m manifestOf) { annotate("catar.flags", "0x1")(m) }, exitCorrupt, []string{"feature flags"}},
		"contents size":          {func(_ *lab, m manifestOf) { annotate("toc.size", "99999999999999999")(m) }, exitCorrupt, []string{"size of the table of contents"}},
		"contents digest":        {func(_ *lab, m manifestOf) { annotate("toc.digest", "sha256:0")(m) }, exitCorrupt, []string{"toc.digest"}},
		"no annotations":         {func(_ *lab, m manifestOf) { delete(m, "annotations") }, exitCorrupt, []string{"annotation"}},
		"no layers":              {func(_ *lab, m manifestOf) { m["layers"] = []any{} }, exitCorrupt, []string{"manifest"}},
		"another artifact":       {func(_ *lab, m manifestOf) { m["artifactType"] = "application/x" }, exitCorrupt, []string{"manifest"}},
		"size below zero":        {func(_ *lab, m manifestOf) { m.layer(layerTOC)["size"] = -1 }, exitCorrupt, []string{"manifest", "-1"}},
		"size beyond all":        {func(_ *lab, m manifestOf) { m.layer(layerIndex)["size"] = int64(1) << 60 }, exitCorrupt, []string{"manifest"}},
		"digest of another kind": {func(_ *lab, m manifestOf) { m.layer(layerTOC)["digest"] = "md5:d41d8cd98f00b204e9800998ecf8427e" }, exitCorrupt, []string{"manifest"}},
		"digest with a path":     {func(_ *lab, m manifestOf) { m.layer(layerTOC)["digest"] = "sha256:../../../../etc/passwd" }, exitCorrupt, []string{"manifest"}},
		"control characters":     {func(_ *lab, m manifestOf) { m["artifactType"] = "\x1b[2J\nociv2-sync: all is well" }, exitCorrupt, []string{"manifest"}},
		"chunks elsewhere":       {func(_ *lab, m manifestOf) { annotate("store", "../../../elsewhere.castr/")(m) }, exitCorrupt, []string{"--allow-store"}},
		"chunks of a stranger":   {func(_ *lab, m manifestOf) { annotate("store", "http://stranger.invalid/x.castr/")(m) }, exitCorrupt, []string{"stranger.invalid"}},
		"chunks in a file":       {func(_ *lab, m manifestOf) { annotate("store", "file:///etc/")(m) }, exitCorrupt, []string{"file"}},
		"chunks by ssh":          {func(_ *lab, m manifestOf) { annotate("store", "ssh://-oProxyCommand=true/x")(m) }, exitCorrupt, []string{"store"}},
		"no chunk store":         {func(_ *lab, m manifestOf) { annotate("store", "")(m) }, exitCorrupt, []string{"store"}},
	} {
		t.Run(name, func(t *testing.T) {
			defer restore()
			at := &lab{t: t, repo: l.repo, device: &device{t: t, root: l.root}, dest: l.dest}
			at.localOnly = name == "chunks elsewhere" // above the top of a URL is its top
			at.forge(func(m manifestOf) { tt.forge(at, m) })
			at.refused(tt.code, tt.words...)
		})
	}
}

// TestForgedTags has TAG.json say what it must not.
func TestForgedTags(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	restore := l.restoring()
	good, _ := l.tag("new")
	desc := func(tag map[string]any) map[string]any { return tag["manifests"].([]any)[0].(map[string]any) }
	for name, content := range map[string]any{
		"null": nil, "a number": 7, "a list": []any{}, "an object": map[string]any{},
		"deep":         []byte(strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000)),
		"huge":         strings.Repeat("x", 17<<20),
		"no manifests": map[string]any{"schemaVersion": 2, "mediaType": good["mediaType"], "annotations": good["annotations"]},
		"twice": func(tag map[string]any) {
			tag["manifests"] = append(tag["manifests"].([]any), desc(tag))
		},
		"schema":         func(tag map[string]any) { tag["schemaVersion"] = 1 },
		"serial":         func(tag map[string]any) { tag["annotations"] = map[string]any{} },
		"negative size":  func(tag map[string]any) { desc(tag)["size"] = -5 },
		"endless size":   func(tag map[string]any) { desc(tag)["size"] = int64(1) << 62 },
		"other size":     func(tag map[string]any) { desc(tag)["size"] = 12 },
		"no digest":      func(tag map[string]any) { desc(tag)["digest"] = "" },
		"a path":         func(tag map[string]any) { desc(tag)["digest"] = "sha256:../../../../../../../../../../etc/shadow" },
		"wrong data":     func(tag map[string]any) { desc(tag)["data"] = []byte("something else") },
		"data no base64": func(tag map[string]any) { desc(tag)["data"] = "%%%" },
		"a layer":        func(tag map[string]any) { desc(tag)["mediaType"] = "application/vnd.oci.image.layer.v1.tar" },
	} {
		t.Run(name, func(t *testing.T) {
			defer restore()
			at := &lab{t: t, repo: l.repo, device: &device{t: t, root: l.root}, dest: l.dest}
			if change, ok := content.(func(map[string]any)); ok {
				tag, _ := at.tag("new")
				change(tag)
				content = tag
			}
			if raw, ok := content.([]byte); ok {
				at.overwrite(at.repo+"/app/new.json", raw)
			} else {
				at.writeTag(content)
			}
			at.refused(exitCorrupt, "app/new.json")
		})
	}
}

// TestDamagedCatalog has the one other file of a repository that is read be wrong.
func TestDamagedCatalog(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	for name, content := range map[string]string{
		"empty": "", "null": "null", "cut": `{"schemaVersion":1,"images":[`, "garbage": "\xff\x00",
		"a path":  `{"schemaVersion":1,"images":[{"name":"../x","tags":["1"]}]}`,
		"a tag":   `{"schemaVersion":1,"images":[{"name":"x","tags":["../1"]}]}`,
		"control": `{"schemaVersion":1,"images":[{"name":"\u001b[2J","tags":["1"]}]}`,
	} {
		t.Run(name, func(t *testing.T) {
			l.overwrite(l.repo+"/catalog.json", []byte(content))
			(&device{t: t, root: l.root}).fails(exitCorrupt, []string{"catalog.json"}, "images", l.repo)
		})
	}
}

// TestDamagedSources pushes images whose layouts are damaged: nothing is
// published.
func TestDamagedSources(t *testing.T) {
	t.Parallel()
	files := plainTree()
	layers := [][]byte{layer(t, 0, files[:10]), layer(t, 0, files[10:])}
	good := filepath.Join(t.TempDir(), "good")
	layout(t, good, layers...)
	d := newDevice(t)
	repo := filepath.Join(t.TempDir(), "repo")
	d.must("push", "--deltas=0", "oci:"+good+":v1", repo+"/app:1")
	var index, manifest struct {
		Manifests, Layers []struct{ Digest string }
		Config            struct{ Digest string }
	}
	parse := func(path string, v any) string {
		b, err := os.ReadFile(path)
		must(t, err)
		must(t, json.Unmarshal(b, v))
		return path
	}
	parse(good+"/index.json", &index)
	blob := func(digest string) string { return "blobs/sha256/" + strings.TrimPrefix(digest, "sha256:") }
	manifestPath := blob(index.Manifests[0].Digest)
	parse(filepath.Join(good, manifestPath), &manifest)
	for _, object := range []struct{ name, path, other string }{
		{"index.json", "index.json", ""},
		{"manifest", manifestPath, ""},
		{"config", blob(manifest.Config.Digest), ""},
		{"first layer", blob(manifest.Layers[0].Digest), blob(manifest.Layers[1].Digest)},
		{"last layer", blob(manifest.Layers[1].Digest), blob(manifest.Layers[0].Digest)},
	} {
		for _, f := range faults {
			t.Run(object.name+" "+f.name, func(t *testing.T) {
				src := filepath.Join(t.TempDir(), "layout")
				must(t, os.CopyFS(src, os.DirFS(good)))
				path := filepath.Join(src, object.path)
				b, err := os.ReadFile(path)
				must(t, err)
				other := []byte("{}")
				if object.other != "" {
					other, err = os.ReadFile(filepath.Join(good, object.other))
					must(t, err)
				}
				must(t, os.Remove(path))
				if b = f.change(b, other); b != nil {
					must(t, os.WriteFile(path, b, 0o644))
				}
				check := unchanged(t, repo)
				code := f.code
				if object.name == "index.json" && f.name == "swapped" {
					code = exitNotFound // an empty index has no v1
				}
				word := filepath.Base(object.path)
				(&device{t: t, root: d.root}).fails(code, []string{word}, "push", "-q", "oci:"+src+":v1", repo+"/app:2")
				check()
			})
		}
	}
}

// TestDamagedArchives extracts archives, indexes and chunks that are damaged:
// nothing appears.
func TestDamagedArchives(t *testing.T) {
	dir := t.TempDir()
	tree := filepath.Join(dir, "tree")
	testutil.BuildTree(t, tree)
	d := newDevice(t)
	d.must("make", "-q", filepath.Join(dir, "a.catar"), tree)
	d.must("make", "-q", filepath.Join(dir, "a.caidx"), tree)
	writeNoise(t, filepath.Join(dir, "blob"), 1, 500_000)
	d.must("make", "-q", filepath.Join(dir, "b.caibx"), filepath.Join(dir, "blob"))
	index, err := os.ReadFile(filepath.Join(dir, "b.caibx"))
	must(t, err)
	id := fmt.Sprintf("%x", index[104+8+40:104+40+40]) // the second chunk
	other := fmt.Sprintf("%x", index[104+8:104+40])
	chunkPath := func(id string) string { return filepath.Join("default.castr", id[:4], id+".cacnk") }
	for _, object := range []struct{ name, path, other, input string }{
		{"archive", "a.catar", "b.caibx", "a.catar"},
		{"index", "a.caidx", "a.catar", "a.caidx"},
		{"blob index", "b.caibx", "blob", "b.caibx"},
		{"chunk", chunkPath(id), chunkPath(other), "b.caibx"},
	} {
		for _, f := range faults {
			t.Run(object.name+" "+f.name, func(t *testing.T) {
				path := filepath.Join(dir, object.path)
				good, err := os.ReadFile(path)
				must(t, err)
				defer func() {
					_ = os.Remove(path)
					must(t, os.WriteFile(path, good, 0o644))
				}()
				other, err := os.ReadFile(filepath.Join(dir, object.other))
				must(t, err)
				must(t, os.Remove(path))
				b := f.change(bytes.Clone(good), other)
				if f.name == "flipped" && object.name != "chunk" {
					// In what has a form: the bytes of files in an archive have no
					// checksum, and any bytes may be the id of a chunk.
					b = bytes.Clone(good)
					b[8] ^= 0x10
				}
				code := f.code
				if f.name == "empty" && object.name == "chunk" {
					code = exitNotFound // what a crash left of a write is no chunk
				}
				if b != nil {
					must(t, os.WriteFile(path, b, 0o644))
				}
				word := strings.TrimSuffix(filepath.Base(object.path), ".cacnk")
				out := filepath.Join(t.TempDir(), "out")
				(&device{t: t, root: d.root}).fails(code, []string{word}, "extract", "-q", filepath.Join(dir, object.input), out)
				entries, err := os.ReadDir(filepath.Dir(out))
				must(t, err)
				if len(entries) > 0 {
					t.Errorf("left behind: %v", entries)
				}
			})
		}
	}
}

// TestDamagedSourceArchives pushes archives of images that are damaged.
func TestDamagedSourceArchives(t *testing.T) {
	t.Parallel()
	src := filepath.Join(t.TempDir(), "layout")
	layout(t, src, layer(t, 0, plainTree()))
	archive := filepath.Join(t.TempDir(), "image.tar")
	if out, err := exec.CommandContext(t.Context(), testutil.Tool(t, "tar"), "-C", src, "-cf", archive, "index.json", "oci-layout", "blobs").CombinedOutput(); err != nil {
		t.Fatalf("tar: %v\n%s", err, out)
	}
	good, err := os.ReadFile(archive)
	must(t, err)
	d := newDevice(t)
	repo := filepath.Join(t.TempDir(), "repo")
	d.must("push", "--deltas=0", "oci-archive:"+archive+":v1", repo+"/app:1")
	for name, bad := range map[string][]byte{
		"empty": {}, "cut early": good[:700], "cut in a blob": good[:len(good)/2], "garbage": bytes.Repeat([]byte("garbage "), 1000),
		"zeros": make([]byte, 10240),
	} {
		for _, kind := range []string{"oci-archive", "docker-archive"} {
			t.Run(kind+" "+name, func(t *testing.T) {
				path := filepath.Join(t.TempDir(), "bad.tar")
				must(t, os.WriteFile(path, bad, 0o644))
				check := unchanged(t, repo)
				r := (&device{t: t, root: d.root}).run("push", "-q", kind+":"+path, repo+"/app:2")
				if r.code != exitCorrupt && r.code != exitNotFound {
					t.Errorf("exit code %d; %s", r.code, r.stderr)
				}
				if line := r.errorLine(t); !strings.Contains(line, "bad.tar") && !strings.Contains(line, "layer") {
					t.Errorf("the message does not say what is wrong: %s", line)
				}
				check()
			})
		}
	}
}
