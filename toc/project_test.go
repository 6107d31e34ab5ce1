package toc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"

	"github.com/pkg/xattr"

	"github.com/ociv2-sync/ociv2-sync/catar"
	"github.com/ociv2-sync/ociv2-sync/internal/testutil"
)

// TestLayout holds the layout against the bytes: each offset is where the
// content really lies.
func TestLayout(t *testing.T) {
	src := sample().source()
	l, err := NewLayout(src.Nodes)
	if err != nil {
		t.Fatal(err)
	}
	image := catarOf(t, src)
	if uint64(len(image)) != l.CatarSize {
		t.Fatalf("catar of %d bytes, layout says %d", len(image), l.CatarSize)
	}
	var rest bytes.Buffer
	if err := WriteExtra(t.Context(), src, &rest); err != nil {
		t.Fatal(err)
	}
	if uint64(rest.Len()) != l.ExtraSize {
		t.Fatalf("extra of %d bytes, layout says %d", rest.Len(), l.ExtraSize)
	}
	if want := "too deep" + "left out" + "left out with its directory"; rest.String() != want {
		t.Errorf("extra holds %q, want %q", rest.String(), want)
	}
	if validate(src.Nodes, true) != nil {
		t.Error("digests are missing after both parts were written")
	}
	image = append(image, rest.Bytes()...)
	covered := make(map[[32]byte]bool)
	for i := range src.Nodes {
		n := &src.Nodes[i]
		if l.Offset[i] < 0 {
			continue
		}
		covered[n.Digest] = true
		r, err := src.Open(t.Context(), leader(src.Nodes, i))
		if err != nil {
			t.Fatal(err)
		}
		want, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if got := image[l.Offset[i]:][:n.Size]; !bytes.Equal(got, want) {
			t.Errorf("%q is not at %d", Path(src.Nodes, i), l.Offset[i])
		}
	}
	for i := range src.Nodes {
		if n := &src.Nodes[i]; n.Size > 0 && !covered[n.Digest] {
			t.Errorf("content of %q lies nowhere", Path(src.Nodes, i))
		}
	}
}

// TestCatarReads holds the projected catar against package catar's own reader.
func TestCatarReads(t *testing.T) {
	src := sample().source()
	image := catarOf(t, src)
	l, err := NewLayout(src.Nodes)
	if err != nil {
		t.Fatal(err)
	}
	r := catar.NewReader(bytes.NewReader(image))
	for i := range included(src.Nodes) {
		e, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		n := &src.Nodes[i]
		if e.Name != n.Name || e.Depth != n.Depth || n.Size > 0 && int64(e.PayloadOffset) != l.Offset[i] {
			t.Fatalf("%q: got %+v", Path(src.Nodes, i), e)
		}
	}
	if _, err := r.Next(); !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
}

// TestWriteCatarFails checks that contents that do not fit their nodes, and a
// reader that fails, are errors of the right kind that name the file.
func TestWriteCatarFails(t *testing.T) {
	broken := errors.New("broken disk")
	tests := []struct {
		name string
		r    io.Reader
		is   error
		want string
	}{
		{"short", strings.NewReader("1234"), ErrContent, "ends after 4 of 5 bytes"},
		{"long", strings.NewReader("123456"), ErrContent, "longer than 5 bytes"},
		{"other", strings.NewReader("1234!"), ErrContent, "has SHA-256"},
		{"read error", io.MultiReader(strings.NewReader("12"), iotest.ErrReader(broken)), broken, "broken"},
		{"late read error", io.MultiReader(strings.NewReader("12345"), iotest.ErrReader(broken)), broken, "broken"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			src := &Source{Nodes: tree{"dir/f": file(0o644, "12345")}.toc().Nodes}
			src.Open = func(context.Context, int) (io.ReadCloser, error) { return io.NopCloser(tt.r), nil }
			err := WriteCatar(t.Context(), src, io.Discard)
			if !errors.Is(err, tt.is) || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "dir/f") {
				t.Errorf("got %v", err)
			}
		})
	}
	src := tree{"f": file(0o644, "12345")}.source()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := WriteCatar(ctx, src, io.Discard); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if err := WriteCatar(t.Context(), src, iotest.TruncateWriter(failing{}, 0)); err != nil {
		t.Errorf("truncated: %v", err)
	}
	if err := WriteCatar(t.Context(), src, failing{}); !errors.Is(err, errFull) {
		t.Errorf("full: %v", err)
	}
}

var errFull = errors.New("full")

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, errFull }

