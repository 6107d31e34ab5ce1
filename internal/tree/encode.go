package tree

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ociv2-sync/ociv2-sync/catar"
	"github.com/ociv2-sync/ociv2-sync/toc"
)

// IDShift maps the owners of a tree that was made for a user namespace.
// Encoding takes Base off every id, extracting adds it; either takes the id
// modulo Range. Range 0 changes nothing.
type IDShift struct{ Base, Range uint32 }

// store maps an id of the disk to one of an archive. Ids below Base have none.
func (s IDShift) store(id uint32) (uint32, error) {
	if s.Range == 0 {
		return id, nil
	}
	if id < s.Base {
		return 0, fmt.Errorf("owner id %d is below the shift of %d: %w", id, s.Base, catar.ErrUnsupported)
	}
	return (id - s.Base) % s.Range, nil
}

// EncodeOptions say what of a tree goes into its archive.
type EncodeOptions struct {
	// Flags are the archive's features. The exclude bits among them say whether
	// .caexclude files, other mounts and the nodump attribute are honoured.
	Flags catar.Flags
	Shift IDShift
	// Contents, if set, is told of each regular file that is not empty, before
	// its contents are written, and what stat(2) said of it.
	Contents func(FileAt, *unix.Stat_t)
	// Skip leaves the contents out of what is written: Contents says where they
	// belong.
	Skip bool
}

// FileAt says where an archive has a file.
type FileAt struct {
	Dir, Name string // Dir is the path below the root, "" in the root itself
	Entry     uint64 // offset in the archive of the ENTRY record
	Contents  uint64 // offset of the contents
	Size      uint64 // of these, in bytes
}

// Encode writes the tree at dir as an archive, byte for byte what casync makes
// of it with the same features; docs/format/catar.md, section 5, has the
// exceptions. What the features do not cover is left out; what the format
// cannot hold at all is an error that matches catar.ErrUnsupported, and a file
// that changes meanwhile one that matches ErrChanged.
func Encode(ctx context.Context, dir string, opts EncodeOptions, w io.Writer) error {
	root, err := OpenDir(dir)
	if err != nil {
		return err
	}
	e := &encoder{
		w: catar.NewWriter(w, opts.Flags), flags: opts.Flags, shift: opts.Shift, contents: opts.Contents, skip: opts.Skip,
		users: newNames(), devs: devices{}, buf: make([]byte, 256<<10),
	}
	err = e.root(ctx, root)
	return errors.Join(err, root.Close())
}

type encoder struct {
	w     *catar.Writer
	flags catar.Flags
	shift IDShift
	users *names
	devs  devices
	buf   []byte

	contents func(FileAt, *unix.Stat_t)
	skip     bool
	path     string // of the directory that is being encoded, below the root
}

func (e *encoder) root(ctx context.Context, root *Dir) error {
	st, err := fstat(root.fd)
	if err != nil {
		return pathError("stat", root.path, err)
	}
	flags, err := e.devs.readFlags(root.fd, &st, e.flags)
	if err != nil {
		return pathError("read flags of", root.path, err)
	}
	if err := e.dir(ctx, root, &st, flags, "", 0, nil); err != nil {
		return err
	}
	return e.w.Close()
}

// dir encodes the directory d, which has these file flags, and all below it. rules
// are the exclude rules of the directories above that may match in it.
func (e *encoder) dir(ctx context.Context, d *Dir, st *unix.Stat_t, flags catar.Flags, name string, depth int, rules []rule) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	ent, err := e.entry(d.fd, st, flags)
	if err != nil {
		return pathError("read", d.path, err)
	}
	ent.Name, ent.Depth = name, depth
	if err := e.write(d.path, "", ent); err != nil {
		return err
	}
	if v, err := e.devs.virtual(d.fd, st); err != nil || v {
		return pathError("statfs", d.path, err)
	}
	if e.flags.Has(catar.ExcludeFile) {
		own, err := readExcludeFile(d)
		if err != nil {
			return err
		}
		rules = append(slices.Clip(rules), own...)
	}
	all, err := d.Names()
	if err != nil {
		return err
	}
	slices.Sort(all)
	for _, n := range all {
		if err := e.child(ctx, d, n, depth+1, rules); err != nil {
			return err
		}
	}
	return nil
}

