package sftpserve

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/pkg/sftp"
	"go.uber.org/goleak"

	"github.com/ociv2-sync/ociv2-sync/internal/sftpwire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Whatever a TAG.json names, nothing outside its directory is sent, and what is confined
// stays so.
func TestBlobsStayInside(t *testing.T) {
	dir := t.TempDir()
	for name, data := range map[string]string{"secret": "secret", "srv/app/1.json": "tag", "srv/app/blobs/0": "blob"} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700), os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("../../../secret", filepath.Join(dir, "srv/app/blobs/link")); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(filepath.Join(dir, "srv"))
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	names := []string{"blobs/0", "../../secret", "/secret", "blobs/link"}
	p := &parts{files: &handlers{fsys: root, confined: true}, blobs: func(tag []byte, platform string) ([]string, error) {
		if string(tag) != "tag" || platform != "linux/arm64" {
			t.Errorf("it is asked about %q for %q", tag, platform)
		}
		return names, nil
	}}
	for i, want := range append(names[:1:1], "", "", "", "") {
		part := sftpwire.Part{Path: "/app/1.json", Blob: i + 1, Platform: "linux/arm64"}
		name, err := p.blob(part)
		if err == nil {
			_, _, err = p.read(sftpwire.Part{Path: "/app/" + name, Size: 100})
		}
		if (err == nil) != (want != "") || err == nil && name != want {
			t.Errorf("blob %d: %q, %v", i+1, name, err)
		}
	}
	if _, err := p.blob(sftpwire.Part{Path: "/app/2.json", Blob: 1}); !errors.Is(err, sftp.ErrSSHFxNoSuchFile) {
		t.Errorf("where there is no image: %v", err)
	}
}
