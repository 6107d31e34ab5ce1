package sftpstore_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ociv2-sync/ociv2-sync/internal/repo"
	"github.com/ociv2-sync/ociv2-sync/internal/repo/repotest"
	"github.com/ociv2-sync/ociv2-sync/internal/sftpserve"
	"github.com/ociv2-sync/ociv2-sync/internal/sftpwire"
)

// earlyKey names the variable that says how many of our requests come before the first
// answer.
const earlyKey = "SFTPSTORE_TEST_EARLY"

// serveLater answers nothing before all has come that is to be asked for in one flight,
// and ends where anything of ours is asked for after that.
func serveLater() error {
	var want int
	if _, err := fmt.Sscan(os.Getenv(earlyKey), &want); err != nil {
		return err
	}
	var first bytes.Buffer
	for n := -1; n < want; n++ { // INIT, too
		if _, err := io.CopyN(&first, os.Stdin, 4); err != nil {
			return err
		}
		size := binary.BigEndian.Uint32(first.Bytes()[first.Len()-4:])
		if _, err := io.CopyN(&first, os.Stdin, int64(size)); err != nil {
			return err
		}
	}
	later := sftpwire.NewReader(os.Stdin, func(kind byte, _ uint32) bool { return kind == sftpwire.TypeExtended }, func(byte, uint32, []byte) bool {
		fmt.Fprintln(os.Stderr, "a request that was not needed")
		os.Exit(1)
		return true
	})
	in := io.MultiReader(&first, later)
	return sftpserve.Serve(context.Background(), struct {
		io.Reader
		io.WriteCloser
	}{in, os.Stdout}, sftpserve.Options{Blobs: repo.Blobs})
}

// What is read first is asked for before the far side has said a word, and no more than
// once: TAG.json, and of an image of which there is nothing what its plan needs.
func TestExpect(t *testing.T) {
	dir := t.TempDir()
	space, err := repo.CreateDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer space.Close()
	p := repotest.Publication(t, space, strings.Repeat("content", 1000))
	if err := repotest.Push(t.Context(), space, "app:1", p); err != nil {
		t.Fatal(err)
	}
	ref, err := repo.ParseRef(dir + "/app:1")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		host  string
		blobs bool
		early string
	}{
		{"later", false, "1"},
		{"later", true, "10"},
		// Servers that know nothing of it, or not all.
		{"ours", true, ""},
		{"go", true, ""},
		{"plain", true, ""},
	} {
		t.Setenv(earlyKey, c.early)
		d := open(t, "ssh://"+c.host+dir, options(t))
		d.Expect("app/1.json", "linux/amd64", c.blobs)
		im, err := repo.Open(t.Context(), d, ref)
		if err != nil {
			t.Fatalf("%+v: %v", c, err)
		}
		if !c.blobs {
			continue
		}
		tree, err := im.Tree(t.Context())
		if err != nil || len(tree.TOC.Nodes) != 2 {
			t.Fatalf("%+v: %v", c, err)
		}
		x, err := im.Catar(t.Context())
		if err != nil || len(x.Sizes) != len(p.Catar.Sizes) {
			t.Fatalf("%+v: %v", c, err)
		}
	}
}

// A blob that is longer than what was asked for beforehand is read on, and one that is
// not what it should be is none.
func TestExpectLong(t *testing.T) {
	for _, size := range []int{4*sftpwire.MaxPart - 1, 4 * sftpwire.MaxPart, 4*sftpwire.MaxPart + 1, 6 * sftpwire.MaxPart} {
		dir := t.TempDir()
		writeFile(t, dir, "1.json", 100)
		if err := os.Mkdir(filepath.Join(dir, "blobs"), 0o700); err != nil {
			t.Fatal(err)
		}
		want := writeFile(t, dir, "blobs/0", size)
		d := open(t, "ssh://blobs"+dir, options(t))
		d.Expect("1.json", "", true)
		if b, err := d.ReadFile(t.Context(), "1.json", 16<<20); err != nil || len(b) != 100 {
			t.Fatalf("%d bytes, %v", len(b), err)
		}
		if b, err := d.ReadFile(t.Context(), "blobs/0", int64(size)); err != nil || !bytes.Equal(b, want) {
			t.Errorf("%d bytes of %d, %v", len(b), size, err)
		}
		if b, err := d.ReadFile(t.Context(), "blobs/0", int64(size)-1); err == nil {
			t.Errorf("%d bytes of %d where fewer are allowed", len(b), size)
		}
	}
}