// child encodes one node in d, unless it is left out.
func (e *encoder) child(ctx context.Context, d *Dir, name string, depth int, rules []rule) error {
	st, err := d.lstat(name)
	if err != nil {
		return err
	}
	isDir := st.Mode&unix.S_IFMT == unix.S_IFDIR
	excluded, below := match(rules, name, isDir)
	if excluded || !e.flags.Stores(st.Mode) {
		return nil
	}
	switch {
	case isDir:
		sub, err := d.OpenDir(name)
		if err != nil {
			return err
		}
		return errors.Join(e.subdir(ctx, d, sub, name, depth, below), sub.Close())
	case st.Mode&unix.S_IFMT == unix.S_IFREG:
		return e.file(ctx, d, name, depth)
	}
	fd, err := d.openat(name, unix.O_PATH, 0)
	if err != nil {
		return err
	}
	return errors.Join(e.special(d, fd, name, depth), unix.Close(fd))
}

func (e *encoder) subdir(ctx context.Context, d, sub *Dir, name string, depth int, rules []rule) error {
	st, err := fstat(sub.fd)
	if err != nil {
		return pathError("stat", sub.path, err)
	}
	flags, skip, err := e.fileFlags(d, sub.fd, &st)
	if err != nil || skip {
		return pathError("read flags of", sub.path, err)
	}
	outer := e.path
	e.path = path.Join(outer, name)
	defer func() { e.path = outer }()
	return e.dir(ctx, sub, &st, flags, name, depth, rules)
}

func (e *encoder) file(ctx context.Context, d *Dir, name string, depth int) error {
	fd, st, err := d.open(name)
	if err != nil {
		return err
	}
	c := &contents{ctx: ctx.Err, fd: fd, dir: d.path, name: name, was: snapshotOf(&st)}
	err = e.open(d, c, &st, depth)
	return errors.Join(err, c.Close())
}

// open encodes the open file c in d.
func (e *encoder) open(d *Dir, c *contents, st *unix.Stat_t, depth int) error {
	flags, skip, err := e.fileFlags(d, c.fd, st)
	if err != nil || skip {
		return d.error("read flags of", c.name, err)
	}
	ent, err := e.entry(c.fd, st, flags)
	if err != nil {
		return d.error("read", c.name, err)
	}
	ent.Name, ent.Depth = c.name, depth
	if err := e.write(d.path, c.name, ent); err != nil || ent.Size == 0 {
		return err
	}
	if e.contents != nil {
		e.contents(FileAt{Dir: e.path, Name: c.name, Entry: e.w.EntryOffset(), Contents: e.w.Offset(), Size: ent.Size}, st)
	}
	if e.skip {
		return e.w.Skip(ent.Size)
	}
	c.left = int64(ent.Size)
	_, err = io.CopyBuffer(struct{ io.Writer }{e.w}, c, e.buf)
	return err
}

// special encodes a node that has neither contents nor children. fd is open
// with O_PATH.
func (e *encoder) special(d *Dir, fd int, name string, depth int) error {
	st, err := fstat(fd)
	if err != nil {
		return d.error("stat", name, err)
	}
	if skip, err := e.otherMount(d, fd); err != nil || skip {
		return d.error("statx", name, err)
	}
	ent, err := e.entry(fd, &st, 0)
	if err != nil {
		return d.error("read", name, err)
	}
	ent.Name, ent.Depth = name, depth
	switch ent.Mode & catar.ModeType {
	case catar.ModeSymlink:
		if ent.Target, err = readlink(fd); err != nil {
			return d.error("readlink", name, err)
		}
	case catar.ModeBlock, catar.ModeChar:
		ent.Major, ent.Minor = unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev))
	}
	return e.write(d.path, name, ent)
}

func (e *encoder) write(dir, name string, ent *catar.Entry) error {
	if err := e.w.WriteEntry(ent); err != nil {
		return fmt.Errorf("tree: %s: %w", path.Join(dir, name), err)
	}
	return nil
}

// otherMount reports whether a node in d is left out because it is a mount point.
func (e *encoder) otherMount(d *Dir, fd int) (bool, error) {
	if !e.flags.Has(catar.ExcludeSubmounts) {
		return false, nil
	}
	return otherMount(d.fd, fd)
}