func TestLayoutTooLarge(t *testing.T) {
	nodes := tree{"a": file(0o644, "x"), "b": file(0o644, "x")}.source().Nodes
	nodes[1].Size, nodes[2].Size = 1<<61, 1<<61
	if _, err := NewLayout(nodes); !errors.Is(err, ErrInvalid) {
		t.Error(err)
	}
	nodes[1].Size, nodes[2].Size = 1<<63-1, 1<<63-1
	if _, err := NewLayout(nodes); !errors.Is(err, ErrInvalid) {
		t.Error(err)
	}
}

// TestCasyncExtracts lets casync extract the projection of the sample, and
// compares what it makes with what docs/format/projection.md promises.
func TestCasyncExtracts(t *testing.T) {
	testutil.Need(t, "casync")
	testutil.NeedRoot(t)
	src := sample().source()
	work := t.TempDir()
	archive, out := filepath.Join(work, "a.catar"), filepath.Join(work, "out")
	if err := os.WriteFile(archive, catarOf(t, src), 0o600); err != nil {
		t.Fatal(err)
	}
	casync := func(args ...string) string {
		t.Helper()
		b, err := exec.CommandContext(t.Context(), "casync", args...).CombinedOutput()
		if err != nil {
			t.Fatalf("casync %q: %v\n%s", args, err, b)
		}
		return string(b)
	}
	list := casync("list", archive)
	casync("extract", archive, out)

	want := 0
	for i := range included(src.Nodes) {
		want++
		checkExtracted(t, filepath.Join(out, Path(src.Nodes, i)), src, i)
	}
	if got := strings.Count(list, "\n"); got < want {
		t.Errorf("casync lists %d nodes, want %d", got, want)
	}
	got := 0
	err := filepath.WalkDir(out, func(string, fs.DirEntry, error) error {
		got++
		return nil
	})
	if err != nil || got != want {
		t.Errorf("casync made %d nodes, want %d (%v)", got, want, err)
	}
}

func checkExtracted(t *testing.T, p string, src *Source, i int) {
	t.Helper()
	n := &src.Nodes[i]
	e := entry(n)
	var st syscall.Stat_t
	if err := syscall.Lstat(p, &st); err != nil {
		t.Error(err)
		return
	}
	if st.Mode != n.Mode || st.Uid != e.UID || st.Gid != e.GID {
		t.Errorf("%q: mode %o, owner %d:%d, want %o, %d:%d", p, st.Mode, st.Uid, st.Gid, n.Mode, e.UID, e.GID)
	}
	if got := uint64(st.Mtim.Nano()); got != e.MTime {
		t.Errorf("%q: time %d, want %d", p, got, e.MTime)
	}
	switch n.Type() {
	case TypeRegular:
		r, got := io.Reader(strings.NewReader("")), []byte(nil)
		if n.Size > 0 {
			r, _ = src.Open(t.Context(), leader(src.Nodes, i))
		}
		want, _ := io.ReadAll(r)
		got, err := os.ReadFile(p)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%q: content differs (%v)", p, err)
		}
	case TypeSymlink:
		if got, err := os.Readlink(p); err != nil || got != n.Target {
			t.Errorf("%q: target %q (%v)", p, got, err)
		}
	case TypeBlock, TypeChar:
		major, minor := uint32(st.Rdev>>8&0xfff), uint32(st.Rdev&0xff|st.Rdev>>12&0xfff00)
		if major != n.Major || minor != n.Minor {
			t.Errorf("%q: device %d:%d, want %d:%d", p, major, minor, n.Major, n.Minor)
		}
	}
	names, err := xattr.LList(p)
	if err != nil {
		t.Error(err)
		return
	}
	got := make(map[string]string)
	for _, name := range names {
		v, err := xattr.LGet(p, name)
		if err != nil {
			t.Error(err)
		}
		got[name] = string(v)
	}
	if want := projectedXAttrs(n, &e); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%q: attributes %q, want %q", p, got, want)
	}
}

// projectedXAttrs gives the attributes that a filesystem shows for e.
func projectedXAttrs(n *Node, e *catar.Entry) map[string]string {
	m := make(map[string]string)
	for _, x := range e.XAttrs {
		m[x.Name] = string(x.Value)
	}
	if e.ACL != nil {
		m[xattrAccess] = string(e.ACL.Posix(n.Mode).XAttr())
	}
	if e.DefaultACL != nil {
		m[xattrDefault] = string(e.DefaultACL.XAttr())
	}
	if e.FCaps != nil {
		m[xattrCaps] = string(e.FCaps)
	}
	return m
}
