package testutil

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Aspect is a set of what CompareTrees compares.
type Aspect uint8

const (
	Presence  Aspect = 1 << iota // the node is on both sides; without it the node is not looked at
	Mode                         // permission bits and setuid, setgid, sticky; the type is always compared
	Owner                        // uid and gid
	Time                         // modification time, in nanoseconds
	XAttrs                       // every extended attribute, ACLs and capabilities included
	HardLinks                    // which names are the same inode
)

// Without leaves the aspects out of the comparison of every node.
func Without(a Aspect) func(path string) Aspect { return func(string) Aspect { return a } }

// maxDifferences is how many differences one CompareTrees reports.
const maxDifferences = 25

// CompareTrees fails the test when the directories want and got, themselves
// included, differ in any name, type, mode, owner, time, size, content, symlink
// target, device number, extended attribute or hard-link group. Each function in
// leaveOut gets a node's path relative to the trees ("." is the root) and returns
// what is not to be compared there.
func CompareTrees(t testing.TB, want, got string, leaveOut ...func(path string) Aspect) {
	t.Helper()
	differences, err := DiffTrees(want, got, leaveOut...)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range differences[:min(len(differences), maxDifferences)] {
		t.Error(d)
	}
	if more := len(differences) - maxDifferences; more > 0 {
		t.Errorf("and %d more differences", more)
	}
}

// DiffTrees returns what CompareTrees reports, one line each, in the order of the
// paths.
func DiffTrees(want, got string, leaveOut ...func(path string) Aspect) ([]string, error) {
	a, err := readTree(want)
	if err != nil {
		return nil, err
	}
	b, err := readTree(got)
	if err != nil {
		return nil, err
	}
	paths := slices.Sorted(maps.Keys(a))
	for path := range b {
		if a[path] == nil {
			paths = append(paths, path)
		}
	}
	slices.Sort(paths)
	var differences []string
	for _, path := range paths {
		var skip Aspect
		for _, f := range leaveOut {
			skip |= f(path)
		}
		lines, err := diffNode(a[path], b[path], skip)
		if err != nil {
			return nil, err
		}
		for _, line := range lines {
			differences = append(differences, fmt.Sprintf("%q: %s", path, line))
		}
	}
	return differences, nil
}

// node is one name of a tree.
type node struct {
	path   string // on disk
	st     unix.Stat_t
	target string
	xattrs map[string]string
	leader string // the first path, by bytes, of the hard-link group; its own where it is alone
}

type inode struct{ dev, ino uint64 }

func readTree(dir string) (map[string]*node, error) {
	nodes := map[string]*node{}
	leaders := map[inode]string{}
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		n := &node{path: path}
		if err := unix.Lstat(path, &n.st); err != nil {
			return &os.PathError{Op: "lstat", Path: path, Err: err}
		}
		if n.st.Mode&unix.S_IFMT == unix.S_IFLNK {
			if n.target, err = os.Readlink(path); err != nil {
				return err
			}
		}
		if n.xattrs, err = readXAttrs(path); err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		nodes[rel] = n
		if id := (inode{n.st.Dev, n.st.Ino}); leaders[id] == "" || rel < leaders[id] {
			leaders[id] = rel
		}
		return nil
	})
	for _, n := range nodes {
		n.leader = leaders[inode{n.st.Dev, n.st.Ino}]
	}
	return nodes, err
}

func readXAttrs(path string) (map[string]string, error) {
	names := make([]byte, 64<<10) // the kernel's own limit on a list and on a value
	n, err := unix.Llistxattr(path, names)
	if errors.Is(err, unix.ENOTSUP) {
		return nil, nil
	}
	if err != nil {
		return nil, &os.PathError{Op: "listxattr", Path: path, Err: err}
	}
	xattrs := map[string]string{}
	value := make([]byte, 64<<10)
	for name := range strings.SplitSeq(strings.TrimSuffix(string(names[:n]), "\x00"), "\x00") {
		if name == "" {
			continue
		}
		n, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			return nil, &os.PathError{Op: "getxattr " + name, Path: path, Err: err}
		}
		xattrs[name] = string(value[:n])
	}
	return xattrs, nil
}

