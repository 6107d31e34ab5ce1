package translate

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ociv2-sync/ociv2-sync/toc"
)

// want writes what sketch should write; "NAME:BODY" stands for a regular file.
func want(lines ...string) string {
	var b strings.Builder
	for _, l := range append([]string{"./"}, lines...) {
		if name, body, ok := strings.Cut(l, ":"); ok && !strings.Contains(name, " -> ") && !strings.Contains(name, " 0") {
			sum := sha256.Sum256([]byte(body))
			l = fmt.Sprintf("%s %d %x", name, len(body), sum[:2])
		}
		b.WriteString(l + "\n")
	}
	return b.String()
}

// mergeRule is an image of several layers and what must come of it.
type mergeRule struct {
	name   string
	layers [][]item
	want   []string
}

// mergeRules are the rules one by one; hardCases has what combines them.
var mergeRules = []mergeRule{
	{"nothing", [][]item{{}}, nil},
	{"no layer", nil, nil},
	{"names", [][]item{{file("./a", "1"), file("/b", "2"), file("c/../d", "3"), file("e//f", "4")}}, []string{"a:1", "b:2", "d:3", "e/ (implied)", "e/f:4"}},
	{"order of bytes", [][]item{{file("b", "1"), file("a.b", "2"), file("a/c", "3"), file("\xff", "4"), file("B", "5")}}, []string{"B:5", "a/ (implied)", "a/c:3", "a.b:2", "b:1", "\xff:4"}},
	{"duplicate, the last wins", [][]item{{file("a", "1"), file("a", "2")}}, []string{"a:2"}},
	{"a directory again keeps what it holds", [][]item{{file("d/a", "1"), dir("d")}, {dir("d")}}, []string{"d/", "d/a:1"}},
	{"a file replaces a directory", [][]item{{dir("d"), file("d/a", "1")}, {file("d", "2")}}, []string{"d:2"}},
	{"a directory replaces a file", [][]item{{file("d", "2")}, {dir("d"), file("d/a", "1")}}, []string{"d/", "d/a:1"}},
	{"a parent that is a file", [][]item{{file("d", "2")}, {file("d/a", "1")}}, []string{"d/ (implied)", "d/a:1"}},
	{"a directory replaces a symlink", [][]item{{dir("r"), symlink("d", "r"), file("r/x", "1")}, {dir("d"), file("d/a", "1")}}, []string{"d/", "d/a:1", "r/", "r/x:1"}},
	{"through a symlink of a lower layer", [][]item{{dir("usr"), dir("usr/lib"), symlink("lib", "usr/lib")}, {file("lib/a", "1")}}, []string{"lib -> usr/lib", "usr/", "usr/lib/", "usr/lib/a:1"}},
	{"through an absolute symlink", [][]item{{dir("x"), symlink("x/l", "/y"), dir("y")}, {file("x/l/a", "1")}}, []string{"x/", "x/l -> /y", "y/", "y/a:1"}},
	{"symlinks do not leave the root", [][]item{{symlink("l", "../../../etc")}, {file("l/passwd", "1")}}, []string{"etc/ (implied)", "etc/passwd:1", "l -> ../../../etc"}},
	{"whiteout", [][]item{{file("d/a", "1"), file("d/b", "2")}, {file("d/.wh.a", "")}}, []string{"d/ (implied)", "d/b:2"}},
	{"whiteout of a tree", [][]item{{dir("d"), file("d/a/b", "1"), file("e", "2")}, {file(".wh.d", "")}}, []string{"e:2"}},
	{"whiteout of what is not there", [][]item{{file("e", "2")}, {file(".wh.d", ""), file("x/y/.wh.z", ""), file("e/.wh.f", "")}}, []string{"e:2"}},
	{"whiteout before its replacement", [][]item{{file("d", "1")}, {file(".wh.d", ""), file("d", "2")}}, []string{"d:2"}},
	{"whiteout after its replacement", [][]item{{file("d", "1")}, {file("d", "2"), file(".wh.d", "")}}, []string{"d:2"}},
	{"whiteout spares what its layer puts below", [][]item{{dir("d"), file("d/a", "1"), file("d/b/c", "1")}, {file("d/b/n", "2"), file(".wh.d", "")}}, []string{"d/", "d/b/ (implied)", "d/b/n:2"}},
	{"whiteout through a symlink", [][]item{{dir("usr"), file("usr/a", "1"), symlink("l", "usr")}, {file("l/.wh.a", "")}}, []string{"l -> usr", "usr/"}},
	{"opaque first", [][]item{{dir("d"), file("d/a", "1"), file("d/s/t", "1")}, {file("d/.wh..wh..opq", ""), file("d/n", "2")}}, []string{"d/", "d/n:2"}},
	{"opaque last", [][]item{{dir("d"), file("d/a", "1"), file("d/s/t", "1")}, {file("d/s/n", "2"), file("d/.wh..wh..opq", "")}}, []string{"d/", "d/s/ (implied)", "d/s/n:2"}},
	{"opaque root", [][]item{{file("a", "1")}, {file(".wh..wh..opq", ""), file("b", "2")}}, []string{"b:2"}},
	{"hard link", [][]item{{file("b", "1"), link("a", "b"), link("c", "./b")}}, []string{"a:1", "b = a", "c = a"}},
	{"hard link between layers", [][]item{{file("b", "1")}, {link("a", "/b")}}, []string{"a:1", "b = a"}},
	{"hard link keeps the replaced file", [][]item{{file("b", "1")}, {link("a", "b"), file("b", "2")}}, []string{"a:1", "b:2"}},
	{"hard link outlives its target", [][]item{{file("b", "1"), link("a", "b")}, {file(".wh.b", "")}}, []string{"a:1"}},
	{"hard link in a lower layer to a hidden file", [][]item{{file("b", "1"), link("a", "b")}, {file("b", "2")}}, []string{"a:1", "b:2"}},
	{"hard link before its target", [][]item{{link("a", "b"), file("b", "1")}}, []string{"a:1", "b = a"}},
	{"hard links before their targets", [][]item{{link("a", "b"), link("b", "c"), link("c", "d/e"), file("d/e", "1")}}, []string{"a:1", "b = a", "c = a", "d/ (implied)", "d/e = a"}},
	{"hard link before its target, replaced", [][]item{{link("a", "b"), file("a", "2"), file("b", "1")}}, []string{"a:2", "b:1"}},
	{"hard link to a symlink", [][]item{{symlink("l", "x"), link("m", "l")}}, []string{"l -> x", "m = l"}},
	{"hard link through a symlink", [][]item{{dir("usr"), file("usr/a", "1"), symlink("l", "usr"), link("b", "l/a")}}, []string{"b:1", "l -> usr", "usr/", "usr/a = b"}},
	{"global header", [][]item{{{tar.Header{Typeflag: tar.TypeXGlobalHeader, Name: "pax_global_header", PAXRecords: map[string]string{"comment": "x"}}, ""}, file("a", "1")}}, []string{"a:1"}},
}

