package translate

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/ociv2-sync/ociv2-sync/internal/testutil"
	"github.com/ociv2-sync/ociv2-sync/toc"
)

// writeLayout writes img as an OCI layout whose only image has the name "it".
func writeLayout(t testing.TB, dir string, img *memImage) {
	t.Helper()
	write := func(name string, data []byte) {
		t.Helper()
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	blob := func(mediaType string, data []byte) ocispec.Descriptor {
		t.Helper()
		d := digest.FromBytes(data)
		write("blobs/sha256/"+d.Encoded(), data)
		return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(data))}
	}
	encode := func(v any) []byte {
		t.Helper()
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	m.Config = blob(ocispec.MediaTypeImageConfig, img.info.Config)
	for i, b := range img.blobs {
		m.Layers = append(m.Layers, blob(img.info.Layers[i].MediaType, b))
	}
	desc := blob(m.MediaType, encode(m))
	desc.Annotations = map[string]string{ocispec.AnnotationRefName: "it"}
	write("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`))
	write("index.json", encode(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: []ocispec.Descriptor{desc}}))
}

// umociUnpack unpacks img with umoci and returns its root filesystem.
func umociUnpack(t testing.TB, img *memImage) string {
	t.Helper()
	testutil.NeedRoot(t)
	testutil.Need(t, "umoci")
	layout, bundle := t.TempDir(), filepath.Join(t.TempDir(), "bundle")
	writeLayout(t, layout, img)
	if out, err := exec.CommandContext(t.Context(), "umoci", "unpack", "--image", layout+":it", bundle).CombinedOutput(); err != nil {
		t.Fatalf("umoci unpack: %v\n%s", err, out)
	}
	return filepath.Join(bundle, "rootfs")
}

// scan reads a tree from disk, plainly.
func scan(t testing.TB, root string) []toc.Node {
	t.Helper()
	var nodes []toc.Node
	inodes := map[uint64]int32{}
	var walk func(path, name string, depth int)
	walk = func(path, name string, depth int) {
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			t.Fatal(err)
		}
		n := toc.Node{
			Name: name, Depth: depth, Mode: st.Mode, UID: st.Uid, GID: st.Gid,
			Sec: st.Mtim.Sec, Nsec: int32(st.Mtim.Nsec), XAttrs: scanXAttrs(t, path), Link: -1,
		}
		if first, ok := inodes[st.Ino]; ok {
			n = nodes[first]
			n.Name, n.Depth, n.Link = name, depth, first
			nodes = append(nodes, n)
			return
		}
		inodes[st.Ino] = int32(len(nodes))
		switch n.Type() {
		case toc.TypeRegular:
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			n.Size = int64(len(b))
			copy(n.Digest[:], mustDecode(t, digest.FromBytes(b)))
		case toc.TypeSymlink:
			target, err := os.Readlink(path)
			if err != nil {
				t.Fatal(err)
			}
			n.Target = target
		case toc.TypeBlock, toc.TypeChar:
			n.Major, n.Minor = unix.Major(st.Rdev), unix.Minor(st.Rdev)
		}
		nodes = append(nodes, n)
		if !n.IsDir() {
			return
		}
		entries, err := os.ReadDir(path) // sorted by bytes of the name
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			walk(path+"/"+e.Name(), e.Name(), depth+1)
		}
	}
	walk(root, "", 0)
	return nodes
}

func mustDecode(t testing.TB, d digest.Digest) []byte {
	t.Helper()
	var b []byte
	if _, err := fmt.Sscanf(d.Encoded(), "%x", &b); err != nil {
		t.Fatal(err)
	}
	return b
}

