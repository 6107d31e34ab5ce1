package translate

import (
	"archive/tar"
	"strings"
	"testing"
	"time"

	"github.com/ociv2-sync/ociv2-sync/toc"
)

// entry is an entry of any type.
func entry(typ byte, name, target string) item {
	return item{tar.Header{Typeflag: typ, Name: name, Linkname: target, Mode: 0o640, ModTime: stamp, Devmajor: 5, Devminor: 6}, ""}
}

// hardCases are what umoci's own tests have for hard, and what its bug tracker and
// those of the engines have seen, each of which TestMergeRulesAreUmocis compares with
// the real program.
func hardCases() []mergeRule {
	shadow := strings.Repeat("../", 12) + "etc/shadow"
	return []mergeRule{
		{"opaque, one level", [][]item{
			{dir("o"), file("o/file", "1"), entry(tar.TypeFifo, "o/fifo", "")},
			{dir("o"), symlink("o/link", ".."), symlink("o/badlink", "./nothing"), file("o/.wh..wh..opq", "")},
		}, []string{"o/", "o/badlink -> ./nothing", "o/link -> .."}},
		{"opaque, nothing above", [][]item{
			{dir("o"), file("o/file", "1"), symlink("o/link", ".."), dir("o/d"), file("o/d/f", "2"), symlink("o/d/l", "/"+shadow)},
			{file("o/.wh..wh..opq", "")},
		}, []string{"o/"}},
		{"opaque, two levels", [][]item{
			{dir("o"), symlink("o/link", ".."), symlink("o/dir/link", "../badlink"), symlink("o/dir/bad2", "/"+shadow)},
			{file("o/file", "1"), dir("o/dir"), file("o/dir/file", "2"), symlink("o/dir/bad", shadow), file("o/.wh..wh..opq", "")},
		}, []string{"o/", "o/dir/", "o/dir/bad -> " + shadow, "o/dir/file:2", "o/file:1"}},
		{"opaque, many levels", [][]item{
			{dir("o"), symlink("o/l", ".."), file("o/a/f", "1"), dir("o/a/gone"), file("o/a/gone/x", "1"), file("o/a/b/y", "1"), dir("o/a/b/c"), dir("o/a/b/c/d"), dir("o/b/c")},
			{file("o/f", "2"), dir("o/a"), symlink("o/a/l", "../../../"), dir("o/a/b"), file("o/a/b/x", "2"), file("o/a/b/x", "3"), file("o/.wh..wh..opq", "")},
		}, []string{"o/", "o/a/", "o/a/b/", "o/a/b/x:3", "o/a/l -> ../../../", "o/f:2"}},
		{"opaque keeps the parents of what stays", [][]item{
			{dir("o"), dir("o/some"), dir("o/some/dir"), dir("o/other"), file("o/other/dir/f", "1")},
			{file("o/some/dir/f", "2"), file("o/.wh..wh..opq", "")},
		}, []string{"o/", "o/some/", "o/some/dir/", "o/some/dir/f:2"}},
		{"opaque with whiteouts", [][]item{
			{dir("o"), file("o/c", "1")},
			{file("o/.wh.b", ""), file("o/a", "2"), file("o/b", "2"), file("o/.wh.a", ""), file("o/.wh.c", ""), file("o/.wh..wh..opq", "")},
		}, []string{"o/", "o/a:2", "o/b:2"}},
		{"opaque with whiteouts of directories", [][]item{
			{dir("o"), file("o/file", "1"), symlink("o/d1/link", "../bad"), symlink("o/d2/link", "../bad")},
			{file("o/.wh.d2", ""), dir("o/d1"), file("o/d1/f", "2"), file("o/.wh.d1", ""), dir("o/d2"), file("o/d2/f", "2"), file("o/.wh..wh..opq", "")},
		}, []string{"o/", "o/d1/", "o/d1/f:2", "o/d2/", "o/d2/f:2"}},
		{"opaque in opaque", [][]item{
			{dir("o"), file("o/a/b/c/x", "1"), file("o/a/y", "1")},
			{file("o/a/b/c/.wh..wh..opq", ""), file("o/a/b/c/n", "2"), file("o/a/b/.wh..wh..opq", ""), file("o/.wh..wh..opq", "")},
		}, []string{"o/", "o/a/ (implied)", "o/a/b/ (implied)", "o/a/b/c/ (implied)", "o/a/b/c/n:2"}},
		{"opaque of what is whited out", [][]item{
			{dir("o"), file("o/x", "1")},
			{file(".wh.o", ""), dir("o"), file("o/.wh..wh..opq", ""), file("o/n", "2")},
		}, []string{"o/", "o/n:2"}},
		{"opaque through a symlink", [][]item{
			{dir("usr"), file("usr/x", "1"), symlink("l", "usr")},
			{file("l/.wh..wh..opq", ""), file("l/n", "2")},
		}, []string{"l -> usr", "usr/", "usr/n:2"}},
		{"whiteout, then something below", [][]item{
			{dir("d"), file("d/before", "1")},
			{file(".wh.d", ""), file("d/foo/bar", "2"), file("d/abc/def", "2")},
		}, []string{"d/ (implied)", "d/abc/ (implied)", "d/abc/def:2", "d/foo/ (implied)", "d/foo/bar:2"}},
		{"whiteouts of hidden files", [][]item{
			{file(".hidden", "1"), dir("some"), file("some/.hidden", "1"), dir(".hiddendir"), file(".hiddendir/.sub/f", "1"), file("some/stays", "1")},
			{file(".wh..hidden", ""), file("some/.wh..hidden", ""), file(".wh..hiddendir", "")},
		}, []string{"some/", "some/stays:1"}},
		{"whiteouts of every type", [][]item{
			{entry(tar.TypeChar, "c", ""), entry(tar.TypeBlock, "b", ""), entry(tar.TypeFifo, "p", ""), symlink("l", "c"), link("h", "c"), file("f", "1")},
			{entry(tar.TypeSymlink, ".wh.c", "x"), entry(tar.TypeFifo, ".wh.b", ""), dir(".wh.p"), file(".wh.l", "not empty"), file(".wh.f", "")},
		}, []string{"h 020640 5:6"}},
		{"names that only look like whiteouts", [][]item{
			{file("wh.a", "1"), file(".wha", "1"), file("a.wh.b", "1"), file(".w", "1")},
		}, []string{".w:1", ".wha:1", "a.wh.b:1", "wh.a:1"}},
		{"a name comes back in a third layer", [][]item{
			{dir("d"), file("d/old", "1")}, {file(".wh.d", "")}, {file("d/new", "3")},
		}, []string{"d/ (implied)", "d/new:3"}},
		{"a name is something else in each layer", [][]item{
			{file("n", "1")}, {symlink("n", "x")}, {dir("n"), file("n/f", "3")}, {entry(tar.TypeFifo, "n", "")}, {file("n", "5")},
		}, []string{"n:5"}},
		{"symlinks that climb", [][]item{
			{symlink("a", "/"), symlink("b", "/../"), symlink("c", strings.Repeat("/..", 12)), symlink("d", "./././.././.././../"), symlink("e", "..")},
			{file("a/a1", "1"), file("b/b1", "1"), file("c/c1", "1"), file("d/d1", "1"), file("e/e1", "1")},
		}, []string{"a -> /", "a1:1", "b -> /../", "b1:1", "c -> " + strings.Repeat("/..", 12), "c1:1", "d -> ./././.././.././../", "d1:1", "e -> ..", "e1:1"}},
		{"symlinks through symlinks", [][]item{
			{dir("dir"), symlink("link", "dir"), symlink("link2", "link"), symlink("dir/up", "../link2/../dir/deep"), dir("dir/deep")},
			{file("link2/b", "1"), file("link/up/c", "2")},
		}, []string{"dir/", "dir/b:1", "dir/deep/", "dir/deep/c:2", "dir/up -> ../link2/../dir/deep", "link -> dir", "link2 -> link"}},
		{"directories replace symlinks", [][]item{
			{dir("dir"), file("dir/a", "1"), symlink("link", "dir"), symlink("loop1", "loop2"), symlink("loop2", "loop1")},
			{dir("link"), file("link/b", "2"), dir("loop1"), file("loop1/f", "2")},
		}, []string{"dir/", "dir/a:1", "link/", "link/b:2", "loop1/", "loop1/f:2", "loop2 -> loop1"}},
		{"a symlink to nowhere is made real", [][]item{
			{symlink("l", "made/here")}, {file("l/f", "1")},
		}, []string{"l -> made/here", "made/ (implied)", "made/here/ (implied)", "made/here/f:1"}},
		{"a symlink of the same layer", [][]item{
			{dir("a"), symlink("s", "a"), file("s/f", "1"), link("h", "s/f"), file("s/.wh.none", "")},
		}, []string{"a/", "a/f:1", "h = a/f", "s -> a"}},
		{"hard links say nothing but their target", [][]item{
			{file("reg", "1"), {tar.Header{Typeflag: tar.TypeLink, Name: "hard", Linkname: "/reg", Mode: 0o4777, Uid: 1337, Gid: 2020, ModTime: time.Unix(1, 0)}, ""}, symlink("sym", "../../../reg"), {tar.Header{Typeflag: tar.TypeLink, Name: "hardsym", Linkname: "./sym", Uid: 7}, ""}},
		}, []string{"hard:1", "hardsym -> ../../../reg", "reg = hard", "sym = hardsym"}},
		{"hard links from layer to layer", [][]item{
			{file("a", "1")}, {link("b", "a")}, {link("c", "b")}, {file(".wh.a", ""), link("d/e", "c")},
		}, []string{"b:1", "c = b", "d/ (implied)", "d/e = b"}},
		{"hard link to what the same layer replaces later", [][]item{
			{file("a", "1")}, {link("b", "a"), file("a", "2"), link("c", "a")},
		}, []string{"a:2", "b:1", "c = a"}},
		{"hard link to what the same layer whites out", [][]item{
			{file("a", "1"), file("d/a", "2")}, {link("b", "a"), link("c", "d/a"), file(".wh.a", ""), file("d/.wh..wh..opq", "")},
		}, []string{"b:1", "c:2", "d/ (implied)"}},
		{"hard link replaces a directory", [][]item{
			{file("a", "1"), dir("d"), file("d/x", "1")}, {link("d", "a")},
		}, []string{"a:1", "d = a"}},
		{"hard links replace each other", [][]item{
			{file("a", "1"), file("b", "2"), link("c", "a")}, {link("c", "b"), link("a", "c")},
		}, []string{"a:2", "b = a", "c = a"}},
		{"hard links to devices and fifos", [][]item{
			{entry(tar.TypeChar, "c", ""), link("c2", "c"), entry(tar.TypeFifo, "p", ""), link("p2", "p")},
		}, []string{"c 020640 5:6", "c2 = c", "p 010640 0:0", "p2 = p"}},
		{"directory after what it holds", [][]item{
			{file("d/e/f", "1"), {tar.Header{Typeflag: tar.TypeDir, Name: "d/e", Mode: 0o1751, Uid: 3, ModTime: stamp}, ""}, dir("d"), dir("./")},
		}, []string{"d/", "d/e/", "d/e/f:1"}},
		{"duplicates of other types", [][]item{
			{file("a", "1"), dir("a"), file("a/x", "1"), symlink("b", "x"), file("b", "2"), dir("c"), file("c/y", "1"), symlink("c", "a"), file("e", "1"), link("f", "e"), file("e", "2")},
		}, []string{"a/", "a/x:1", "b:2", "c -> a", "e:2", "f:1"}},
		{"odd names", [][]item{
			{file("new\nline", "1"), file("-rf *", "1"), file("back\\slash", "1"), file("\x01\x7f\x80\xfe", "1"), file("tab\there", "1"), file("..a", "1"), file("...", "1"), dir(" "), file(" / ", "1")},
			{file(".wh.-rf *", "")},
		}, []string{"\x01\x7f\x80\xfe:1", " /", " / :1", "...:1", "..a:1", "back\\slash:1", "new\nline:1", "tab\there:1"}},
		{"names in many forms", [][]item{
			{file("/abs", "1"), file("./dot", "1"), file(".//././x", "1"), file("a/b/../c", "1"), dir("/d/"), file("d//e", "1")},
			{file("/.wh.abs", ""), file("././.wh.dot", "")},
		}, []string{"a/ (implied)", "a/c:1", "d/", "d/e:1", "x:1"}},
	}
}