func TestMergeRules(t *testing.T) {
	for _, tc := range slices.Concat(mergeRules, hardCases()) {
		t.Run(tc.name, func(t *testing.T) {
			var layers []stored
			for _, items := range tc.layers {
				layers = append(layers, plainLayer(tarOf(t, items...)))
			}
			got := sketch(merge(t, newImage(t, layers...)))
			if w := want(tc.want...); got != w {
				t.Errorf("got\n%swant\n%s", got, w)
			}
		})
	}
}

// Xattrs as Linux has them.
const (
	nodeACL = "\x02\x00\x00\x00" + "\x01\x00\x06\x00\xff\xff\xff\xff" + "\x02\x00\x07\x00\xe8\x03\x00\x00" +
		"\x04\x00\x04\x00\xff\xff\xff\xff" + "\x10\x00\x05\x00\xff\xff\xff\xff" + "\x20\x00\x00\x00\xff\xff\xff\xff"
	nodeMinimalACL = "\x02\x00\x00\x00" + "\x01\x00\x07\x00\xff\xff\xff\xff" + "\x04\x00\x05\x00\xff\xff\xff\xff" + "\x20\x00\x01\x00\xff\xff\xff\xff"
	nodeCaps       = "\x01\x00\x00\x03" + "\x00\x20\x00\x00\x00\x00\x00\x00" + "\x00\x00\x00\x00\x00\x00\x00\x00" + "\x00\x00\x00\x00"
	nodeCaps3      = "\x01\x00\x00\x03" + "\x00\x20\x00\x00\x00\x00\x00\x00" + "\x00\x00\x00\x00\x00\x00\x00\x00" + "\xe8\x03\x00\x00"
)