func scanXAttrs(t testing.TB, path string) []toc.XAttr {
	t.Helper()
	buf := make([]byte, toc.MaxXAttrNames)
	n, err := unix.Llistxattr(path, buf)
	if errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	var list []toc.XAttr
	for name := range strings.SplitSeq(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00") {
		if name == "" {
			continue
		}
		value := make([]byte, toc.MaxXAttrValue)
		n, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, toc.XAttr{Name: name, Value: value[:n]})
	}
	slices.SortFunc(list, func(a, b toc.XAttr) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// sameNodes fails the test where got differs from what umoci made. looseTime
// tells which of umoci's times are left to chance.
func sameNodes(t testing.TB, umoci, got []toc.Node, looseTime func(*toc.Node) bool) {
	t.Helper()
	if len(umoci) != len(got) {
		t.Fatalf("umoci has\n%sours is\n%s", sketch(umoci), sketch(got))
	}
	for i := range got {
		u, g := umoci[i], got[i]
		if looseTime(&u) {
			u.Sec, u.Nsec = g.Sec, g.Nsec
		}
		if fmt.Sprintf("%+v", u) != fmt.Sprintf("%+v", g) {
			t.Errorf("%s:\numoci %+v\nours  %+v", toc.Path(got, i), u, g)
		}
	}
}

// unpacked reports whether umoci gave a directory the time of the unpacking, which it
// does to those that no entry describes, or from which it removed something by a
// whiteout further up.
func unpacked(n *toc.Node) bool { return n.IsDir() && n.Sec > stamp.Unix() }

// TestMergeRulesAreUmocis shows that the rules which TestMergeRules pins down are
// those of the real program.
func TestMergeRulesAreUmocis(t *testing.T) {
	beyondUmoci := []string{
		"a parent that is a file",         // fails in umoci before 0.6
		"hard link before its target",     // fails
		"hard links before their targets", // fails
		"hard link before its target, replaced",
		"global header", // fails
	}
	for _, tc := range slices.Concat(mergeRules, hardCases()) {
		t.Run(tc.name, func(t *testing.T) {
			if slices.Contains(beyondUmoci, tc.name) {
				t.Skip("umoci refuses this image")
			}
			var layers []stored
			for _, items := range tc.layers {
				layers = append(layers, gzipLayer(t, tarOf(t, items...)))
			}
			img := newImage(t, layers...)
			sameNodes(t, scan(t, umociUnpack(t, img)), merge(t, img), unpacked)
		})
	}
}

func TestMergeNodesAreUmocis(t *testing.T) {
	items := slices.Clone(nodeItems())
	for i := range items {
		// Of these umoci drops the first two.
		delete(items[i].h.PAXRecords, "SCHILY.xattr.user.empty")
		delete(items[i].h.PAXRecords, "LIBARCHIVE.xattr.user.%C3%A4%3D")
	}
	img := newImage(t, gzipLayer(t, tarOf(t, items...)))
	sameNodes(t, scan(t, umociUnpack(t, img)), merge(t, img), func(*toc.Node) bool { return false })
}

// TestMergeTarsOfOtherTools reads what the tars of this world write.
func TestMergeTarsOfOtherTools(t *testing.T) {
	testutil.NeedRoot(t)
	src := t.TempDir()
	testutil.BuildTree(t, src)
	sparse, err := os.Create(filepath.Join(src, "sparse"))
	if err != nil {
		t.Fatal(err)
	}
	defer sparse.Close()
	for _, off := range []int64{1 << 20, 5 << 20} {
		if _, err := sparse.WriteAt([]byte("data"), off); err != nil {
			t.Fatal(err)
		}
	}
	if err := sparse.Truncate(9 << 20); err != nil {
		t.Fatal(err)
	}
	removeSockets(t, src) // no tar holds them
	want := scan(t, src)
	for _, args := range [][]string{
		{"tar", "--format=pax", "--xattrs", "--xattrs-include=*", "-c", "."},
		{"tar", "--format=pax", "--sparse", "--xattrs", "--xattrs-include=*", "-c", "."},
		{"tar", "--format=pax", "--sparse", "--sparse-version=0.1", "--sort=inode", "--xattrs", "--xattrs-include=*", "-c", "."},
		{"tar", "--format=pax", "--sparse", "--sparse-version=0.0", "--xattrs", "--xattrs-include=*", "-c", "."},
		{"tar", "--format=gnu", "--sparse", "-c", "."},
		{"bsdtar", "--format=pax", "--xattrs", "--no-acls", "-c", "-f", "-", "."},
	} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			testutil.Need(t, args[0])
			cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
			cmd.Dir = src
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			raw, err := cmd.Output()
			if err != nil {
				t.Fatalf("%v: %s", err, stderr.String())
			}
			got := merge(t, newImage(t, gzipLayer(t, raw)))
			expect := want
			switch {
			case args[1] == "--format=gnu":
				expect = gnuOf(want)
			case args[0] == "bsdtar":
				want, got := withoutACLs(want), withoutACLs(got)
				sameNodes(t, want, got, func(*toc.Node) bool { return false })
				return
			}
			sameNodes(t, expect, got, func(*toc.Node) bool { return false })
		})
	}
}

// gnuOf is what is left of nodes in a tar of GNU's format: whole seconds, no
// xattrs, and no mode but what an access ACL said.
func gnuOf(nodes []toc.Node) []toc.Node {
	nodes = slices.Clone(nodes)
	for i := range nodes {
		nodes[i].Nsec, nodes[i].XAttrs = 0, nil
	}
	return nodes
}

// withoutACLs leaves out what libarchive writes in its own words only: ACLs, and
// the group's permissions where there is one.
func withoutACLs(nodes []toc.Node) []toc.Node {
	nodes = slices.Clone(nodes)
	for i := range nodes {
		n := &nodes[i]
		if strings.Contains(n.Name, "acl") {
			n.Mode &^= 0o070
		}
		n.XAttrs = slices.DeleteFunc(slices.Clone(n.XAttrs), func(x toc.XAttr) bool { return x.Name == aclAccess || x.Name == aclDefault })
	}
	return nodes
}

func removeSockets(t testing.TB, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil || e.Type() != fs.ModeSocket {
			return err
		}
		var st unix.Stat_t
		parent := filepath.Dir(p)
		if err := unix.Lstat(parent, &st); err != nil {
			return err
		}
		if err := os.Remove(p); err != nil {
			return err
		}
		return unix.UtimesNanoAt(unix.AT_FDCWD, parent, []unix.Timespec{st.Atim, st.Mtim}, 0)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// A sparse file has more content than its tar has bytes: Limits.Bytes counts it.
func TestMergeLimitsSparseContents(t *testing.T) {
	testutil.Need(t, "tar")
	src := t.TempDir()
	if err := os.WriteFile(filepath.Join(src, "a"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(src, "a"), 1<<40); err != nil {
		t.Fatal(err)
	}
	raw, err := exec.CommandContext(t.Context(), "tar", "--format=pax", "--sparse", "-C", src, "-c", "a").Output()
	if err != nil {
		t.Fatal(err)
	}
	err = mergeError(t, newImage(t, gzipLayer(t, raw)), MergeOptions{})
	if !errors.Is(err, ErrLimit) || !strings.Contains(err.Error(), `entry "a": limit exceeded: bytes of contents`) {
		t.Error(err)
	}
}
