package tree

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ociv2-sync/ociv2-sync/catar"
	"github.com/ociv2-sync/ociv2-sync/toc"
)

// inspector reads what an archive records of open nodes, contents aside. What it
// has seen of users and filesystems it remembers, so that each goroutine needs its
// own.
type inspector struct {
	flags catar.Flags
	shift IDShift
	users *names
	devs  devices
}

func newInspector(opts EncodeOptions) inspector {
	return inspector{flags: opts.Flags, shift: opts.Shift, users: newNames(), devs: devices{}}
}

// otherMount reports whether a node in d is left out because it is a mount point.
func (i *inspector) otherMount(d *Dir, fd int) (bool, error) {
	if !i.flags.Has(catar.ExcludeSubmounts) {
		return false, nil
	}
	return otherMount(d.fd, fd)
}

// fileFlags reads the flags of an open directory or regular file in d, and
// reports whether it is left out because it is a mount point or has the nodump
// attribute.
func (i *inspector) fileFlags(d *Dir, fd int, st *unix.Stat_t) (flags catar.Flags, leftOut bool, err error) {
	if leftOut, err = i.otherMount(d, fd); err != nil || leftOut {
		return 0, leftOut, err
	}
	mask := i.flags
	if i.flags.Has(catar.ExcludeNoDump) {
		mask |= catar.WithFlagNoDump
	}
	flags, err = i.devs.readFlags(fd, st, mask)
	return flags & i.flags, i.flags.Has(catar.ExcludeNoDump) && flags.Has(catar.WithFlagNoDump), err
}

// entry reads what the archive's features record of an open node, apart from its
// file flags.
func (i *inspector) entry(fd int, st *unix.Stat_t, flags catar.Flags) (*catar.Entry, error) {
	ent := &catar.Entry{Mode: st.Mode & (catar.ModeType | 0o7777), FileFlags: flags}
	if i.flags.Has(catar.WithNsecTime | catar.WithUsecTime | catar.WithSecTime | catar.With2SecTime) {
		ent.MTime = uint64(int64(st.Mtim.Sec)*1e9 + int64(st.Mtim.Nsec))
	}
	if err := i.owner(ent, st); err != nil {
		return nil, err
	}
	if ent.IsRegular() || ent.IsDir() {
		if err := i.inode(ent, fd, st); err != nil {
			return nil, err
		}
	}
	if ent.Mode&catar.ModeType != catar.ModeSymlink {
		if err := i.xattrs(ent, fd); err != nil {
			return nil, err
		}
		if i.flags.Has(catar.WithPermissions) {
			if err := dropACL(ent, fd); err != nil {
				return nil, err
			}
		}
	}
	i.flags.Mask(ent)
	return ent, nil
}

func (i *inspector) owner(ent *catar.Entry, st *unix.Stat_t) (err error) {
	if ent.UID, ent.User, err = i.id(st.Uid, i.users.user); err != nil {
		return err
	}
	ent.GID, ent.Group, err = i.id(st.Gid, i.users.group)
	return err
}

// id returns what the archive records of a user or group: a shifted number, the
// name on this system (casync, too, names the unshifted id), or both.
func (i *inspector) id(id uint32, lookup func(uint32) string) (stored uint32, name string, err error) {
	if i.flags.Has(catar.WithUserNames) {
		name = lookup(id)
	}
	if i.flags.Has(catar.With16BitUIDs | catar.With32BitUIDs) {
		stored, err = i.shift.store(id)
		return stored, name, err
	}
	if i.flags.Has(catar.WithUserNames) && name == "" && id != 0 {
		// casync writes the number as a name, which nothing can extract.
		return 0, "", fmt.Errorf("owner id %d has no name: %w", id, catar.ErrUnsupported)
	}
	return 0, name, nil
}

// inode reads what only directories and regular files have.
func (i *inspector) inode(ent *catar.Entry, fd int, st *unix.Stat_t) (err error) {
	v, err := i.devs.virtual(fd, st)
	if err != nil {
		return err
	}
	if ent.IsRegular() && !v {
		ent.Size = uint64(st.Size)
	}
	if i.flags.Has(catar.WithQuotaProjID) {
		if ent.ProjID, err = readProjID(fd); err != nil {
			return err
		}
	}
	return nil
}

// xattrs reads the xattrs, and what the kernel keeps as such.
func (i *inspector) xattrs(ent *catar.Entry, fd int) error {
	all, err := readXAttrs(fd, func(name string) bool {
		switch name {
		case xattrACL, xattrDefaultACL:
			return i.flags.Has(catar.WithACL)
		case xattrCaps:
			return i.flags.Has(catar.WithFCaps)
		case xattrSELinux:
			return i.flags.Has(catar.WithSELinux)
		}
		return i.flags.Has(catar.WithXAttrs) && catar.StorableXAttr(catar.XAttr{Name: name})
	})
	if err != nil {
		return err
	}
	for _, x := range all {
		if err := i.xattr(ent, x); err != nil {
			return err
		}
	}
	return nil
}

// dropACL takes from the mode what it only has as the mask of an ACL. casync
// leaves it, which gives the group the rights of the ACL's other users.
func dropACL(ent *catar.Entry, fd int) error {
	v, err := getXAttr(fd, xattrACL)
	if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	if err != nil {
		return err
	}
	p, err := catar.ParsePosixACL(v)
	if err != nil {
		return err
	}
	ent.Mode = withoutACL(ent.Mode, p)
	return nil
}

func (i *inspector) xattr(ent *catar.Entry, x toc.XAttr) error {
	switch x.Name {
	case xattrCaps:
		ent.FCaps = x.Value
	case xattrSELinux:
		ent.SELinux = strings.TrimRight(string(x.Value), "\x00")
	case xattrACL, xattrDefaultACL:
		p, err := catar.ParsePosixACL(x.Value)
		if err != nil {
			return err
		}
		if p.Users, err = i.aclEntries(p.Users, i.users.user); err != nil {
			return err
		}
		if p.Groups, err = i.aclEntries(p.Groups, i.users.group); err != nil {
			return err
		}
		if x.Name == xattrACL {
			ent.ACL = p.Access()
		} else {
			ent.DefaultACL = &p
		}
	default:
		ent.XAttrs = append(ent.XAttrs, catar.XAttr{Name: x.Name, Value: x.Value})
	}
	return nil
}

// aclEntries shifts and names the entries of an ACL.
func (i *inspector) aclEntries(l []catar.ACLEntry, lookup func(uint32) string) (_ []catar.ACLEntry, err error) {
	for k := range l {
		if l[k].ID, l[k].Name, err = i.id(l[k].ID, lookup); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(l, catar.ACLEntry.Compare)
	return l, nil
}
