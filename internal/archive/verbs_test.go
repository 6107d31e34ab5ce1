package archive_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ociv2-sync/ociv2-sync/catar"
	"github.com/ociv2-sync/ociv2-sync/internal/archive"
	"github.com/ociv2-sync/ociv2-sync/internal/stores"
	"github.com/ociv2-sync/ociv2-sync/internal/testutil"
	"github.com/ociv2-sync/ociv2-sync/store/httpstore"
)

// text returns what a verb of ours writes about an input.
func text(t *testing.T, verb, input, sub string) string {
	t.Helper()
	return said(t, verb, open(t, input), sub)
}

// said returns what a verb of ours writes about an open input.
func said(t *testing.T, verb string, in *archive.Input, sub string) string {
	t.Helper()
	if err := in.Enter(t.Context(), sub); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	var err error
	switch verb {
	case "list":
		err = archive.List(t.Context(), in, true, func(path string, e *catar.Entry) error {
			b.WriteString(archive.Line(path, e) + "\n")
			return nil
		})
	case "mtree":
		err = archive.MTree(t.Context(), in, &b)
	case "stat":
		err = archive.Stat(t.Context(), in, &b, time.Local)
	case "digest":
		var d string
		d, err = archive.Digest(t.Context(), in)
		b.WriteString(d + "\n")
	}
	if err != nil {
		t.Fatalf("%s %s: %v", verb, sub, err)
	}
	return b.String()
}

// tree builds a tree with every kind of node that casync can store.
func tree(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "tree")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	testutil.BuildTree(t, dir)
	return dir
}