// nodeItems are entries of all types with all that one can say.
func nodeItems() []item {
	before1970 := time.Unix(-2, 500_000_000)
	x := func(kv ...string) map[string]string {
		m := map[string]string{}
		for i := 0; i < len(kv); i += 2 {
			m[kv[i]] = kv[i+1]
		}
		return m
	}
	return []item{
		{tar.Header{Typeflag: tar.TypeDir, Name: "./", Mode: 0o1700, Uid: 1, Gid: 2, ModTime: before1970}, ""},
		{tar.Header{Typeflag: tar.TypeReg, Name: "acl", Mode: 0o777, ModTime: stamp, PAXRecords: x("SCHILY.xattr.system.posix_acl_access", nodeACL)}, "x"},
		{tar.Header{Typeflag: tar.TypeReg, Name: "aclmin", Mode: 0o4000, ModTime: stamp, PAXRecords: x("SCHILY.xattr.system.posix_acl_access", nodeMinimalACL)}, ""},
		{tar.Header{Typeflag: tar.TypeBlock, Name: "blk", Mode: 0o660, Devmajor: 4095, Devminor: 1048575, ModTime: stamp}, ""},
		{tar.Header{Typeflag: tar.TypeReg, Name: "caps", Mode: 0o6755, Uid: 4_000_000_000, Gid: 1 << 21, ModTime: stamp, PAXRecords: x("SCHILY.xattr.security.capability", nodeCaps)}, ""},
		{tar.Header{Typeflag: tar.TypeReg, Name: "caps3", ModTime: stamp, PAXRecords: x("SCHILY.xattr.security.capability", nodeCaps3)}, ""},
		{tar.Header{Typeflag: tar.TypeChar, Name: "chr", Mode: 0o600, Devmajor: 1, Devminor: 3, ModTime: stamp}, ""},
		{tar.Header{Typeflag: tar.TypeFifo, Name: "fifo", Mode: 0o600, ModTime: stamp}, ""},
		{tar.Header{Typeflag: tar.TypeSymlink, Name: "sym", Linkname: "/no where", Mode: 0o600, ModTime: stamp, PAXRecords: x("SCHILY.xattr.trusted.t", "1", "SCHILY.xattr.security.selinux", "label")}, ""},
		{tar.Header{Typeflag: tar.TypeReg, Name: "x", ModTime: stamp, PAXRecords: x(
			"SCHILY.xattr.user.both", "a\x00\xffb", "LIBARCHIVE.xattr.user.both", "AAAA",
			"LIBARCHIVE.xattr.user.%C3%A4%3D", "aGk", "SCHILY.xattr.user.empty", "", "SCHILY.xattr.security.ima", "i",
		)}, ""},
	}
}

