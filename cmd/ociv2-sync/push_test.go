package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ociv2-sync/ociv2-sync/internal/testutil"
)

// layerFile is a file of a layer.
type layerFile struct {
	name string
	tar.Header
	content string
}

// plainTree is a tree that every dialect of tar can hold.
func plainTree() []layerFile {
	when := time.Unix(1_600_000_000, 0)
	dir := func(name string, mode int64) layerFile {
		return layerFile{name: name, Header: tar.Header{Typeflag: tar.TypeDir, Mode: mode, ModTime: when}}
	}
	file := func(name, content string, mode int64, uid int) layerFile {
		return layerFile{name, tar.Header{Typeflag: tar.TypeReg, Mode: mode, Uid: uid, Gid: uid, ModTime: when.Add(time.Hour)}, content}
	}
	files := []layerFile{
		dir("./", 0o755), dir("bin/", 0o755), dir("home/", 0o755), dir("home/me/", 0o700), dir("tmp/", 0o1777),
		file("bin/su", "#!su", 0o4755, 0), file("home/me/mail", "Dear...", 0o600, 1000),
		{"bin/sh", tar.Header{Typeflag: tar.TypeSymlink, Linkname: "su", Mode: 0o777, ModTime: when}, ""},
		{"home/me/mail2", tar.Header{Typeflag: tar.TypeLink, Linkname: "home/me/mail", ModTime: when}, ""},
		{"tmp/null", tar.Header{Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3, Mode: 0o666, ModTime: when}, ""},
	}
	for i := range 30 {
		files = append(files, file(fmt.Sprintf("bin/tool%02d", i), strings.Repeat(fmt.Sprint("tool ", i), 5000), 0o755, 0))
	}
	return files
}

func layer(t testing.TB, format tar.Format, files []layerFile) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, f := range files {
		h := f.Header
		h.Name, h.Format, h.Size = f.name, format, int64(len(f.content))
		must(t, w.WriteHeader(&h))
		_, err := w.Write([]byte(f.content))
		must(t, err)
	}
	must(t, w.Close())
	return buf.Bytes()
}

// layout writes an OCI image layout of gzip layers.
func layout(t testing.TB, dir string, layers ...[]byte) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Join(dir, "blobs/sha256"), 0o755))
	blob := func(b []byte, mediaType string) map[string]any {
		hex := fmt.Sprintf("%x", sha256.Sum256(b))
		must(t, os.WriteFile(filepath.Join(dir, "blobs/sha256", hex), b, 0o644))
		return map[string]any{"mediaType": mediaType, "digest": "sha256:" + hex, "size": len(b)}
	}
	object := func(v any) []byte {
		b, err := json.Marshal(v)
		must(t, err)
		return b
	}
	var descs []any
	var diffs []string
	for _, l := range layers {
		var z bytes.Buffer
		w := gzip.NewWriter(&z)
		_, err := w.Write(l)
		must(t, err)
		must(t, w.Close())
		descs = append(descs, blob(z.Bytes(), "application/vnd.oci.image.layer.v1.tar+gzip"))
		diffs = append(diffs, fmt.Sprintf("sha256:%x", sha256.Sum256(l)))
	}
	config := blob(object(map[string]any{
		"os": "linux", "architecture": "amd64", "config": map[string]any{},
		"rootfs": map[string]any{"type": "layers", "diff_ids": diffs},
	}), "application/vnd.oci.image.config.v1+json")
	manifest := blob(object(map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config, "layers": descs,
	}), "application/vnd.oci.image.manifest.v1+json")
	manifest["annotations"] = map[string]any{"org.opencontainers.image.ref.name": "v1"}
	must(t, os.WriteFile(filepath.Join(dir, "index.json"), object(map[string]any{"schemaVersion": 2, "manifests": []any{manifest}}), 0o644))
	must(t, os.WriteFile(filepath.Join(dir, "oci-layout"), []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644))
}