// TestVerbs compares all that is printed of archives, indexes, directories and
// the nodes in them with what casync prints.
func TestVerbs(t *testing.T) {
	testutil.Need(t, "casync")
	testutil.NeedRoot(t)
	source := tree(t)
	dir := t.TempDir()
	inputs := []string{source, filepath.Join(dir, "x.catar"), filepath.Join(dir, "x.caidx")}
	for _, name := range inputs[1:] {
		casync(t, "make", name, source)
	}
	var paths []string
	err := archive.List(t.Context(), open(t, source), true, func(path string, e *catar.Entry) error {
		if !strings.ContainsAny(path, "\\") && (e.IsDir() || e.IsRegular()) {
			paths = append(paths, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	step := max(1, len(paths)/12) // a sample of nodes; the program starts for each
	server := testutil.StartNginx(t, dir)
	client := httpstore.NewClient(httpstore.Options{})
	defer client.Close()
	overHTTP := func(verb, input, sub string) string {
		in, err := archive.Open(t.Context(), server.URL+"/"+filepath.Base(input), archive.OpenOptions{Flags: flags(t), Clients: stores.Clients{HTTP: client}, TempDir: t.TempDir()})
		must(t, err)
		defer in.Close()
		return said(t, verb, in, sub)
	}
	for _, input := range inputs {
		for _, verb := range []string{"list", "mtree", "stat", "digest"} {
			if got, want := text(t, verb, input, ""), casync(t, verb, input); got != want {
				t.Errorf("%s %s:\n%s\ncasync:\n%s", verb, filepath.Base(input), got, want)
			}
			if input == source {
				continue // casync finds nodes in archives alone
			}
			for _, sub := range []string{"", paths[len(paths)/2]} {
				if got, want := overHTTP(verb, input, sub), text(t, verb, input, sub); got != want {
					t.Errorf("%s %s %s from a server:\n%s\nlocal:\n%s", verb, filepath.Base(input), sub, got, want)
				}
			}
			for i := 1; i < len(paths); i += step {
				if got, want := text(t, verb, input, paths[i]), casync(t, verb, input, paths[i]); got != want {
					t.Errorf("%s %s %s:\n%s\ncasync:\n%s", verb, filepath.Base(input), paths[i], got, want)
				}
			}
		}
	}
}

// TestSubtree extracts single nodes as casync does.
func TestSubtree(t *testing.T) {
	testutil.Need(t, "casync")
	testutil.NeedRoot(t)
	source := tree(t)
	dir := t.TempDir()
	index := filepath.Join(dir, "x.caidx")
	makeOf(t, source, index, nil)
	entries, err := os.ReadDir(source)
	if err != nil {
		t.Fatal(err)
	}
	for i, e := range entries {
		if i%3 != 0 && !e.IsDir() {
			continue
		}
		ours, theirs := filepath.Join(dir, "ours"), filepath.Join(dir, "theirs")
		in := open(t, index)
		if err := in.Enter(t.Context(), e.Name()); err != nil {
			t.Fatal(err)
		}
		if _, err := archive.Extract(t.Context(), in, ours, everything(t)); err != nil {
			t.Fatal(err)
		}
		casync(t, "extract", index, theirs, e.Name())
		at := []func(string) testutil.Aspect{testutil.Without(testutil.HardLinks)}
		testutil.CompareTrees(t, filepath.Join(theirs, e.Name()), filepath.Join(ours, e.Name()), at...)
		for _, d := range []string{ours, theirs} {
			if err := os.RemoveAll(d); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestEnter refuses what is no node, also of a stream.
func TestEnter(t *testing.T) {
	source := t.TempDir()
	write(t, filepath.Join(source, "a"), []byte("contents"))
	file := filepath.Join(t.TempDir(), "x.catar")
	makeOf(t, source, file, nil)
	for path, want := range map[string]error{"": nil, "./": nil, "//a": nil, "./a/": nil, "b": fs.ErrNotExist, "a/b": fs.ErrNotExist, "..": archive.ErrUsage, "a/../a": archive.ErrUsage} {
		for _, name := range []string{file, "-"} {
			in, err := archive.Open(t.Context(), name, archive.OpenOptions{Stdin: bytes.NewReader(read(t, file)), TempDir: t.TempDir()})
			if err != nil {
				t.Fatal(err)
			}
			if err := in.Enter(t.Context(), path); !errors.Is(err, want) {
				t.Errorf("%q: %v, want %v", path, err, want)
			}
			if err := in.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	if err := open(t, source).Enter(t.Context(), "a"); err != nil {
		t.Errorf("a directory: %v", err)
	}
}

// TestURL reads archives from a server: whole, and one node of each.
func TestURL(t *testing.T) {
	source := t.TempDir()
	want := blob(600_000, 1)
	write(t, filepath.Join(source, "a"), []byte("before"))
	write(t, filepath.Join(source, "b"), want)
	dir := t.TempDir()
	for _, name := range []string{"x.catar", "x.caidx"} {
		makeOf(t, source, filepath.Join(dir, name), nil)
	}
	write(t, filepath.Join(dir, "blob"), want)
	server := testutil.StartNginx(t, dir)
	client := httpstore.NewClient(httpstore.Options{})
	defer client.Close()
	fetch := func(name, sub string) string {
		in, err := archive.Open(t.Context(), server.URL+"/"+name, archive.OpenOptions{Clients: stores.Clients{HTTP: client}, TempDir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		if err := in.Enter(t.Context(), sub); err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		cat := archive.Cat
		if sub == "" && in.IsArchive() {
			cat = archive.MTree
		}
		if err := errors.Join(cat(t.Context(), in, &b), in.Close()); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	for _, name := range []string{"x.catar", "x.caidx"} {
		if got := fetch(name, "b"); got != string(want) {
			t.Errorf("%s: cat gives %d bytes", name, len(got))
		}
		if got := fetch(name, ""); got != text(t, "mtree", filepath.Join(dir, name), "") {
			t.Errorf("%s: mtree gives %s", name, got)
		}
	}
	if got := fetch("blob", ""); got != string(want) {
		t.Errorf("cat of a blob gives %d bytes", len(got))
	}
	server.Reset()
	fetch("x.caidx", "a")
	if n := len(server.Requests()); n > 4 {
		t.Errorf("%d requests for a small file of an index", n)
	}
}

// TestDiff finds each kind of change, between all kinds of inputs.
func TestDiff(t *testing.T) {
	testutil.NeedRoot(t)
	dir := t.TempDir()
	at := func(parts ...string) string { return filepath.Join(append([]string{dir}, parts...)...) }
	for _, side := range []string{"a", "b"} {
		for _, d := range []string{side, side + "/d", side + "/d2"} {
			if err := os.Mkdir(at(d), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		for _, f := range []string{"same", "content", "mode", "owner", "time", "xattr", "type", "d/x", "d2/in " + side} {
			write(t, at(side, f), []byte("contents"))
		}
		if err := os.Symlink("to "+side, at(side, "link")); err != nil {
			t.Fatal(err)
		}
		write(t, at(side, "only "+side), nil)
	}
	for _, err := range []error{
		os.WriteFile(at("b", "content"), []byte("Contents"), 0o600), os.Chmod(at("b", "mode"), 0o640), os.Chown(at("b", "owner"), 7, 8),
		os.Remove(at("b", "type")), os.Mkdir(at("b", "type"), 0o700), os.RemoveAll(at("b", "d")),
		setXAttr(at("b", "xattr"), "user.x", "y"),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	same := time.Unix(1_600_000_000, 5)
	for _, side := range []string{"b", "a"} {
		err := filepath.WalkDir(at(side), func(path string, _ fs.DirEntry, err error) error {
			return errors.Join(err, lutimes(path, same))
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chtimes(at("b", "time"), same.Add(1), same.Add(1)); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"~ content [content]", "- d []", "- d/x []", "- d2/in\\040a []", "+ d2/in\\040b []", "~ link [target]", "~ mode [mode]",
		"- only\\040a []", "+ only\\040b []", "~ owner [owner names]", "~ time [time]", "~ type [type]", "~ xattr [xattrs]",
	}
	for _, ext := range []string{"", ".catar", ".caidx"} {
		if ext != "" {
			makeOf(t, at("a"), at("a"+ext), nil)
		}
		got := diff(t, at("a"+ext), at("b"))
		if !slices.Equal(got, want) {
			t.Errorf("%q:\n%s\nwant\n%s", ext, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		if got := diff(t, at("a"+ext), at("a")); len(got) > 0 {
			t.Errorf("%q differs from itself: %v", ext, got)
		}
	}
	if got := diff(t, at("a", "content"), at("b", "content")); !slices.Equal(got, []string{"~ byte 0 [content]"}) {
		t.Errorf("blobs: %v", got)
	}
	if got := diff(t, at("a", "content"), at("a", "same")); len(got) > 0 {
		t.Errorf("equal blobs: %v", got)
	}
	err := archive.Diff(t.Context(), open(t, at("a")), open(t, at("a", "same")), nil)
	if !errors.Is(err, archive.ErrUsage) {
		t.Errorf("a tree and a blob: %v", err)
	}
}

func diff(t *testing.T, a, b string) []string {
	t.Helper()
	var got []string
	err := archive.Diff(t.Context(), open(t, a), open(t, b), func(c archive.Change) error {
		got = append(got, string(c.Kind)+" "+c.Path+" ["+strings.Join(c.What, " ")+"]")
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// TestCatRefuses what is no file.
func TestCatRefuses(t *testing.T) {
	source := t.TempDir()
	if err := os.Mkdir(filepath.Join(source, "d"), 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "x.catar")
	makeOf(t, source, file, nil)
	for _, sub := range []string{"", "d"} {
		in := open(t, file)
		if err := in.Enter(t.Context(), sub); err != nil {
			t.Fatal(err)
		}
		if err := archive.Cat(context.WithoutCancel(t.Context()), in, io.Discard); !errors.Is(err, archive.ErrUsage) {
			t.Errorf("%q: %v", sub, err)
		}
	}
}
