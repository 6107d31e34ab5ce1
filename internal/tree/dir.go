package tree

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Dir is an open directory. Its methods take names of single components and
// refuse all others, so that no name can lead out of it. It may be used by
// several goroutines at once, as long as none closes it.
type Dir struct {
	fd   int
	path string // for messages only
}

// OpenDir opens the directory at a path of the caller's own choosing; symbolic
// links in it are followed.
func OpenDir(name string) (*Dir, error) {
	fd, err := openat(unix.AT_FDCWD, name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, pathError("open", name, err)
	}
	return &Dir{fd: fd, path: name}, nil
}

// join returns what a name in d is called in messages.
func (d *Dir) join(name string) string {
	if d.path == "" {
		return name
	}
	return d.path + "/" + name // not path.Join: it is done for every file
}

// Path returns what the directory is called in messages.
func (d *Dir) Path() string { return d.path }

// Close closes the directory.
func (d *Dir) Close() error { return pathError("close", d.path, unix.Close(d.fd)) }

// OpenDir opens a directory in d.
func (d *Dir) OpenDir(name string) (*Dir, error) {
	fd, err := d.openat(name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	return &Dir{fd: fd, path: d.join(name)}, nil
}

// Mkdir makes a directory with permissions 0700 and opens it. That it exists is
// an error.
func (d *Dir) Mkdir(name string) (*Dir, error) {
	if err := d.do("mkdir", name, func() error { return unix.Mkdirat(d.fd, name, 0o700) }); err != nil {
		return nil, err
	}
	return d.OpenDir(name)
}

// Open opens a regular file in d for reading. That it is something else is an
// error.
func (d *Dir) Open(name string) (*os.File, error) {
	fd, _, err := d.open(name)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), d.join(name)), nil
}

// open is Open for those who need no more than the descriptor, which takes fewer
// system calls. It returns what stat(2) says of the file as well.
func (d *Dir) open(name string) (int, unix.Stat_t, error) {
	// O_NONBLOCK: a fifo would otherwise block until somebody writes to it.
	fd, err := d.openat(name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return -1, unix.Stat_t{}, err
	}
	st, err := fstat(fd)
	if err == nil && st.Mode&unix.S_IFMT != unix.S_IFREG {
		err = errNotRegular
	}
	if err != nil {
		return -1, st, errors.Join(d.error("open", name, err), unix.Close(fd))
	}
	return fd, st, nil
}

// OpenBelow opens a regular file below d for reading, by the names on its way,
// separated by slashes. No symbolic link is followed.
func (d *Dir) OpenBelow(name string) (*os.File, error) {
	fd, _, err := d.openBelow(name)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), d.join(name)), nil
}

// openBelow is OpenBelow as open is Open.
func (d *Dir) openBelow(name string) (int, unix.Stat_t, error) {
	sub, base, err := d.walkTo(name)
	if err != nil {
		return -1, unix.Stat_t{}, err
	}
	fd, st, err := sub.open(base)
	if sub != d {
		if closeErr := sub.Close(); closeErr != nil && err == nil {
			return -1, st, errors.Join(closeErr, unix.Close(fd))
		}
	}
	return fd, st, err
}

// DirBelow opens the directory below d at the names on its way, "" for d itself.
func (d *Dir) DirBelow(name string) (*Dir, error) {
	sub, _, err := d.walkTo(path.Join(name, "x"))
	if err != nil || sub != d {
		return sub, err
	}
	fd, err := openat(d.fd, ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, pathError("open", d.path, err)
	}
	return &Dir{fd: fd, path: d.path}, nil
}

// walkTo opens the directory that the last of several names is in, which may be
// d, and returns that name.
func (d *Dir) walkTo(name string) (*Dir, string, error) {
	sub := d
	for {
		first, rest, more := strings.Cut(name, "/")
		if !more {
			return sub, name, nil
		}
		next, err := sub.OpenDir(first)
		if sub != d {
			err = errors.Join(err, sub.Close())
		}
		if err != nil {
			return nil, "", err
		}
		sub, name = next, rest
	}
}

var errNotRegular = errors.New("not a regular file")

// Create makes a regular file with permissions 0600 and opens it for reading
// and writing. That the name exists is an error.
func (d *Dir) Create(name string) (*os.File, error) {
	fd, err := d.openat(name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), d.join(name)), nil
}

// Inherits reports whether nodes made in d get xattrs from it: the ACLs that its
// default ACL stands for. What is made in a directory that was itself made in one
// that does not inherit does not either, until that is given a default ACL.
func (d *Dir) Inherits() bool {
	_, err := unix.Fgetxattr(d.fd, xattrDefaultACL, nil)
	return !errors.Is(err, unix.ENODATA) && !errors.Is(err, unix.EOPNOTSUPP)
}

// Symlink makes a symbolic link. The target may be anything; nothing here ever
// follows it.
func (d *Dir) Symlink(target, name string) error {
	err := d.do("symlink", name, func() error { return unix.Symlinkat(target, d.fd, name) })
	if errors.Is(err, unix.ENAMETOOLONG) { // xfs has 1023 bytes, others up to 4095
		err = fmt.Errorf("%w: a target of %d bytes", err, len(target))
	}
	return err
}

