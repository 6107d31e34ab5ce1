package main

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestBadLayers pushes images whose second layer holds what none should: each is
// refused with the layer and the entry named, nothing is published, nothing is left.
func TestBadLayers(t *testing.T) {
	entry := func(typ byte, name, target string) layerFile {
		return layerFile{name: name, Header: tar.Header{Typeflag: typ, Linkname: target, Mode: 0o644}}
	}
	file := func(name, content string) layerFile {
		return layerFile{name: name, Header: tar.Header{Typeflag: tar.TypeReg, Mode: 0o644}, content: content}
	}
	xattr := file("x", "")
	xattr.PAXRecords = map[string]string{"SCHILY.xattr.user.big": strings.Repeat("v", 70_000)}
	var many []layerFile
	for i := range 200 {
		many = append(many, file("many/"+strings.Repeat("n", 1+i), ""))
	}
	whole := layer(t, tar.FormatPAX, []layerFile{file("a", "1"), file("b", strings.Repeat("x", 3000))})
	for name, tt := range map[string]struct {
		files []layerFile
		raw   []byte // in place of files
		flags []string
		words []string
	}{
		"name that leaves":             {files: []layerFile{file("../../escape", "x")}, words: []string{`entry "../../escape"`, "leads out of the image"}},
		"absolute name that leaves":    {files: []layerFile{file("/../escape", "x")}, words: []string{`entry "/../escape"`, "leads out of the image"}},
		"whiteout that leaves":         {files: []layerFile{file("../.wh.escape", "")}, words: []string{`entry "../.wh.escape"`, "leads out of the image"}},
		"hard link that leaves":        {files: []layerFile{entry(tar.TypeLink, "l", "../../../etc/passwd")}, words: []string{`entry "l"`, "leads out of the image"}},
		"hard link to nothing":         {files: []layerFile{entry(tar.TypeLink, "l", "none")}, words: []string{`entry "l"`, "does not exist"}},
		"hard links in a circle":       {files: []layerFile{entry(tar.TypeLink, "a", "b"), entry(tar.TypeLink, "b", "a")}, words: []string{`entry "a"`, "itself"}},
		"symlinks in a circle":         {files: []layerFile{entry(tar.TypeSymlink, "a", "b"), entry(tar.TypeSymlink, "b", "a"), file("a/f", "")}, words: []string{`entry "a/f"`, "too many symlinks"}},
		"whiteout of nothing":          {files: []layerFile{file("bin/.wh.", "")}, words: []string{`entry "bin/.wh."`, "whiteout of nothing"}},
		"entry below a whiteout":       {files: []layerFile{file(".wh.d/f", "")}, words: []string{`entry ".wh.d/f"`, "below a whiteout"}},
		"long name":                    {files: []layerFile{file(strings.Repeat("n", 256), "")}, words: []string{"limit exceeded", "255"}},
		"long path":                    {files: []layerFile{file(strings.Repeat("d/", 2100)+"f", "")}, words: []string{"limit exceeded", "4095"}},
		"large attribute":              {files: []layerFile{xattr}, words: []string{`entry "x"`, "user.big above 65536"}},
		"content bomb":                 {files: []layerFile{file("bomb", strings.Repeat("\x00", 3<<20))}, flags: []string{"--limit-bytes", "2M"}, words: []string{`entry "bomb"`, "limit exceeded"}},
		"entry bomb":                   {files: many, flags: []string{"--limit-entries", "100"}, words: []string{`entry "many/n`, "entries above 100"}},
		"name bomb":                    {files: many, flags: []string{"--limit-metadata", "4K"}, words: []string{`entry "many/n`, "above 4096"}},
		"no tar":                       {raw: []byte(strings.Repeat("no tar ", 1000)), words: []string{"invalid tar header"}},
		"archive cut in a content":     {raw: whole[:2500], words: []string{`entry "b"`, "truncated"}},
		"garbage after the archive":    {raw: append(bytes.Clone(whole), "garbage"...), words: []string{"trailing garbage"}},
		"an archive after the archive": {raw: append(bytes.Clone(whole), whole...), words: []string{"trailing garbage"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			bad := tt.raw
			if bad == nil {
				bad = layer(t, tar.FormatPAX, tt.files)
			}
			layout(t, filepath.Join(dir, "layout"), layer(t, 0, plainTree()), bad)
			must(t, os.Mkdir(filepath.Join(dir, "temp"), 0o755))
			args := append([]string{"push", "-q", "--temp-dir", filepath.Join(dir, "temp"), "oci:" + dir + "/layout:v1", dir + "/repo/app:1"}, tt.flags...)
			(&device{t: t, root: filepath.Join(dir, "root")}).fails(exitCorrupt, append(tt.words, "layer 2 of 2 (sha256:"), args...)
			for _, gone := range []string{"repo", "root"} {
				if _, err := os.Lstat(filepath.Join(dir, gone)); err == nil {
					t.Errorf("%s is there", gone)
				}
			}
			left, err := os.ReadDir(filepath.Join(dir, "temp"))
			if must(t, err); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

// TestLayersStayInside has a layer make a symlink to a directory of the machine, and
// the next write, link and delete through it. All that happens inside the image.
func TestLayersStayInside(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	outside := filepath.Join(dir, "outside")
	must(t, os.Mkdir(outside, 0o755))
	must(t, os.WriteFile(filepath.Join(outside, "secret"), []byte("secret"), 0o600))
	check := unchanged(t, outside)
	link := layerFile{name: "etc", Header: tar.Header{Typeflag: tar.TypeSymlink, Linkname: outside}}
	up := layerFile{name: "up", Header: tar.Header{Typeflag: tar.TypeSymlink, Linkname: strings.Repeat("../", 30) + outside}}
	reg := tar.Header{Typeflag: tar.TypeReg, Mode: 0o644}
	layout(t, filepath.Join(dir, "layout"), layer(t, 0, []layerFile{link, up}), layer(t, 0, []layerFile{
		{"etc/passwd", reg, "new"},
		{"etc/.wh.secret", reg, ""},
		{"up/secret", reg, "overwritten"},
		{"etc/hard", tar.Header{Typeflag: tar.TypeLink, Linkname: "up/passwd"}, ""},
	}))
	d := newDevice(t)
	d.must("push", "-q", "oci:"+dir+"/layout:v1", dir+"/repo/app:1")
	got := filepath.Join(dir, "got")
	d.must("pull", "-q", dir+"/repo/app:1", "rootfs:"+got)
	check()
	for name, want := range map[string]string{"passwd": "new", "secret": "overwritten", "hard": "new"} {
		b, err := os.ReadFile(got + filepath.Join(outside, name))
		if must(t, err); string(b) != want {
			t.Errorf("%s has %q", name, b)
		}
	}
	// A link that leads out is the same for a seed, and for a second pull over the first.
	d.must("pull", "-q", "--in-place", "--seed", got, dir+"/repo/app:1", "rootfs:"+got)
	check()
	d.must("convert", "-q", "rootfs:"+got, "oci:"+dir+"/back:v1")
	check()
}
