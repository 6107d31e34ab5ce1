package tree

import (
	"errors"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/ociv2-sync/ociv2-sync/catar"
)

// attribute pairs a bit of a filesystem with the feature that records it.
type attribute struct {
	bit  uint32
	flag catar.Flags
}

// chattrs are the inode flags of chattr(1): linux/fs.h.
func chattrs() []attribute {
	return []attribute{
		{0x4, catar.WithFlagCompr},
		{0x8, catar.WithFlagSync},
		{0x10, catar.WithFlagImmutable},
		{0x20, catar.WithFlagAppend},
		{0x40, catar.WithFlagNoDump},
		{0x80, catar.WithFlagNoAtime},
		{0x400, catar.WithFlagNoComp},
		{0x10000, catar.WithFlagDirSync},
		{0x800000, catar.WithFlagNoCow},
		{0x20000000, catar.WithFlagProjInherit},
	}
}

// fatAttrs are the attributes of FAT: linux/msdos_fs.h.
func fatAttrs() []attribute {
	return []attribute{{0x2, catar.WithFlagHidden}, {0x4, catar.WithFlagSystem}, {0x20, catar.WithFlagArchive}}
}

const (
	fatGetAttributes = 0x80047210 // FAT_IOCTL_GET_ATTRIBUTES
	fatSetAttributes = 0x40047211
	fsGetXAttr       = 0x801c581f // FS_IOC_FSGETXATTR
	fsSetXAttr       = 0x401c5820

	inodeImmutable  = 0x10
	inodeAppendOnly = 0x20

	btrfsSubvolCreate   = 0x5000940e // BTRFS_IOC_SUBVOL_CREATE
	btrfsGetSubvolFlags = 0x80089419 // BTRFS_IOC_SUBVOL_GETFLAGS
	btrfsSetSubvolFlags = 0x4008941a
	btrfsSubvolRO       = 1 << 1
	btrfsSubvolInode    = 256 // the root of every subvolume
)

// fsxattr is struct fsxattr of linux/fs.h.
type fsxattr struct {
	xflags, extsize, nextents, projid, cowextsize uint32
	_                                             [8]byte
}

func ioctl(fd int, req uint, arg unsafe.Pointer) error {
	return retry(func() error {
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(req), uintptr(arg)); errno != 0 {
			return errno
		}
		return nil
	})
}