// Mknod makes a device, fifo or socket with permissions 0600. mode gives the
// type; major and minor count for devices only.
func (d *Dir) Mknod(name string, mode, major, minor uint32) error {
	var dev uint64
	switch mode & unix.S_IFMT {
	case unix.S_IFBLK, unix.S_IFCHR:
		dev = unix.Mkdev(major, minor)
	case unix.S_IFIFO, unix.S_IFSOCK:
	default:
		return d.error("mknod", name, unix.EINVAL)
	}
	return d.do("mknod", name, func() error { return unix.Mknodat(d.fd, name, mode&unix.S_IFMT|0o600, int(dev)) })
}

// CannotLink reports whether the error of a Link says that the filesystem gives the node
// no other name, or no further one.
func CannotLink(err error) bool {
	for _, e := range []error{unix.EMLINK, unix.EPERM, unix.EOPNOTSUPP, unix.ENOSYS, unix.EXDEV} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// Link makes name another name of the node fromName in the directory from,
// which is not followed if it is a symbolic link.
func (d *Dir) Link(name string, from *Dir, fromName string) error {
	if err := checkName(fromName); err != nil {
		return from.error("link", fromName, err)
	}
	return d.do("link", name, func() error { return unix.Linkat(from.fd, fromName, d.fd, name, 0) })
}

// Rename gives the node from the name to, replacing what has it.
func (d *Dir) Rename(from, to string) error {
	if err := checkName(from); err != nil {
		return d.error("rename", from, err)
	}
	return d.do("rename", to, func() error { return unix.Renameat(d.fd, from, d.fd, to) })
}

// Remove removes a node that is not a directory.
func (d *Dir) Remove(name string) error {
	return d.do("remove", name, func() error { return unix.Unlinkat(d.fd, name, 0) })
}

// RemoveAll removes a node and, if it is a directory, all below it, also where its owner
// may not change what lies there. That there is none is no error.
func (d *Dir) RemoveAll(name string) error {
	err := d.Remove(name)
	switch {
	case err == nil || errors.Is(err, fs.ErrNotExist):
		return nil
	case !errors.Is(err, unix.EISDIR):
		return err
	}
	sub, err := d.OpenOwnDir(name)
	if err != nil {
		return err
	}
	names, err := sub.Names()
	for _, n := range names {
		if err == nil {
			err = sub.RemoveAll(n)
		}
		if errors.Is(err, unix.EACCES) {
			if err = sub.Allow(); err == nil {
				err = sub.RemoveAll(n)
			}
		}
	}
	if err := errors.Join(err, sub.Close()); err != nil {
		return err
	}
	return d.do("remove", name, func() error { return unix.Unlinkat(d.fd, name, unix.AT_REMOVEDIR) })
}

// Names returns the names in the directory, in no order.
func (d *Dir) Names() ([]string, error) {
	// A second descriptor: reading moves the position, and closing an os.File
	// closes its descriptor.
	fd, err := openat(d.fd, ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, pathError("open", d.path, err)
	}
	f := os.NewFile(uintptr(fd), d.path)
	names, err := f.Readdirnames(-1)
	return names, errors.Join(err, f.Close())
}

// lstat returns what stat(2) says of a name.
func (d *Dir) lstat(name string) (unix.Stat_t, error) {
	var st unix.Stat_t
	err := d.do("stat", name, func() error { return unix.Fstatat(d.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW) })
	return st, err
}

// openat opens a name, never through a symbolic link.
func (d *Dir) openat(name string, flags int, mode uint32) (int, error) {
	fd := -1
	err := d.do("open", name, func() (err error) {
		fd, err = openat(d.fd, name, flags|unix.O_NOFOLLOW, mode)
		return err
	})
	return fd, err
}

// do checks the name, runs a system call and names it in its error.
func (d *Dir) do(op, name string, call func() error) error {
	if err := checkName(name); err != nil {
		return d.error(op, name, err)
	}
	return d.error(op, name, retry(call))
}

func (d *Dir) error(op, name string, err error) error {
	if err == nil {
		return nil // without joining the names: it is done for every file
	}
	return pathError(op, path.Join(d.path, name), err)
}

func pathError(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("tree: %w", &fs.PathError{Op: op, Path: name, Err: err})
}

var errBadName = errors.New("not a single path component")

func checkName(name string) error {
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return errBadName
	}
	return nil
}

func openat(dirfd int, name string, flags int, mode uint32) (int, error) {
	fd := -1
	err := retry(func() (err error) {
		fd, err = unix.Openat(dirfd, name, flags|unix.O_CLOEXEC, mode)
		return err
	})
	return fd, err
}

// retry repeats a call that a signal interrupted.
func retry(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// procPath names an open descriptor for calls that take only paths. The kernel
// goes straight to the node, also when it is a symbolic link opened with O_PATH.
func procPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }
