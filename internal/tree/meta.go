package tree

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ociv2-sync/ociv2-sync/catar"
	"github.com/ociv2-sync/ociv2-sync/toc"
)

// Meta is the metadata of a node.
type Meta struct {
	Mode     uint32 // S_IFMT | 07777; permissions of symbolic links are ignored
	UID, GID uint32
	Sec      int64 // modification time; negative before 1970
	Nsec     int32 // 0 to 999999999

	// XAttrs has the xattrs under the names of the kernel, ACLs and
	// capabilities among them. Other xattrs of the namespaces user, trusted,
	// the ACLs and the capabilities are removed from the node; those that only
	// the host's policy gives, such as security.selinux, stay.
	XAttrs []toc.XAttr

	// NoXAttrs says that the node has no xattrs that would have to be removed:
	// it was just made in a directory that does not hand any down (Dir.Inherits).
	NoXAttrs bool

	FileFlags catar.Flags // the attributes of chattr(1) and of FAT
	FlagsMask catar.Flags // which of them to set; the others stay
	ProjID    uint32      // quota project; 0 is left alone

	// What an archive does not record stays as it is.
	keepOwner, keepMode, keepTime bool
	readOnly                      bool // with keepMode: nobody may write
	keepXAttr                     func(name string) bool
}

// MetaOf returns the metadata of a node of a TOC.
func MetaOf(n *toc.Node) Meta {
	return Meta{Mode: n.Mode, UID: n.UID, GID: n.GID, Sec: n.Sec, Nsec: n.Nsec, XAttrs: n.XAttrs}
}

// Unrestored names an attribute that the system did not let us set: for want of
// privilege, or because the filesystem cannot hold it.
type Unrestored struct {
	Path string // of the node, for people
	What string // "owner", "mode", "mtime", "flags", "project", "subvolume", "node", "hard link" or "xattr NAME"
	Err  error
}

func (u Unrestored) Error() string {
	return fmt.Sprintf("tree: %s: %s not restored: %v", u.Path, u.What, u.Err)
}

// Unwrap returns the cause.
func (u Unrestored) Unwrap() error { return u.Err }

