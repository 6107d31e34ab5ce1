package tree

import (
	"bytes"
	"errors"
	"slices"
	"strings"

	"github.com/pkg/xattr"
	"golang.org/x/sys/unix"

	"github.com/ociv2-sync/ociv2-sync/toc"
)

// Xattrs that archives hold in records of their own.
const (
	xattrACL        = "system.posix_acl_access"
	xattrDefaultACL = "system.posix_acl_default"
	xattrCaps       = "security.capability"
	xattrSELinux    = "security.selinux"
)

// listXAttrs returns the names of all xattrs of an open node, sorted. fd may be
// an O_PATH descriptor. A filesystem without xattrs has none.
func listXAttrs(fd int) ([]string, error) {
	var names []string
	b, err := readXAttr(fd, "")
	switch {
	case errors.Is(err, unix.EBADF): // O_PATH
		names, err = xattr.List(procPath(fd))
	case len(b) > 0:
		for n := range bytes.SplitSeq(bytes.TrimSuffix(b, []byte{0}), []byte{0}) {
			names = append(names, string(n))
		}
	}
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil, nil
	}
	slices.Sort(names)
	return names, err
}

// readXAttrs returns the xattrs whose name keep accepts, sorted by name.
func readXAttrs(fd int, keep func(name string) bool) ([]toc.XAttr, error) {
	names, err := listXAttrs(fd)
	if err != nil {
		return nil, err
	}
	var out []toc.XAttr
	for _, n := range names {
		if !keep(n) {
			continue
		}
		v, err := getXAttr(fd, n)
		if errors.Is(err, unix.ENODATA) { // removed since it was listed
			continue
		}
		if err != nil {
			return nil, err
		}
		out = append(out, toc.XAttr{Name: n, Value: v})
	}
	return slices.CompactFunc(out, func(a, b toc.XAttr) bool { return strings.Compare(a.Name, b.Name) == 0 }), nil
}

func getXAttr(fd int, name string) ([]byte, error) {
	b, err := readXAttr(fd, name)
	if errors.Is(err, unix.EBADF) {
		return xattr.Get(procPath(fd), name)
	}
	return b, err
}

func setXAttr(fd int, x toc.XAttr) error {
	err := unix.Fsetxattr(fd, x.Name, x.Value, 0)
	if errors.Is(err, unix.EBADF) {
		err = xattr.Set(procPath(fd), x.Name, x.Value)
	}
	return err
}

func removeXAttr(fd int, name string) error {
	err := unix.Fremovexattr(fd, name)
	if errors.Is(err, unix.EBADF) {
		err = xattr.Remove(procPath(fd), name)
	}
	return err
}

// readXAttr returns the value of an xattr or, of "", the list of their names. It tries larger
// and larger buffers as long as the kernel asks for them: most values are tiny, and
// Linux allows 64 KiB today.
func readXAttr(fd int, name string) ([]byte, error) {
	read := func(buf []byte) (int, error) {
		if name == "" {
			return unix.Flistxattr(fd, buf)
		}
		return unix.Fgetxattr(fd, name, buf)
	}
	var small [256]byte
	n, err := read(small[:])
	for size := 64 << 10; errors.Is(err, unix.ERANGE) && size <= 16<<20; size *= 4 {
		buf := make([]byte, size)
		if n, err = read(buf); err == nil {
			return bytes.Clone(buf[:n]), nil
		}
	}
	if err != nil {
		return nil, err
	}
	return bytes.Clone(small[:n]), nil
}