func diffNode(a, b *node, skip Aspect) ([]string, error) {
	switch {
	case skip&Presence != 0:
		return nil, nil
	case b == nil:
		return []string{"missing"}, nil
	case a == nil:
		return []string{"should not be there"}, nil
	}
	var lines []string
	differ := func(what, format string, x, y any) {
		lines = append(lines, fmt.Sprintf("%s is "+format+", want "+format, what, y, x))
	}
	if x, y := a.st.Mode&unix.S_IFMT, b.st.Mode&unix.S_IFMT; x != y {
		differ("type", "%#o", x, y)
		return lines, nil
	}
	if x, y := a.st.Mode&0o7777, b.st.Mode&0o7777; x != y && skip&Mode == 0 {
		differ("mode", "%#o", x, y)
	}
	if x, y := [2]uint32{a.st.Uid, a.st.Gid}, [2]uint32{b.st.Uid, b.st.Gid}; x != y && skip&Owner == 0 {
		differ("owner", "%d", x, y)
	}
	if a.st.Mtim != b.st.Mtim && skip&Time == 0 {
		differ("time", "%d", a.st.Mtim, b.st.Mtim)
	}
	if a.target != b.target {
		differ("target", "%q", a.target, b.target)
	}
	if a.leader != b.leader && skip&HardLinks == 0 {
		differ("first name of the inode", "%q", a.leader, b.leader)
	}
	if skip&XAttrs == 0 {
		lines = append(lines, diffXAttrs(a.xattrs, b.xattrs)...)
	}
	switch a.st.Mode & unix.S_IFMT {
	case unix.S_IFCHR, unix.S_IFBLK:
		if a.st.Rdev != b.st.Rdev {
			differ("device", "%#x", a.st.Rdev, b.st.Rdev)
		}
	case unix.S_IFREG:
		if a.st.Size != b.st.Size {
			differ("size", "%d", a.st.Size, b.st.Size)
			return lines, nil
		}
		at, err := firstDifference(a.path, b.path)
		if err != nil {
			return nil, err
		}
		if at >= 0 {
			lines = append(lines, fmt.Sprintf("content differs at byte %d", at))
		}
	}
	return lines, nil
}

func diffXAttrs(a, b map[string]string) (lines []string) {
	for name, x := range a {
		if y, ok := b[name]; !ok {
			lines = append(lines, "attribute "+name+" is missing")
		} else if x != y {
			lines = append(lines, fmt.Sprintf("attribute %s is %q, want %q", name, y, x))
		}
	}
	for name := range b {
		if _, ok := a[name]; !ok {
			lines = append(lines, "attribute "+name+" should not be there")
		}
	}
	return lines
}

// firstDifference returns where two files of the same size first differ, or -1.
func firstDifference(pathA, pathB string) (int64, error) {
	a, err := os.Open(pathA)
	if err != nil {
		return 0, err
	}
	defer a.Close()
	b, err := os.Open(pathB)
	if err != nil {
		return 0, err
	}
	defer b.Close()
	x, y := make([]byte, 64<<10), make([]byte, 64<<10)
	for at := int64(0); ; {
		n, errA := io.ReadFull(a, x)
		m, errB := io.ReadFull(b, y)
		if !bytes.Equal(x[:n], y[:m]) {
			for i := range min(n, m) {
				if x[i] != y[i] {
					return at + int64(i), nil
				}
			}
			return at + int64(min(n, m)), nil
		}
		at += int64(n)
		if errA != nil {
			if errors.Is(errA, io.EOF) || errors.Is(errA, io.ErrUnexpectedEOF) {
				return -1, nil
			}
			return 0, errA
		}
		if errB != nil {
			return 0, errB
		}
	}
}
