package ocisrc

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ociv2-sync/ociv2-sync/internal/testutil"
	"github.com/ociv2-sync/ociv2-sync/internal/tree"
	"github.com/ociv2-sync/ociv2-sync/toc"
	"github.com/ociv2-sync/ociv2-sync/translate"
)

func run(t testing.TB, name string, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
}

// sameAsUmoci unpacks the image tag of a layout with umoci and fails the test
// where that tree and the merged one differ, in any attribute of any node.
func sameAsUmoci(t testing.TB, layout, tag string) {
	t.Helper()
	bundle := filepath.Join(t.TempDir(), "bundle")
	run(t, "umoci", "unpack", "--image", layout+":"+tag, bundle)
	want, err := tree.Scan(t.Context(), filepath.Join(bundle, "rootfs"))
	if err != nil {
		t.Fatal(err)
	}
	defer want.Close()
	got := mergedNodes(t, "oci:"+layout+":"+tag)
	if len(want.Nodes) != len(got) {
		t.Errorf("%d nodes, umoci has %d", len(got), len(want.Nodes))
	}
	for i := range min(len(want.Nodes), len(got)) {
		w := want.Nodes[i]
		if w.IsRegular() {
			w.Digest = digestOf(t, want, i)
		}
		if fmt.Sprintf("%+v", w) != fmt.Sprintf("%+v", got[i]) {
			t.Fatalf("%s:\numoci %+v\nours  %+v", toc.Path(got, i), w, got[i])
		}
	}
}

// mergedNodes returns the filesystem that the layers of an image make.
func mergedNodes(t testing.TB, ref string) []toc.Node {
	t.Helper()
	img, err := Open(t.Context(), ref, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	got, err := translate.Merge(t.Context(), img, translate.MergeOptions{TempDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer got.Close()
	if err := (&toc.TOC{Nodes: got.Nodes}).Validate(); err != nil {
		t.Fatal(err)
	}
	return got.Nodes
}

func digestOf(t testing.TB, s *toc.Source, i int) (sum [32]byte) {
	t.Helper()
	if leader := s.Nodes[i].Link; leader >= 0 {
		i = int(leader)
	}
	h := sha256.New()
	if s.Nodes[i].Size > 0 {
		r, err := s.Open(t.Context(), i)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if _, err := io.Copy(h, r); err != nil {
			t.Fatal(err)
		}
	}
	h.Sum(sum[:0])
	return sum
}

// TestMergeIsUmocis makes an image of three layers with umoci, which holds all
// that a tar layer can, with deletions and replacements of every type by another.
func TestMergeIsUmocis(t *testing.T) {
	testutil.NeedRoot(t)
	testutil.Need(t, "umoci")
	dir := t.TempDir()
	layout, bundle := filepath.Join(dir, "layout"), filepath.Join(dir, "bundle")
	root := filepath.Join(bundle, "rootfs")
	run(t, "umoci", "init", "--layout", layout)
	run(t, "umoci", "new", "--image", layout+":v0")
	run(t, "umoci", "unpack", "--image", layout+":v0", bundle)
	testutil.BuildTree(t, root)
	removeWhatUmociCannot(t, root)
	for _, d := range []string{"x/kept/below", "x/gone/below", "x/filled"} {
		must(t, os.MkdirAll(filepath.Join(root, d), 0o750))
	}
	for _, f := range []string{"x/file", "x/gone/below/f", "x/kept/below/f", "x/linked", "x/tofile"} {
		must(t, os.WriteFile(filepath.Join(root, f), bytes.Repeat([]byte(f), 99), 0o600))
	}
	must(t, os.Link(root+"/x/linked", root+"/x/kept/linked"))
	must(t, os.Symlink("kept", root+"/x/todir"))
	run(t, "umoci", "repack", "--refresh-bundle", "--image", layout+":v1", bundle)
	sameAsUmoci(t, layout, "v1")

	must(t, os.RemoveAll(root+"/x/gone"))
	must(t, os.Remove(root+"/x/linked"))
	must(t, os.WriteFile(root+"/x/linked", []byte("no link any more"), 0o755))
	must(t, os.Remove(root+"/x/file"))
	must(t, os.MkdirAll(root+"/x/file/now/a/tree", 0o711))
	must(t, os.RemoveAll(root+"/x/filled"))
	must(t, os.Symlink("/x/kept", root+"/x/filled"))
	must(t, os.Remove(root+"/x/todir"))
	must(t, unix.Mkfifo(root+"/x/todir", 0o622))
	must(t, os.Link(root+"/x/tofile", root+"/x/kept/tofile"))
	must(t, os.Chmod(root+"/x/kept", 0o1777))
	run(t, "umoci", "repack", "--refresh-bundle", "--image", layout+":v2", bundle)
	sameAsUmoci(t, layout, "v2")
	chunked := filepath.Join(dir, "chunked")
	testutil.Need(t, "skopeo")
	run(t, "skopeo", "copy", "-q", "--dest-compress-format", "zstd:chunked", "oci:"+layout+":v2", "oci:"+chunked+":v2")
	if got, want := mergedNodes(t, "oci:"+chunked+":v2"), mergedNodes(t, "oci:"+layout+":v2"); fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", want) {
		t.Error("zstd:chunked layers make another tree")
	}
	storedLikeLayout(t, layout, "v2") // the engines themselves fail to store v3

	must(t, os.RemoveAll(root+"/x/kept"))
	must(t, os.WriteFile(root+"/x/kept", nil, 0o4755))
	must(t, os.RemoveAll(root+"/x/file/now"))
	run(t, "umoci", "repack", "--refresh-bundle", "--image", layout+":v3", bundle)
	sameAsUmoci(t, layout, "v3")
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// removeWhatUmociCannot removes sockets and empty xattrs, which umoci does not
// put into layers.
func removeWhatUmociCannot(t testing.TB, root string) {
	t.Helper()
	must(t, filepath.WalkDir(root, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.Type() == fs.ModeSocket {
			return os.Remove(p)
		}
		if e.IsDir() || e.Type().IsRegular() {
			if n, err := unix.Lgetxattr(p, "user.empty", nil); err == nil && n == 0 {
				return unix.Lremovexattr(p, "user.empty")
			}
		}
		return nil
	}))
}
