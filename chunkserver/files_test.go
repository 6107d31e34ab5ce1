package chunkserver

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// What is opened in one system call is what os.Root opens.
func TestBeneath(t *testing.T) {
	outside := t.TempDir()
	in := filepath.Join(outside, "in")
	for _, dir := range []string{"in/sub/deep", "elsewhere"} {
		if err := os.MkdirAll(filepath.Join(outside, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{"in/file", "in/sub/deep/file", "elsewhere/file", "file"} {
		if err := os.WriteFile(filepath.Join(outside, file), []byte(file), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, to := range map[string]string{
		"near": "file", "deeper": "sub/deep/file", "far": "../file", "beside": "../elsewhere", "back": "../in/file",
		"absolute": filepath.Join(in, "file"), "dir": "sub", "up": "sub/..", "loop": "loop", "nowhere": "missing",
	} {
		if err := os.Symlink(to, filepath.Join(in, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mkfifo(filepath.Join(in, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Chdir(in) // the path of a socket is short
	l, err := net.Listen("unix", "socket")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	d, err := openDir(in)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	read := func(f *os.File, err error) string {
		if err != nil {
			return "none"
		}
		defer f.Close()
		fi, err := f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		if !fi.Mode().IsRegular() {
			return fi.Mode().String()
		}
		b, err := io.ReadAll(f)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	for _, name := range []string{
		"file", "sub/deep/file", "sub", "sub/deep", "missing", "file/x", "near", "deeper", "far", "beside/file", "back",
		"absolute", "dir/deep/file", "up/file", "up/up/sub/deep/file", "loop", "nowhere", "fifo", "socket", "../file", "sub/../../file",
	} {
		want := read(d.OpenFile(name, reading, 0))
		got := read(d.beneath(name))
		if got != want {
			t.Errorf("%s: %s, os.Root says %s", name, got, want)
		}
	}
}