func TestMergeNode(t *testing.T) {
	nodes := merge(t, newImage(t, gzipLayer(t, tarOf(t, nodeItems()...))))
	empty := sha256.Sum256(nil)
	wantNodes := []toc.Node{
		{Mode: toc.TypeDir | 0o1700, UID: 1, GID: 2, Sec: -2, Nsec: 500_000_000},
		{Name: "acl", Mode: toc.TypeRegular | 0o650, Size: 1, Digest: sha256.Sum256([]byte("x")), XAttrs: []toc.XAttr{{Name: aclAccess, Value: []byte(nodeACL)}}},
		{Name: "aclmin", Mode: toc.TypeRegular | 0o4751, Digest: empty},
		{Name: "blk", Mode: toc.TypeBlock | 0o660, Major: 4095, Minor: 1048575},
		{Name: "caps", Mode: toc.TypeRegular | 0o6755, UID: 4_000_000_000, GID: 1 << 21, Digest: empty, XAttrs: []toc.XAttr{{Name: capability, Value: []byte("\x01\x00\x00\x02" + nodeCaps[4:20])}}},
		{Name: "caps3", Mode: toc.TypeRegular, Digest: empty, XAttrs: []toc.XAttr{{Name: capability, Value: []byte(nodeCaps3)}}},
		{Name: "chr", Mode: toc.TypeChar | 0o600, Major: 1, Minor: 3},
		{Name: "fifo", Mode: toc.TypeFIFO | 0o600},
		{Name: "sym", Mode: toc.TypeSymlink | 0o777, Target: "/no where", XAttrs: []toc.XAttr{{Name: "trusted.t", Value: []byte("1")}}},
		{Name: "x", Mode: toc.TypeRegular, Digest: empty, XAttrs: []toc.XAttr{
			{Name: "security.ima", Value: []byte("i")},
			{Name: "user.both", Value: []byte("a\x00\xffb")},
			{Name: "user.empty", Value: []byte{}},
			{Name: "user.ä=", Value: []byte("hi")},
		}},
	}
	if len(nodes) != len(wantNodes) {
		t.Fatalf("%d nodes, want %d:\n%s", len(nodes), len(wantNodes), sketch(nodes))
	}
	for i, w := range wantNodes {
		w.Link = -1
		if i > 0 {
			w.Depth, w.Sec, w.Nsec = 1, stamp.Unix(), int32(stamp.Nanosecond())
		}
		if got := fmt.Sprintf("%+v", nodes[i]); got != fmt.Sprintf("%+v", w) {
			t.Errorf("got  %s\nwant %+v", got, w)
		}
	}
}

func TestMergeReadsEachLayerOnce(t *testing.T) {
	img := newImage(t,
		gzipLayer(t, tarOf(t, file("a", "hidden"), file("b", "1"), file("d/x", "below"))),
		zstdLayer(t, tarOf(t, file("a", "2"), file("d/.wh..wh..opq", ""))),
		plainLayer(tarOf(t, file("c", "3"))))
	s, err := Merge(t.Context(), img, MergeOptions{TempDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for i, n := range img.opened {
		if n != 1 {
			t.Errorf("layer %d opened %d times", i, n)
		}
	}
}

// A content that looked hidden and is not costs a second reading of its layer,
// and only of that one.
func TestMergeReadsAgainWhatALinkKeeps(t *testing.T) {
	img := newImage(t,
		gzipLayer(t, tarOf(t, file("a", "kept"), link("b", "a"), file("z", "z"))),
		gzipLayer(t, tarOf(t, file("a", "new"))))
	if got, w := sketch(merge(t, img)), want("a:new", "b:kept", "z:z"); got != w {
		t.Errorf("got\n%swant\n%s", got, w)
	}
	if img.opened[0] != 2 || img.opened[1] != 1 {
		t.Errorf("layers opened %v times", img.opened)
	}
}

func TestMergeKeepsEqualAndZeroContentsOnce(t *testing.T) {
	big := strings.Repeat("0123456789abcdef", 3*spoolBlock/16) + "tail"
	zeros := strings.Repeat("\x00", 5*spoolBlock+7)
	img := newImage(t, gzipLayer(t, tarOf(t,
		file("a", big), file("b", big), file("c", zeros), file("d", "x"), file("e", zeros+"end"), file("f", zeros+"\x00"), file("g", big[:spoolBlock]+zeros))))
	nodes := merge(t, img)
	if len(nodes) != 8 {
		t.Fatal(sketch(nodes))
	}
	s, err := Merge(t.Context(), img, MergeOptions{TempDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	r, err := s.Open(t.Context(), 6)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var b bytes.Buffer
	if _, err := b.ReadFrom(r); err != nil || b.String() != zeros+"\x00" {
		t.Errorf("%d bytes, %v", b.Len(), err)
	}
}
