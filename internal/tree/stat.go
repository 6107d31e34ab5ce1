package tree

import (
	"context"
	"errors"
	"io"
	"path"

	"golang.org/x/sys/unix"
)

// ErrChanged means that a file changed while it was read: nothing consistent
// can be said of it.
var ErrChanged = errors.New("changed while it was read")

// filesystemOf says what the filesystem of an open node is. It is virtual if it
// shows the kernel's own state: its files have no size and no fixed contents.
// Archives hold its directories as empty, as casync's do.
func filesystemOf(fd int) (filesystem, error) {
	var fs unix.Statfs_t
	if err := retry(func() error { return unix.Fstatfs(fd, &fs) }); err != nil {
		return filesystem{}, err
	}
	f := filesystem{magic: int64(fs.Type) & 0xffffffff}
	switch f.magic {
	case unix.PROC_SUPER_MAGIC, unix.SYSFS_MAGIC, unix.CGROUP_SUPER_MAGIC, unix.CGROUP2_SUPER_MAGIC,
		unix.DEBUGFS_MAGIC, unix.DEVPTS_SUPER_MAGIC, unix.TRACEFS_MAGIC, unix.SECURITYFS_MAGIC,
		unix.SELINUX_MAGIC, unix.SMACK_MAGIC, unix.BPF_FS_MAGIC, unix.PSTOREFS_MAGIC, unix.EFIVARFS_MAGIC,
		unix.BINFMTFS_MAGIC, unix.HUGETLBFS_MAGIC, unix.NSFS_MAGIC, unix.AUTOFS_SUPER_MAGIC,
		0x62656570, // configfs
		0x65735543, // fusectl
		0x19800202, // mqueue
		0x67596969, // rpc_pipefs
		0x6e667364: // nfsd
		f.virtual = true
	}
	return f, nil
}

// devices remembers by device number what filesystems are.
type devices map[uint64]filesystem

type filesystem struct {
	magic   int64 // of statfs(2)
	virtual bool
}

func (d devices) get(fd int, st *unix.Stat_t) (filesystem, error) {
	f, ok := d[uint64(st.Dev)]
	if !ok {
		var err error
		if f, err = filesystemOf(fd); err != nil {
			return f, err
		}
		d[uint64(st.Dev)] = f
	}
	return f, nil
}

func (d devices) virtual(fd int, st *unix.Stat_t) (bool, error) {
	f, err := d.get(fd, st)
	return f.virtual, err
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
// the snapshot was taken. It takes what an os.File costs beyond a descriptor for
// too much: of a small file that is a third of the system calls.
type contents struct {
	ctx       func() error // the context's Err
	fd        int
	dir, name string // for messages
	was       snapshot
	off, left int64

	// Where the file may have holes: what was found last is that up to data there is
	// one, and from there to end none.
	sparse    bool
	data, end int64
}

// newContents returns the contents of an open file in d that stat(2) says this of.
func newContents(ctx context.Context, d *Dir, name string, fd int, st *unix.Stat_t) *contents {
	return &contents{ctx: ctx.Err, fd: fd, dir: d.path, name: name, was: snapshotOf(st), sparse: st.Blocks*512 < st.Size}
}

func (c *contents) Read(p []byte) (int, error) {
	if err := c.ctx(); err != nil {
		return 0, err
	}
	if c.left == 0 {
		st, err := fstat(c.fd)
		if err == nil && snapshotOf(&st) != c.was {
			err = ErrChanged
		}
		if err != nil {
			return 0, c.error(err)
		}
		return 0, io.EOF
	}
	if int64(len(p)) > c.left {
		p = p[:c.left]
	}
	if len(p) == 0 {
		return 0, nil
	}
	if c.sparse {
		if err := c.find(); err != nil {
			return 0, c.error(err)
		}
	}
	n := 0
	err := retry(func() (err error) {
		switch {
		case c.off < c.data:
			n = int(min(int64(len(p)), c.data-c.off))
			clear(p[:n])
		case c.sparse:
			n, err = unix.Pread(c.fd, p[:min(int64(len(p)), c.end-c.off)], c.off)
		default:
			n, err = unix.Pread(c.fd, p, c.off)
		}
		return err
	})
	if err == nil && n == 0 { // something is still missing
		err = ErrChanged
	}
	if err != nil {
		return 0, c.error(err)
	}
	c.off += int64(n)
	c.left -= int64(n)
	return n, nil
}

// find looks for a hole that lies ahead, and for the data behind it, unless it
// knows.
func (c *contents) find() error {
	if c.off < c.end {
		return nil
	}
	data, err := unix.Seek(c.fd, c.off, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO): // none up to the end
		c.data, c.end = c.was.size, c.was.size
		return nil
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP): // it cannot tell
		c.sparse = false
		return nil
	case err != nil:
		return err
	}
	end, err := unix.Seek(c.fd, data, unix.SEEK_HOLE)
	if errors.Is(err, unix.ENXIO) {
		return ErrChanged // it became shorter
	}
	c.data, c.end = min(data, c.was.size), end
	return err
}

func (c *contents) error(err error) error {
	return pathError("read", path.Join(c.dir, c.name), err)
}

// Close closes the file.
func (c *contents) Close() error {
	return pathError("close", path.Join(c.dir, c.name), unix.Close(c.fd))
}

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
