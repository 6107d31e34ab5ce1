package tree

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/ociv2-sync/ociv2-sync/catar"
	"github.com/ociv2-sync/ociv2-sync/internal/testutil"
)

func TestListIsCasyncs(t *testing.T) {
	testutil.Need(t, "casync")
	testutil.NeedRoot(t)
	dir := t.TempDir()
	testutil.BuildTree(t, dir)
	for c := 1; c < 256; c++ {
		if c != '/' {
			write(t, filepath.Join(dir, "byte-"+string([]byte{byte(c)})), "")
		}
	}
	for mode := range uint32(8) {
		for _, perm := range []uint32{0, 0o111, 0o777, 0o666} {
			f := filepath.Join(dir, fmt.Sprintf("mode-%d%03o", mode, perm))
			write(t, f, "")
			chmod(t, f, mode<<9|perm)
			mkdir(t, f+"-dir")
			chmod(t, f+"-dir", mode<<9|perm)
		}
	}
	archive := casyncMake(t, dir)
	file := filepath.Join(t.TempDir(), "a.catar")
	if err := os.WriteFile(file, archive, 0o600); err != nil {
		t.Fatal(err)
	}
	want, err := exec.Command(testutil.Tool(t, "casync"), "list", file).Output()
	if err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	if err := List(t.Context(), catar.NewReader(bytes.NewReader(archive)), &got); err != nil {
		t.Fatal(err)
	}
	if got.String() != string(want) {
		t.Errorf("got\n%s\nwant\n%s", got.String(), want)
	}
}
