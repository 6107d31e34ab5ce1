package tree

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ociv2-sync/ociv2-sync/toc"
)

// ErrMounted means that something is mounted where a tree is to be changed.
var ErrMounted = errors.New("something is mounted there")

// State is what a directory has under a name.
type State struct {
	st     unix.Stat_t
	target string // of a symbolic link
	xattrs []toc.XAttr
}

// State returns what d has under a name; fs.ErrNotExist if nothing, ErrMounted if
// something is mounted there.
func (d *Dir) State(name string) (*State, error) {
	fd, err := d.openat(name, unix.O_PATH, 0)
	if err != nil {
		return nil, err
	}
	s, err := stateOf(fd)
	if err == nil {
		err = d.sameMount(fd)
	}
	if err := errors.Join(d.error("look at", name, err), unix.Close(fd)); err != nil {
		return nil, err
	}
	return s, nil
}

// Self returns the state of the directory itself.
func (d *Dir) Self() (*State, error) {
	s, err := stateOf(d.fd)
	return s, pathError("look at", d.path, err)
}

// sameMount fails with ErrMounted if the node open at fd, which was found in d, lies
// on another mount.
func (d *Dir) sameMount(fd int) error {
	other, err := otherMount(d.fd, fd)
	if err == nil && other {
		err = ErrMounted
	}
	return err
}

// Unmounted fails with ErrMounted if something is mounted on what d has under a
// name, or anywhere below.
func (d *Dir) Unmounted(name string) error {
	fd, err := d.openat(name, unix.O_PATH, 0)
	if err != nil {
		return err
	}
	st, err := fstat(fd)
	if err == nil {
		err = d.sameMount(fd)
	}
	if err := errors.Join(d.error("look at", name, err), unix.Close(fd)); err != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return err
	}
	sub, err := d.OpenDir(name)
	if err != nil {
		return err
	}
	names, err := sub.Names()
	for _, n := range names {
		if err == nil {
			err = sub.Unmounted(n)
		}
	}
	return errors.Join(err, sub.Close())
}

func stateOf(fd int) (*State, error) {
	st, err := fstat(fd)
	if err != nil {
		return nil, err
	}
	s := &State{st: st}
	if s.st.Mode&unix.S_IFMT == unix.S_IFLNK {
		if s.target, err = readlink(fd); err != nil {
			return nil, err
		}
	}
	s.xattrs, err = readXAttrs(fd, func(string) bool { return true })
	return s, err
}

// Size is the length of a file in bytes.
func (s *State) Size() int64 { return s.st.Size }

// IsDir reports whether it is a directory.
func (s *State) IsDir() bool { return s.st.Mode&unix.S_IFMT == unix.S_IFDIR }

// Inode names the node among its hard links.
func (s *State) Inode() [2]uint64 { return [2]uint64{uint64(s.st.Dev), s.st.Ino} }

// Links is how many names the node has.
func (s *State) Links() int { return int(s.st.Nlink) }

// Same reports whether nothing of the node was changed between two looks at it.
func (s *State) Same(o *State) bool { return snapshotOf(&s.st) == snapshotOf(&o.st) }

// Is reports whether it is the node of a TOC but for its metadata and the contents of a
// file: of the same type, and the same target, device or size.
func (s *State) Is(n *toc.Node) bool {
	if s.st.Mode&unix.S_IFMT != n.Type() {
		return false
	}
	switch n.Type() {
	case toc.TypeRegular:
		return s.st.Size == n.Size
	case toc.TypeSymlink:
		return s.target == n.Target
	case toc.TypeBlock, toc.TypeChar:
		return unix.Major(uint64(s.st.Rdev)) == n.Major && unix.Minor(uint64(s.st.Rdev)) == n.Minor
	}
	return true
}