// TestMergeReplacesEveryType has each type of node replaced by each other, in one
// layer and between two.
func TestMergeReplacesEveryType(t *testing.T) {
	types := map[string]item{
		"file": file("", "1"), "dir": dir(""), "symlink": symlink("", "t"), "link": link("", "target"),
		"char": entry(tar.TypeChar, "", ""), "block": entry(tar.TypeBlock, "", ""), "fifo": entry(tar.TypeFifo, "", ""),
	}
	var lower, upper, one []item
	lower, one = append(lower, file("target", "x")), append(one, file("target", "x"))
	for a, was := range types {
		for b, is := range types {
			was, is := was, is
			was.h.Name, is.h.Name = a+"-"+b, a+"-"+b
			lower, upper, one = append(lower, was), append(upper, is), append(one, was, is)
			if a == "dir" {
				lower = append(lower, file(was.h.Name+"/below", "1"))
			}
		}
	}
	for name, layers := range map[string][][]item{"two layers": {lower, upper}, "one layer": {one}} {
		t.Run(name, func(t *testing.T) {
			var stored []stored
			for _, items := range layers {
				stored = append(stored, gzipLayer(t, tarOf(t, items...)))
			}
			img := newImage(t, stored...)
			sameNodes(t, scan(t, umociUnpack(t, img)), merge(t, img), unpacked)
		})
	}
}