// fileFlags reads the flags of an open directory or regular file in d, and
// reports whether it is left out because it is a mount point or has the nodump
// attribute.
func (e *encoder) fileFlags(d *Dir, fd int, st *unix.Stat_t) (flags catar.Flags, leftOut bool, err error) {
	if leftOut, err = e.otherMount(d, fd); err != nil || leftOut {
		return 0, leftOut, err
	}
	mask := e.flags
	if e.flags.Has(catar.ExcludeNoDump) {
		mask |= catar.WithFlagNoDump
	}
	flags, err = e.devs.readFlags(fd, st, mask)
	return flags & e.flags, e.flags.Has(catar.ExcludeNoDump) && flags.Has(catar.WithFlagNoDump), err
}

// entry reads what the archive's features record of an open node, apart from its
// file flags.
func (e *encoder) entry(fd int, st *unix.Stat_t, flags catar.Flags) (*catar.Entry, error) {
	ent := &catar.Entry{Mode: st.Mode & (catar.ModeType | 0o7777), FileFlags: flags}
	if e.flags.Has(catar.WithNsecTime | catar.WithUsecTime | catar.WithSecTime | catar.With2SecTime) {
		ent.MTime = uint64(int64(st.Mtim.Sec)*1e9 + int64(st.Mtim.Nsec))
	}
	if err := e.owner(ent, st); err != nil {
		return nil, err
	}
	if ent.IsRegular() || ent.IsDir() {
		if err := e.inode(ent, fd, st); err != nil {
			return nil, err
		}
	}
	if ent.Mode&catar.ModeType != catar.ModeSymlink {
		if err := e.xattrs(ent, fd); err != nil {
			return nil, err
		}
		if e.flags.Has(catar.WithPermissions) {
			if err := dropACL(ent, fd); err != nil {
				return nil, err
			}
		}
	}
	e.flags.Mask(ent)
	return ent, nil
}

func (e *encoder) owner(ent *catar.Entry, st *unix.Stat_t) (err error) {
	if ent.UID, ent.User, err = e.id(st.Uid, e.users.user); err != nil {
		return err
	}
	ent.GID, ent.Group, err = e.id(st.Gid, e.users.group)
	return err
}

// id returns what the archive records of a user or group: a shifted number, the
// name on this system (casync, too, names the unshifted id), or both.
func (e *encoder) id(id uint32, lookup func(uint32) string) (stored uint32, name string, err error) {
	if e.flags.Has(catar.WithUserNames) {
		name = lookup(id)
	}
	if e.flags.Has(catar.With16BitUIDs | catar.With32BitUIDs) {
		stored, err = e.shift.store(id)
		return stored, name, err
	}
	if e.flags.Has(catar.WithUserNames) && name == "" && id != 0 {
		// casync writes the number as a name, which nothing can extract.
		return 0, "", fmt.Errorf("owner id %d has no name: %w", id, catar.ErrUnsupported)
	}
	return 0, name, nil
}

// inode reads what only directories and regular files have.
func (e *encoder) inode(ent *catar.Entry, fd int, st *unix.Stat_t) (err error) {
	v, err := e.devs.virtual(fd, st)
	if err != nil {
		return err
	}
	if ent.IsRegular() && !v {
		ent.Size = uint64(st.Size)
	}
	if e.flags.Has(catar.WithQuotaProjID) {
		if ent.ProjID, err = readProjID(fd); err != nil {
			return err
		}
	}
	return nil
}

// xattrs reads the xattrs, and what the kernel keeps as such.
func (e *encoder) xattrs(ent *catar.Entry, fd int) error {
	all, err := readXAttrs(fd, func(name string) bool {
		switch name {
		case xattrACL, xattrDefaultACL:
			return e.flags.Has(catar.WithACL)
		case xattrCaps:
			return e.flags.Has(catar.WithFCaps)
		case xattrSELinux:
			return e.flags.Has(catar.WithSELinux)
		}
		return e.flags.Has(catar.WithXAttrs) && catar.StorableXAttr(catar.XAttr{Name: name})
	})
	if err != nil {
		return err
	}
	for _, x := range all {
		if err := e.xattr(ent, x); err != nil {
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

func (e *encoder) xattr(ent *catar.Entry, x toc.XAttr) error {
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
		if p.Users, err = e.aclEntries(p.Users, e.users.user); err != nil {
			return err
		}
		if p.Groups, err = e.aclEntries(p.Groups, e.users.group); err != nil {
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
func (e *encoder) aclEntries(l []catar.ACLEntry, lookup func(uint32) string) (_ []catar.ACLEntry, err error) {
	for i := range l {
		if l[i].ID, l[i].Name, err = e.id(l[i].ID, lookup); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(l, catar.ACLEntry.Compare)
	return l, nil
}
