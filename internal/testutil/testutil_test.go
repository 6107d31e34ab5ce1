package testutil

import (
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestBuildTreeIsReproducible(t *testing.T) {
	a, b := filepath.Join(t.TempDir(), "a"), filepath.Join(t.TempDir(), "b")
	for _, dir := range []string{a, b} {
		BuildTree(t, dir)
		BuildBeyondCasync(t, dir)
	}
	NeedRoot(t) // an ordinary user cannot read all of the tree again
	CompareTrees(t, a, b)
}

func TestBuildTreeHasEverything(t *testing.T) {
	NeedRoot(t)
	dir := t.TempDir()
	BuildTree(t, dir)
	nodes, err := readTree(dir)
	if err != nil {
		t.Fatal(err)
	}
	types := map[uint32]int{}
	xattrs := map[string]int{}
	linked := 0
	for path, n := range nodes {
		types[n.st.Mode&unix.S_IFMT]++
		if n.leader != path {
			linked++
		}
		for name := range n.xattrs {
			xattrs[name]++
		}
	}
	for _, typ := range []uint32{unix.S_IFREG, unix.S_IFDIR, unix.S_IFLNK, unix.S_IFCHR, unix.S_IFBLK, unix.S_IFIFO, unix.S_IFSOCK} {
		if types[typ] == 0 {
			t.Errorf("no node of type %#o", typ)
		}
	}
	for _, name := range []string{"user.empty", "trusted.note", "security.capability", "system.posix_acl_access", "system.posix_acl_default"} {
		if xattrs[name] == 0 {
			t.Errorf("no attribute %s", name)
		}
	}
	if linked != 4 {
		t.Errorf("%d further names of hard links, want 4", linked)
	}
	if n := nodes["owners/setuid-user"]; n.st.Mode&0o7777 != 0o6755 || n.st.Uid != 1000 {
		t.Errorf("owners/setuid-user: mode %#o uid %d", n.st.Mode, n.st.Uid)
	}
}

// TestCasyncTakesBuildTree holds BuildTree to its word.
func TestCasyncTakesBuildTree(t *testing.T) {
	NeedRoot(t)
	Need(t, "casync")
	dir, out := filepath.Join(t.TempDir(), "in"), filepath.Join(t.TempDir(), "out")
	BuildTree(t, dir)
	archive := filepath.Join(t.TempDir(), "tree.catar")
	var with []string
	for _, name := range []string{"32bit-uids", "nsec-time", "acl", "symlinks", "device-nodes", "fifos", "sockets", "xattrs", "fcaps"} {
		with = append(with, "--with="+name)
	}
	for _, verb := range [][]string{{"make", archive, dir}, {"extract", archive, out}} {
		args := append(slices.Clone(with), verb...)
		if output, err := exec.CommandContext(t.Context(), "casync", args...).CombinedOutput(); err != nil {
			t.Fatalf("casync %q: %v\n%s", args, err, output)
		}
	}
	CompareTrees(t, dir, out, Without(HardLinks))
}

func TestDiffTreesSeesEachAspect(t *testing.T) {
	for name, change := range map[string]func(file string) error{
		"mode": func(f string) error { return os.Chmod(f, 0o600) },
		"time": func(f string) error {
			return unix.UtimesNanoAt(unix.AT_FDCWD, f, []unix.Timespec{{}, {Nsec: 1}}, unix.AT_SYMLINK_NOFOLLOW)
		},
		"size": func(f string) error { return os.Truncate(f, 1) },
		"content": func(f string) error {
			st, err := os.Stat(f)
			if err != nil {
				return err
			}
			if err := os.WriteFile(f, []byte("contenT"), 0); err != nil {
				return err
			}
			return os.Chtimes(f, st.ModTime(), st.ModTime())
		},
		"attribute": func(f string) error { return unix.Lsetxattr(f, "user.a", []byte("b"), 0) },
		"missing":   os.Remove,
		"type":      func(f string) error { return replace(f, os.Symlink) },
		"first name": func(f string) error {
			if err := os.Remove(f); err != nil {
				return err
			}
			return os.Link(filepath.Join(filepath.Dir(f), "a-other"), f)
		},
		"there": func(f string) error { return os.WriteFile(f+"2", nil, 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			want, got := t.TempDir(), t.TempDir()
			for _, dir := range []string{want, got} {
				for _, file := range []string{"file", "a-other"} {
					must(t, os.WriteFile(filepath.Join(dir, file), []byte("content"), 0o644))
				}
			}
			must(t, change(filepath.Join(got, "file")))
			differences, err := DiffTrees(want, got, func(path string) Aspect {
				if path == "file" && name == "time" {
					return 0
				}
				return Time
			})
			must(t, err)
			if !strings.Contains(strings.Join(differences, "\n"), name) {
				t.Errorf("differences %q, want %q in them", differences, name)
			}
			if len(differences) > 1 {
				t.Errorf("%d differences, want 1: %q", len(differences), differences)
			}
		})
	}
}

func replace(file string, symlink func(target, name string) error) error {
	if err := os.Remove(file); err != nil {
		return err
	}
	return symlink("x", file)
}

func TestNginxCounts(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "a b"), []byte("0123456789"), 0o600))
	n := StartNginx(t, dir)
	get := func(path, byteRange string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, n.URL+path, nil)
		must(t, err)
		if byteRange != "" {
			req.Header.Set("Range", byteRange)
		}
		resp, err := http.DefaultClient.Do(req)
		must(t, err)
		_, err = io.Copy(io.Discard, resp.Body)
		must(t, err)
		must(t, resp.Body.Close())
	}
	for range 50 {
		n.Reset()
		get("/a%20b?x=1", "")
		get("/a%20b", "bytes=2-4")
		requests, body := n.Count()
		if requests != 2 || body != 13 {
			t.Fatalf("%d requests of %d bytes, want 2 of 13", requests, body)
		}
	}
	got := n.Requests()
	if got[0].Path != "/a%20b?x=1" || got[0].Status != 200 || got[1].Range != "bytes=2-4" || got[1].Status != 206 || got[0].Connection != got[1].Connection {
		t.Errorf("requests are %+v", got)
	}
}