// MayLack reports whether an error says that we may not, or the filesystem
// cannot: what becomes an Unrestored rather than a failure.
func MayLack(err error) bool {
	for _, e := range []error{
		unix.EPERM, unix.EACCES, unix.EOPNOTSUPP, unix.ENOTTY, unix.EINVAL, unix.ENOSYS, unix.E2BIG, unix.ERANGE,
		unix.ENAMETOOLONG,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// SetSelf sets the metadata of the directory itself. It comes after everything
// that is made in the directory.
func (d *Dir) SetSelf(m Meta) ([]Unrestored, error) { return setMeta(d.fd, d.path, m, false) }

// SetMeta sets the metadata of a node in d that is not a directory.
func (d *Dir) SetMeta(name string, m Meta) ([]Unrestored, error) {
	flags := unix.O_PATH
	if m.Mode&unix.S_IFMT == unix.S_IFREG {
		flags = unix.O_RDONLY | unix.O_NONBLOCK
	}
	fd, err := d.openat(name, flags, 0)
	if err != nil {
		return nil, err
	}
	st, err := fstat(fd)
	if err == nil && (st.Mode^m.Mode)&unix.S_IFMT != 0 {
		// Somebody else's node has the name now; its attributes are not ours.
		err = errOtherType
	}
	if err != nil {
		return nil, errors.Join(d.error("set metadata of", name, err), unix.Close(fd))
	}
	notes, err := setMeta(fd, d.join(name), m, flags == unix.O_PATH)
	return notes, errors.Join(err, unix.Close(fd))
}

var errOtherType = errors.New("is of another type than it was made")

// fder is an open file, such as *os.File.
type fder interface {
	Fd() uintptr
	Name() string
}

// SetFileMeta sets the metadata of an open regular file.
func SetFileMeta(f fder, m Meta) ([]Unrestored, error) {
	return setMeta(int(f.Fd()), f.Name(), m, false)
}

// setter sets attributes of one open node.
type setter struct {
	fd    int
	path  string
	notes []Unrestored
	err   error
}

// try makes a system call unless one failed before, and reports whether it
// succeeded. What the system does not let us do is noted.
func (s *setter) try(what string, call func() error) bool {
	if s.err != nil {
		return false
	}
	err := retry(call)
	switch {
	case err == nil:
		return true
	case MayLack(err):
		s.notes = append(s.notes, Unrestored{Path: s.path, What: what, Err: err})
	default:
		s.err = pathError("set "+what+" of", s.path, err)
	}
	return false
}

// setMeta sets all attributes: owner first, because a change of owner clears
// capabilities and setuid bits; the mode after the xattrs, because it must not
// open the file to anybody earlier; times, then flags, since immutable files
// take no other change.
func setMeta(fd int, name string, m Meta, isPath bool) ([]Unrestored, error) {
	s := &setter{fd: fd, path: name}
	owned := m.keepOwner || s.try("owner", func() error {
		return unix.Fchownat(fd, "", int(m.UID), int(m.GID), unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW)
	})
	s.setXAttrs(m)
	if m.Mode&unix.S_IFMT != unix.S_IFLNK {
		s.setMode(m, owned, isPath)
	}
	if !m.keepTime {
		s.try("mtime", func() error { return setTime(fd, m) })
	}
	if !isPath {
		s.setFlags(m)
	}
	return s.notes, s.err
}

func (s *setter) setMode(m Meta, owned, isPath bool) {
	perm := m.Mode & 0o7777
	if m.keepMode {
		if !m.readOnly || s.err != nil {
			return
		}
		st, err := fstat(s.fd)
		if err != nil {
			s.err = pathError("stat", s.path, err)
			return
		}
		perm = st.Mode & 0o7777 &^ 0o222
	}
	if !owned && perm&0o6000 != 0 {
		// The bits would lend the rights of whoever extracts.
		perm &^= 0o6000
		s.notes = append(s.notes, Unrestored{Path: s.path, What: "mode", Err: errNotOwner})
	}
	s.try("mode", func() error {
		if isPath {
			return unix.Fchmodat(unix.AT_FDCWD, procPath(s.fd), perm, 0)
		}
		return unix.Fchmod(s.fd, perm)
	})
}

var (
	errNotOwner   = errors.New("setuid and setgid need the owner")
	errNoSuchName = errors.New("no such user or group here")
)

// setTime sets the modification time, and the access time to the same.
func setTime(fd int, m Meta) error {
	t, err := unix.TimeToTimespec(time.Unix(m.Sec, int64(m.Nsec)))
	if err != nil {
		return err
	}
	ts := []unix.Timespec{t, t}
	err = unix.UtimesNanoAt(fd, "", ts, unix.AT_EMPTY_PATH)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL) { // Linux before 5.8
		err = unix.UtimesNanoAt(unix.AT_FDCWD, procPath(fd), ts, 0)
	}
	if err == nil && (m.Sec < 0 || m.Sec > 1<<31-1) {
		// Filesystems that cannot hold such a time take another without a word.
		st, err := fstat(fd)
		if err == nil && int64(st.Mtim.Sec) != m.Sec {
			err = unix.ERANGE
		}
		return err
	}
	return err
}

// managed reports whether an xattr that Meta does not have is removed.
func managed(name string) bool {
	return strings.HasPrefix(name, "user.") || strings.HasPrefix(name, "trusted.") ||
		name == xattrCaps || name == xattrACL || name == xattrDefaultACL
}

func (s *setter) setXAttrs(m Meta) {
	if s.err != nil {
		return
	}
	if !m.NoXAttrs {
		s.removeXAttrs(m)
	}
	for _, x := range m.XAttrs {
		s.try("xattr "+x.Name, func() error { return setXAttr(s.fd, x) })
	}
}

// removeXAttrs removes the managed xattrs that m does not have.
func (s *setter) removeXAttrs(m Meta) {
	have, err := listXAttrs(s.fd)
	if err != nil {
		s.err = pathError("list xattrs of", s.path, err)
		return
	}
	for _, name := range have {
		_, keep := slices.BinarySearchFunc(m.XAttrs, name, func(x toc.XAttr, n string) int { return strings.Compare(x.Name, n) })
		if !keep && managed(name) && (m.keepXAttr == nil || !m.keepXAttr(name)) {
			s.try("xattr "+name, func() error { return removeXAttr(s.fd, name) })
		}
	}
}