// Has reports whether the node has the metadata m, so that to set it would change
// nothing. File flags and projects are not looked at, and the mode is always compared:
// only directories may lack one in an archive.
func (s *State) Has(m Meta) bool {
	link := s.st.Mode&unix.S_IFMT == unix.S_IFLNK
	if !m.keepOwner && (s.st.Uid != m.UID || s.st.Gid != m.GID) || !link && (s.st.Mode^m.Mode)&0o7777 != 0 ||
		!m.keepTime && (int64(s.st.Mtim.Sec) != m.Sec || int32(s.st.Mtim.Nsec) != m.Nsec) {
		return false
	}
	have := slices.DeleteFunc(slices.Clone(s.xattrs), func(x toc.XAttr) bool {
		_, wanted := slices.BinarySearchFunc(m.XAttrs, x.Name, func(x toc.XAttr, name string) int { return strings.Compare(x.Name, name) })
		return !wanted && (!managed(x.Name) || m.keepXAttr != nil && m.keepXAttr(x.Name))
	})
	return slices.EqualFunc(have, m.XAttrs, func(a, b toc.XAttr) bool { return a.Name == b.Name && bytes.Equal(a.Value, b.Value) })
}

// Hasher compares the bytes of files with nodes, one file after the other.
type Hasher struct {
	hash hash.Hash
	buf  []byte
}

// NewHasher returns a Hasher, for one goroutine.
func NewHasher() *Hasher { return &Hasher{sha256.New(), make([]byte, 256<<10)} }

// Has reports whether the regular file that d has under the name of n has the bytes of n, and
// does not change while they are read.
func (h *Hasher) Has(ctx context.Context, d *Dir, n *toc.Node) (bool, error) {
	fd, st, err := d.open(n.Name)
	if err != nil {
		return false, err
	}
	c := newContents(ctx, d, n.Name, fd, &st)
	c.left = st.Size
	h.hash.Reset()
	if st.Size == n.Size {
		_, err = io.CopyBuffer(h.hash, c, h.buf)
	}
	if err = errors.Join(err, c.Close()); errors.Is(err, ErrChanged) {
		return false, nil
	}
	return err == nil && st.Size == n.Size && [sha256.Size]byte(h.hash.Sum(h.buf[:0])) == n.Digest, err
}

// Hash returns the SHA-256 of the rest of a file, of about size bytes.
func Hash(ctx context.Context, f *os.File, size int64) ([sha256.Size]byte, error) {
	h := sha256.New()
	_, err := io.CopyBuffer(h, &interruptible{ctx.Err, f}, make([]byte, max(512, min(256<<10, size))))
	return [sha256.Size]byte(h.Sum(nil)), err
}

// interruptible is a file whose reading ends with a context.
type interruptible struct {
	err  func() error
	file *os.File
}

func (r *interruptible) Read(p []byte) (int, error) {
	if err := r.err(); err != nil {
		return 0, err
	}
	return r.file.Read(p)
}

// Allow lets the owner of the directory open and change it, whatever its mode was.
func (d *Dir) Allow() error {
	return pathError("set mode of", d.path, retry(func() error { return unix.Fchmod(d.fd, 0o700) }))
}

// OpenOwnDir opens a directory in d; one that its owner may not open is given the
// mode 0700 first.
func (d *Dir) OpenOwnDir(name string) (*Dir, error) {
	sub, err := d.OpenDir(name)
	if !errors.Is(err, unix.EACCES) {
		return sub, err
	}
	fd, err := d.openat(name, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	err = retry(func() error { return unix.Fchmodat(unix.AT_FDCWD, procPath(fd), 0o700, 0) })
	if err := errors.Join(d.error("set mode of", name, err), unix.Close(fd)); err != nil {
		return nil, err
	}
	return d.OpenDir(name)
}

// MoveFrom gives the node that the directory from has under a name the name to in d,
// in place of what is no directory and has it.
func (d *Dir) MoveFrom(from *Dir, name, to string) error {
	if err := checkName(name); err != nil {
		return from.error("rename", name, err)
	}
	return d.do("rename", to, func() error { return unix.Renameat(from.fd, name, d.fd, to) })
}

// Sync waits until everything on the filesystem of d is on the disk.
func (d *Dir) Sync() error {
	if err := retry(func() error { return unix.Syncfs(d.fd) }); err != nil {
		return fmt.Errorf("tree: %s: %w", path.Clean(d.path), err)
	}
	return nil
}
