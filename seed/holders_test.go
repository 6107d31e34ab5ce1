package seed

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ociv2-sync/ociv2-sync/caibx"
	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/internal/testutil"
)

// Chunks are found in a file that has them at another place, in a block device
// over it, and by an index; one that lies finds nothing that is believed.
func TestBlobHasChunks(t *testing.T) {
	content := random(1<<20, 1)
	im := cutImage(t, "disk", content)
	blob := filepath.Join(t.TempDir(), "blob")
	// A device has whole sectors.
	if err := os.WriteFile(blob, slices.Concat(random(70_000, 2), content, random(512-(70_000%512), 3)), 0o600); err != nil {
		t.Fatal(err)
	}
	found := func(path string) (n int) {
		t.Helper()
		s, err := OpenBlob(path, DirOptions{})
		if err != nil {
			t.Fatal(err)
		}
		p, err := Match(t.Context(), im.nodes, []Seed{s}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Cover(im.nodes, im.layout, im.space, func(chunk.ID) bool { return false }); err != nil {
			t.Fatal(err)
		}
		if err := p.Recut(t.Context(), im.nodes, im.space, nil); err != nil {
			t.Fatal(err)
		}
		for _, c := range p.Chunks {
			if c.Origin != Seeded {
				continue
			}
			n++
			f, err := s.Open(t.Context(), c.Path)
			if err != nil {
				t.Fatal(err)
			}
			b := make([]byte, c.Size)
			if _, err := f.(io.ReaderAt).ReadAt(b, c.At); err != nil || chunk.SHA512_256.Sum(b) != c.ID {
				t.Errorf("chunk %s is not at %d: %v", c.ID, c.At, err)
			}
			f.Close()
		}
		return n
	}
	want := found(blob)
	if all := len(im.space.Chunks(0, im.space.Size())); want < all-3 {
		t.Errorf("%d of %d chunks found", want, all)
	}
	t.Run("device", func(t *testing.T) {
		testutil.NeedRoot(t)
		testutil.Need(t, "losetup")
		out, err := exec.CommandContext(t.Context(), "losetup", "--show", "-r", "-f", blob).Output()
		if err != nil {
			t.Skipf("no loop device: %v", err)
		}
		dev := strings.TrimSpace(string(out))
		defer func() {
			if err := exec.Command("losetup", "-d", dev).Run(); err != nil {
				t.Error(err)
			}
		}()
		if n := found(dev); n != want {
			t.Errorf("%d chunks on the device, %d in its file", n, want)
		}
	})
	t.Run("index", func(t *testing.T) {
		b, err := os.ReadFile(blob)
		if err != nil {
			t.Fatal(err)
		}
		x := &caibx.Index{FeatureFlags: caibx.FlagSHA512_256, Params: chunk.DefaultParams()}
		ch, err := chunk.NewChunker(bytes.NewReader(b), x.Params)
		if err != nil {
			t.Fatal(err)
		}
		for {
			b, err := ch.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			x.Chunks = append(x.Chunks, caibx.Chunk{End: x.Size() + uint64(len(b)), ID: chunk.SHA512_256.Sum(b)})
		}
		var index bytes.Buffer
		if _, err := x.WriteTo(&index); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(blob+".caibx", index.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{blob, blob + ".caibx"} {
			if n := found(path); n != want {
				t.Errorf("%s: %d chunks, without an index %d", path, n, want)
			}
		}
		// A blob that its index says more of than it has is cut.
		if err := os.Truncate(blob, 500_000); err != nil {
			t.Fatal(err)
		}
		if n := found(blob); n == 0 || n >= want {
			t.Errorf("%d chunks in half of the blob, %d in all of it", n, want)
		}
		// So is one whose index is none.
		if err := os.WriteFile(blob+".caibx", []byte("nonsense"), 0o600); err != nil {
			t.Fatal(err)
		}
		if n := found(blob); n == 0 {
			t.Error("nothing found beside a broken index")
		}
	})
}

// A blob may be a content as it is.
func TestBlobIsAContent(t *testing.T) {
	content := random(100_000, 1)
	im := cutImage(t, "disk", content)
	blob := filepath.Join(t.TempDir(), "blob")
	link := blob + "-link"
	if err := os.WriteFile(blob, content, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("blob", link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{blob, link} {
		s, err := OpenBlob(path, DirOptions{})
		if err != nil {
			t.Fatal(err)
		}
		p, err := Match(t.Context(), im.nodes, []Seed{s}, nil)
		if err != nil || len(p.Missing) != 0 {
			t.Errorf("%s: %d contents missing, %v", path, len(p.Missing), err)
		}
	}
}
