package tree

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// ErrChanged means that a file changed while it was read: nothing consistent
// can be said of it.
var ErrChanged = errors.New("changed while it was read")

// virtual reports whether a filesystem shows the kernel's own state: its files
// have no size and no fixed contents. Archives hold its directories as empty,
// as casync's do.
func virtual(fd int) (bool, error) {
	var fs unix.Statfs_t
	if err := retry(func() error { return unix.Fstatfs(fd, &fs) }); err != nil {
		return false, err
	}
	switch int64(fs.Type) & 0xffffffff {
	case unix.PROC_SUPER_MAGIC, unix.SYSFS_MAGIC, unix.CGROUP_SUPER_MAGIC, unix.CGROUP2_SUPER_MAGIC,
		unix.DEBUGFS_MAGIC, unix.DEVPTS_SUPER_MAGIC, unix.TRACEFS_MAGIC, unix.SECURITYFS_MAGIC,
		unix.SELINUX_MAGIC, unix.SMACK_MAGIC, unix.BPF_FS_MAGIC, unix.PSTOREFS_MAGIC, unix.EFIVARFS_MAGIC,
		unix.BINFMTFS_MAGIC, unix.HUGETLBFS_MAGIC, unix.NSFS_MAGIC, unix.AUTOFS_SUPER_MAGIC,
		0x62656570, // configfs
		0x65735543, // fusectl
		0x19800202, // mqueue
		0x67596969, // rpc_pipefs
		0x6e667364: // nfsd
		return true, nil
	}
	return false, nil
}

// devices remembers by device number which filesystems are virtual.
type devices map[uint64]bool

func (d devices) virtual(fd int, st *unix.Stat_t) (bool, error) {
	v, ok := d[uint64(st.Dev)]
	if !ok {
		var err error
		if v, err = virtual(fd); err != nil {
			return false, err
		}
		d[uint64(st.Dev)] = v
	}
	return v, nil
}

// snapshot is what changes when a file's contents do.
type snapshot struct {
	dev, ino     uint64
	size         int64
	mtime, ctime unix.Timespec
}

func snapshotOf(st *unix.Stat_t) snapshot {
	return snapshot{dev: uint64(st.Dev), ino: st.Ino, size: st.Size, mtime: st.Mtim, ctime: st.Ctim}
}

func fstat(fd int) (unix.Stat_t, error) {
	var st unix.Stat_t
	err := retry(func() error { return unix.Fstat(fd, &st) })
	return st, err
}

// contents reads the size bytes of a regular file that must stay as it was when
// the snapshot was taken.
type contents struct {
	ctx  func() error // the context's Err
	f    *os.File
	was  snapshot
	left int64
}

// newContents takes over f, also when it fails because the file is no longer
// what it was.
func newContents(ctx context.Context, f *os.File, was snapshot, size int64) (*contents, error) {
	c := &contents{ctx: ctx.Err, f: f, was: was, left: size}
	if err := c.unchanged(); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return c, nil
}

func (c *contents) Read(p []byte) (int, error) {
	if err := c.ctx(); err != nil {
		return 0, err
	}
	if c.left == 0 {
		if err := c.unchanged(); err != nil {
			return 0, err
		}
		return 0, io.EOF
	}
	if int64(len(p)) > c.left {
		p = p[:c.left]
	}
	n, err := c.f.Read(p)
	c.left -= int64(n)
	if errors.Is(err, io.EOF) { // something is still missing
		return n, fmt.Errorf("tree: %s: %w", c.f.Name(), ErrChanged)
	}
	return n, err
}

func (c *contents) unchanged() error {
	st, err := fstat(int(c.f.Fd()))
	if err != nil {
		return pathError("stat", c.f.Name(), err)
	}
	if snapshotOf(&st) != c.was {
		return fmt.Errorf("tree: %s: %w", c.f.Name(), ErrChanged)
	}
	return nil
}

// Close closes the file.
func (c *contents) Close() error { return c.f.Close() }

// readlink returns the target of the symbolic link that fd names by O_PATH.
func readlink(fd int) (string, error) {
	buf := make([]byte, unix.PathMax+1)
	n, err := unix.Readlinkat(fd, "", buf)
	if err == nil && n == len(buf) {
		err = unix.ENAMETOOLONG
	}
	return string(buf[:max(n, 0)]), err
}

// otherMount reports whether a directory lies on another mount than the one it
// is found in.
func otherMount(parent, child int) (bool, error) {
	a, err := mountID(parent)
	if err != nil {
		return false, err
	}
	b, err := mountID(child)
	return a != b, err
}

// mountID returns what tells the mount of an open node from others: its id or,
// on Linux before 5.8, its device number.
func mountID(fd int) (uint64, error) {
	var st unix.Statx_t
	err := retry(func() error { return unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &st) })
	if err != nil || st.Mask&unix.STATX_MNT_ID != 0 {
		return st.Mnt_id, err
	}
	return unix.Mkdev(st.Dev_major, st.Dev_minor), nil
}
