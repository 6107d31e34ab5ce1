package objects

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/ociv2-sync/ociv2-sync/internal/tree"
	"github.com/ociv2-sync/ociv2-sync/toc"
)

func TestKeyIsThatOfTheFormat(t *testing.T) {
	n := &toc.Node{
		Mode: toc.TypeRegular | 0o4755, UID: 1, GID: 2, Sec: -3, Nsec: 4, Digest: sha256.Sum256([]byte("content")),
		XAttrs: []toc.XAttr{{Name: "user.a", Value: []byte("b")}},
	}
	sum := func(n *toc.Node, again int) string { k := KeyOf(n, again); return hex.EncodeToString(k[:]) }
	// printf of the fields of docs/format/root.md, section 5, | sha256sum
	if got, want := sum(n, 0), "605bcc8d0b17c6d33b66011433f082da7224922aef611be8cc01eb0d9fb7495f"; got != want {
		t.Errorf("key %s, want %s", got, want)
	}
	seen := map[string]bool{sum(n, 0): true, sum(n, 1): true}
	for _, change := range []func(*toc.Node){
		func(n *toc.Node) { n.Mode ^= 1 },
		func(n *toc.Node) { n.UID++ },
		func(n *toc.Node) { n.GID++ },
		func(n *toc.Node) { n.Sec++ },
		func(n *toc.Node) { n.Nsec++ },
		func(n *toc.Node) { n.Digest[0]++ },
		func(n *toc.Node) { n.XAttrs = nil },
		func(n *toc.Node) { n.XAttrs = []toc.XAttr{{Name: "user.ab"}} },
	} {
		m := *n
		change(&m)
		seen[sum(&m, 0)] = true
	}
	if len(seen) != 10 {
		t.Errorf("%d different keys, want 10", len(seen))
	}
}

// An object that is not what its key says is not linked, and leaves the set.
func TestLinkChecksObjects(t *testing.T) {
	for name, damage := range map[string]func(path string) error{
		"nothing":  func(string) error { return nil },
		"bytes":    func(path string) error { return rewrite(path, "CONTENT") },
		"size":     func(path string) error { return rewrite(path, "content and more") },
		"mode":     func(path string) error { return os.Chmod(path, 0o666) },
		"time":     func(path string) error { return os.Chtimes(path, time.Time{}, time.Unix(5, 0)) },
		"type":     func(path string) error { return os.Rename(path, path+".gone") },
		"no bytes": func(path string) error { return rewrite(path, "") },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s, err := Open(filepath.Join(dir, "objects"), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			d, err := tree.OpenDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			n := &toc.Node{
				Name: "file", Mode: toc.TypeRegular | 0o644, UID: uint32(os.Getuid()), GID: uint32(os.Getgid()),
				Sec: 1_700_000_000, Size: 7, Digest: sha256.Sum256([]byte("content")),
			}
			path := filepath.Join(dir, "file")
			if err := rewrite(path, "content"); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(path, 0o644); err != nil {
				t.Fatal(err)
			}
			k := KeyOf(n, 0)
			for range 2 { // also in place of another
				if err := s.Add(d, "file", k); err != nil {
					t.Fatal(err)
				}
			}
			sub, object := k.place()
			if err := damage(filepath.Join(dir, "objects", sub, object)); err != nil {
				t.Fatal(err)
			}
			ok, err := s.Link(t.Context(), d, "another", k, n)
			if want := name == "nothing"; ok != want || err != nil || Has(filepath.Join(dir, "objects"), k) != want {
				t.Errorf("Link = %v, %v", ok, err)
			}
			if _, err := os.Lstat(filepath.Join(dir, "another")); (err == nil) != ok {
				t.Errorf("the link: %v", err)
			}
		})
	}
}

// rewrite gives a file other bytes, and the time that it had.
func rewrite(path, content string) error {
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		return err
	}
	return os.Chtimes(path, time.Time{}, time.Unix(1_700_000_000, 0))
}
