package ocisrc

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/ociv2-sync/ociv2-sync/translate"
)

// FuzzArchive opens and merges hostile archives: an error or an image whose bytes
// are what its digests say, never a panic.
func FuzzArchive(f *testing.F) {
	l := newLayout()
	l.tag("v1", l.image(f, "amd64", "a"))
	l.files["index.json"] = string(encode(f, l.index))
	f.Add(tarFiles(f, l.files), true, "")
	f.Add(tarFiles(f, l.files), true, "v1")
	f.Add(tarFiles(f, dockerFiles(f, true)), false, "@1")
	f.Add(tarFiles(f, dockerFiles(f, false)), false, "a")
	f.Add([]byte{}, false, "")
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, archive []byte, oci bool, tag string) {
		name := filepath.Join(dir, "archive")
		if err := os.WriteFile(name, archive, 0o600); err != nil {
			t.Fatal(err)
		}
		ref := "docker-archive:" + name + ":" + tag
		if oci {
			ref = "oci-archive:" + name + ":" + tag
		}
		img, err := Open(t.Context(), ref, Options{Platform: "linux/amd64"})
		if err != nil {
			return
		}
		s, err := translate.Merge(t.Context(), img, translate.MergeOptions{TempDir: dir, Limits: translate.Limits{Bytes: 8 << 20}})
		if err == nil {
			err = s.Close()
			if err != nil {
				t.Error(err)
			}
		}
		if err := img.Close(); err != nil {
			t.Error(err)
		}
	})
}