// unsupportedIoctl reports whether an error says that a filesystem has no such
// attributes: filesystems disagree on how to say it.
func unsupportedIoctl(err error) bool {
	for _, e := range []error{unix.ENOTTY, unix.ENOSYS, unix.EBADF, unix.EOPNOTSUPP, unix.EINVAL} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// readFlags returns those file flags of an open directory or regular file that
// the mask has. What the filesystem does not know is not set.
func (d devices) readFlags(fd int, st *unix.Stat_t, mask catar.Flags) (catar.Flags, error) {
	var flags catar.Flags
	if mask&catar.ChAttrs != 0 {
		v, err := getBits(fd, unix.FS_IOC_GETFLAGS, chattrs())
		if err != nil {
			return 0, err
		}
		flags |= v
	}
	if mask&(catar.FATAttrs|catar.WithSubvolume|catar.WithSubvolumeRO) == 0 {
		return flags & mask, nil
	}
	fs, err := d.get(fd, st)
	if err != nil {
		return 0, err
	}
	switch {
	case fs.magic == unix.MSDOS_SUPER_MAGIC:
		v, err := getBits(fd, fatGetAttributes, fatAttrs())
		if err != nil {
			return 0, err
		}
		flags |= v
	case fs.magic == unix.BTRFS_SUPER_MAGIC && st.Mode&unix.S_IFMT == unix.S_IFDIR && st.Ino == btrfsSubvolInode:
		flags |= catar.WithSubvolume
		var v uint64
		if err := ioctl(fd, btrfsGetSubvolFlags, unsafe.Pointer(&v)); err != nil {
			return 0, err
		}
		if v&btrfsSubvolRO != 0 {
			flags |= catar.WithSubvolumeRO
		}
	}
	return flags & mask, nil
}

// getBits returns those of attrs that an open node has; none where the filesystem does
// not know of them.
func getBits(fd int, get uint, attrs []attribute) (flags catar.Flags, err error) {
	v, err := unix.IoctlGetUint32(fd, get)
	if err != nil {
		if unsupportedIoctl(err) {
			return 0, nil
		}
		return 0, err
	}
	for _, a := range attrs {
		if v&a.bit != 0 {
			flags |= a.flag
		}
	}
	return flags, nil
}

// readProjID returns the quota project of an open directory or regular file, 0
// where there are none.
func readProjID(fd int) (uint32, error) {
	var x fsxattr
	err := ioctl(fd, fsGetXAttr, unsafe.Pointer(&x))
	if err != nil && !unsupportedIoctl(err) {
		return 0, err
	}
	return x.projid, nil
}

// setFlags sets quota project and file flags, the flags last: an immutable file
// takes nothing more.
func (s *setter) setFlags(m Meta) {
	if m.ProjID != 0 {
		s.try("project", func() error {
			var x fsxattr
			if err := ioctl(s.fd, fsGetXAttr, unsafe.Pointer(&x)); err != nil {
				return err
			}
			x.projid = m.ProjID
			return ioctl(s.fd, fsSetXAttr, unsafe.Pointer(&x))
		})
	}
	if m.FlagsMask&m.FileFlags&catar.WithSubvolumeRO != 0 {
		s.try("subvolume", func() error {
			v := uint64(btrfsSubvolRO)
			return ioctl(s.fd, btrfsSetSubvolFlags, unsafe.Pointer(&v))
		})
	}
	s.setBits(m, fatAttrs(), fatGetAttributes, fatSetAttributes)
	s.setBits(m, chattrs(), unix.FS_IOC_GETFLAGS, unix.FS_IOC_SETFLAGS)
}

// setBits sets one kind of file flags. A filesystem without them is fine as
// long as none is asked for.
func (s *setter) setBits(m Meta, attrs []attribute, get, set uint) {
	var mask, want uint32
	for _, a := range attrs {
		if m.FlagsMask&a.flag != 0 {
			mask |= a.bit
			if m.FileFlags&a.flag != 0 {
				want |= a.bit
			}
		}
	}
	if mask == 0 || s.err != nil {
		return
	}
	have, err := unix.IoctlGetUint32(s.fd, get)
	if err != nil && want == 0 && unsupportedIoctl(err) {
		return
	}
	s.try("flags", func() error {
		if err != nil || have&mask == want {
			return err
		}
		return unix.IoctlSetPointerInt(s.fd, set, int(have&^mask|want))
	})
}

// clearImmutable takes from an open node the attributes that resist changes.
// That it cannot shows when the change fails.
func clearImmutable(fd int) {
	v, err := unix.IoctlGetUint32(fd, unix.FS_IOC_GETFLAGS)
	if err == nil && v&(inodeImmutable|inodeAppendOnly) != 0 {
		_ = unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, int(v&^(inodeImmutable|inodeAppendOnly)))
	}
}

// clearImmutableBelow does so for a node and all below it.
func (d *Dir) clearImmutableBelow(name string) error {
	st, err := d.lstat(name)
	if err != nil {
		return err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		f, err := d.Open(name)
		if err != nil {
			return err
		}
		clearImmutable(int(f.Fd()))
		return f.Close()
	case unix.S_IFDIR:
		sub, err := d.OpenDir(name)
		if err != nil {
			return err
		}
		clearImmutable(sub.fd)
		names, err := sub.Names()
		for _, n := range names {
			if err == nil {
				err = sub.clearImmutableBelow(n)
			}
		}
		return errors.Join(err, sub.Close())
	}
	return nil
}

// makeSubvolume makes an empty btrfs subvolume.
func (d *Dir) makeSubvolume(name string) error {
	var args struct { // struct btrfs_ioctl_vol_args
		fd   int64
		name [4088]byte
	}
	if len(name) >= len(args.name) {
		return d.error("make subvolume", name, unix.ENAMETOOLONG)
	}
	copy(args.name[:], name)
	return d.do("make subvolume", name, func() error { return ioctl(d.fd, btrfsSubvolCreate, unsafe.Pointer(&args)) })
}