// TestMergeLayersOfAllCompressions merges layers that are stored in different ways.
func TestMergeLayersOfAllCompressions(t *testing.T) {
	layers := [][]item{
		{file("zstd", "1"), file("gone", "1")},
		{file("gzip", "1"), file(".wh.gone", "")},
		{file("plain", "1"), link("again", "zstd")},
		{file("more", "1")},
	}
	want := want("again:1", "gzip:1", "more:1", "plain:1", "zstd = again")
	first := zstdLayer(t, tarOf(t, layers[0]...))
	second := gzipLayer(t, tarOf(t, layers[1]...))
	third := plainLayer(tarOf(t, layers[2]...))
	fourth := zstdLayer(t, tarOf(t, layers[3]...))
	if got := sketch(merge(t, newImage(t, first, second, third, fourth))); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

// moreNodeItems are entries whose numbers, times and attributes come in other forms
// than those of nodeItems.
func moreNodeItems() []item {
	x := func(typ byte, name string, kv ...string) item {
		i := entry(typ, name, "")
		i.h.PAXRecords = map[string]string{}
		for k := 0; k < len(kv); k += 2 {
			i.h.PAXRecords[kv[k]] = kv[k+1]
		}
		return i
	}
	gnu := func(name string, id int, when time.Time) item {
		return item{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o600, Uid: id, Gid: id + 1, ModTime: when, Format: tar.FormatGNU}, name}
	}
	const defaultACL = "SCHILY.xattr.system.posix_acl_default"
	return []item{
		dir("./"),
		x(tar.TypeDir, "aclboth", defaultACL, nodeACL, "SCHILY.xattr.system.posix_acl_access", nodeACL),
		x(tar.TypeDir, "acldir", defaultACL, nodeACL),
		x(tar.TypeBlock, "block", "SCHILY.xattr.trusted.t", "b"),
		x(tar.TypeChar, "char", "SCHILY.xattr.trusted.t", "\x00\xff", "SCHILY.xattr.security.other", "o"),
		x(tar.TypeDir, "dir", "SCHILY.xattr.user.d", "v"),
		x(tar.TypeFifo, "fifo", "SCHILY.xattr.trusted.t", "p", "SCHILY.xattr.system.posix_acl_access", nodeACL),
		gnu("gnu1901", 1<<31, time.Unix(-2_145_916_800, 0)),
		gnu("gnu2200", 1<<21, time.Unix(7_258_118_400, 0)), // umoci counts up to 2262
		gnu("gnu"+strings.Repeat("x", 200), 1<<32-3, stamp.Truncate(time.Second)),
		{tar.Header{Typeflag: tar.TypeReg, Name: "pax1901", Uid: 1<<32 - 3, Gid: 65535, ModTime: time.Unix(-2_145_916_800, 999_999_999)}, ""},
		{tar.Header{Typeflag: tar.TypeReg, Name: "ustar", Mode: 0o1777, Uid: 65535, Gid: 1<<21 - 1, ModTime: time.Unix(5, 0), Format: tar.FormatUSTAR}, "u"},
		x(tar.TypeReg, "xattrs", "SCHILY.xattr.user.big", strings.Repeat("v", 3000), "SCHILY.xattr.security.evm", "e", "SCHILY.xattr.user.näme \n", "1"),
	}
}

// TestMergeMoreNodesAreUmocis compares them with umoci's, attribute by attribute.
func TestMergeMoreNodesAreUmocis(t *testing.T) {
	img := newImage(t, gzipLayer(t, tarOf(t, moreNodeItems()...)))
	sameNodes(t, scan(t, umociUnpack(t, img)), merge(t, img), func(*toc.Node) bool { return false })
}