// TestLayersDoNotMatter pushes one tree in several shapes: table of contents and
// chunk index are the same.
func TestLayersDoNotMatter(t *testing.T) {
	t.Parallel()
	files := plainTree()
	// Directories after what is in them, files in another order, hard links
	// still after what they link to.
	reordered := slices.Clone(files)
	slices.Reverse(reordered)
	slices.SortStableFunc(reordered, func(a, b layerFile) int {
		last := func(f layerFile) int {
			return map[byte]int{tar.TypeLink: 1, tar.TypeDir: 2}[f.Typeflag]
		}
		return last(a) - last(b)
	})
	junk := func(name string) layerFile {
		return layerFile{name, tar.Header{Typeflag: tar.TypeReg, Mode: 0o644}, "goes again"}
	}
	plainNames := slices.Clone(files)
	for i := range plainNames {
		plainNames[i].name = strings.TrimSuffix(strings.TrimPrefix("/"+plainNames[i].name, "/./"), "/")
		if plainNames[i].name == "" {
			plainNames[i].name = "."
		}
	}
	d := newDevice(t)
	repo := filepath.Join(t.TempDir(), "repo")
	var wantTOC string
	var wantIndex []byte
	for i, shape := range []struct {
		name   string
		layers [][]byte
	}{
		{"one pax layer", [][]byte{layer(t, tar.FormatPAX, files)}},
		{"ustar", [][]byte{layer(t, tar.FormatUSTAR, files)}},
		{"gnu", [][]byte{layer(t, tar.FormatGNU, files)}},
		{"reordered", [][]byte{layer(t, tar.FormatGNU, reordered)}},
		{"absolute names", [][]byte{layer(t, tar.FormatUSTAR, plainNames)}},
		{"three layers", [][]byte{
			layer(t, tar.FormatPAX, files[:5]),
			layer(t, tar.FormatGNU, append(slices.Clone(files[5:20]), junk("bin/zz"), junk("opt"))),
			layer(t, tar.FormatUSTAR, append(slices.Clone(files[20:]), junk("bin/.wh.zz"), junk(".wh.opt"), files[0], files[1])),
		}},
		{"everything twice", [][]byte{layer(t, tar.FormatPAX, files), layer(t, tar.FormatUSTAR, reordered)}},
	} {
		src := filepath.Join(t.TempDir(), "layout")
		layout(t, src, shape.layers...)
		r := d.must("--json", "push", "oci:"+src+":v1", fmt.Sprintf("%s/app:%d", repo, i))
		var pushed struct {
			TOC string `json:"tocDigest"`
		}
		must(t, json.Unmarshal([]byte(r.stdout), &pushed))
		index, err := os.ReadFile(fmt.Sprintf("%s/app/%d.caidx", repo, i))
		must(t, err)
		if i == 0 {
			wantTOC, wantIndex = pushed.TOC, index
			continue
		}
		if pushed.TOC != wantTOC {
			t.Errorf("%s: table of contents %s, want %s", shape.name, pushed.TOC, wantTOC)
		}
		if !bytes.Equal(index, wantIndex) {
			t.Errorf("%s: another chunk index", shape.name)
		}
	}
	if os.Geteuid() != 0 {
		return // the tree has owners and a device
	}
	// The tree itself as the source.
	dir := filepath.Join(t.TempDir(), "dir")
	d.must("pull", repo+"/app:0", "rootfs:"+dir)
	d.must("push", "rootfs:"+dir, repo+"/app:dir")
	index, err := os.ReadFile(filepath.Join(repo, "app/dir.caidx"))
	must(t, err)
	if !bytes.Equal(index, wantIndex) {
		t.Error("the directory has another chunk index")
	}
}

// TestPushesAtOnce has processes push at the same time to the same name: none
// loses what another has published.
func TestPushesAtOnce(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	repo := filepath.Join(t.TempDir(), "repo")
	const pushes = 6
	var commands []*exec.Cmd
	var trees, refs []string
	for i := range pushes {
		dir := t.TempDir()
		must(t, os.WriteFile(filepath.Join(dir, "common"), bytes.Repeat([]byte("common"), 100_000), 0o644))
		must(t, os.WriteFile(filepath.Join(dir, "own"), bytes.Repeat([]byte{byte(i)}, 100_000), 0o644))
		name := "app"
		if i%3 == 2 {
			name = "/team/app"
		}
		trees, refs = append(trees, dir), append(refs, fmt.Sprintf("%s/%s:%d", repo, name, i))
		cmd := d.command("push", "-q", "rootfs:"+dir, refs[i])
		cmd.Stderr = os.Stderr
		must(t, cmd.Start())
		commands = append(commands, cmd)
	}
	for i, cmd := range commands {
		if code := wait(t, cmd); code != 0 {
			t.Errorf("push %d: exit code %d", i, code)
		}
	}
	list := d.must("images", repo).stdout
	for i, ref := range refs {
		if !strings.Contains(list, fmt.Sprintf("app:%d\n", i)) {
			t.Errorf("tag %d is not in the catalogue:\n%s", i, list)
		}
		dest := filepath.Join(t.TempDir(), "dest")
		d.must("pull", ref, "rootfs:"+dest)
		testutil.CompareTrees(t, trees[i], dest)
	}
	for name, want := range map[string]int{"app": 4, "team/app": 2} {
		var index struct{ Manifests []json.RawMessage }
		b, err := os.ReadFile(filepath.Join(repo, name, "index.json"))
		must(t, err)
		must(t, json.Unmarshal(b, &index))
		if len(index.Manifests) != want {
			t.Errorf("%s/index.json has %d manifests, want %d", name, len(index.Manifests), want)
		}
	}
}

// TestPushTwice pushes a tag again: what has not changed is not written, and
// one who had pulled it sees it is the same.
func TestPushTwice(t *testing.T) {
	t.Parallel()
	p := publish(t)
	d := newDevice(t)
	d.must("pull", p.ref(1))
	count := func() int {
		n := 0
		must(t, filepath.WalkDir(p.repo, func(string, os.DirEntry, error) error { n++; return nil }))
		return n
	}
	before := count()
	r := d.must("--json", "push", "rootfs:"+p.releases[0], p.ref(1))
	if !strings.Contains(r.stdout, `"newChunks": 0`) || count() != before {
		t.Errorf("%d files, before %d; %s", count(), before, r.stdout)
	}
	if got := d.must("pull", p.ref(1)).stdout; !strings.Contains(got, "has this image already") {
		t.Error(got)
	}
}
