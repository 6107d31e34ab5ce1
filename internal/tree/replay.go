package tree

import (
	"cmp"
	"os/user"
	"slices"
	"strconv"

	"github.com/ociv2-sync/ociv2-sync/catar"
	"github.com/ociv2-sync/ociv2-sync/toc"
)

const (
	idFlags   = catar.With16BitUIDs | catar.With32BitUIDs | catar.WithUserNames
	timeFlags = catar.WithNsecTime | catar.WithUsecTime | catar.WithSecTime | catar.With2SecTime
	modeFlags = catar.WithPermissions | catar.WithACL
	// restorable are the file flags that can be set on what exists already.
	restorable = catar.ChAttrs | catar.FATAttrs | catar.WithSubvolumeRO
)

// replayed returns which features of an archive are restored under a mask.
func replayed(archive, mask catar.Flags) catar.Flags {
	f := archive & mask
	for _, family := range []catar.Flags{catar.With16BitUIDs | catar.With32BitUIDs, timeFlags} {
		if mask&family != 0 {
			f |= archive & family
		}
	}
	switch {
	case archive&modeFlags != 0 && mask&modeFlags != 0:
		f |= catar.WithPermissions
	case archive&(modeFlags|catar.WithReadOnly) != 0 && mask&(modeFlags|catar.WithReadOnly) != 0:
		f |= catar.WithReadOnly
	}
	return f
}

// meta returns what is restored of an entry.
func (x *extractor) meta(e *catar.Entry) Meta {
	m := Meta{Mode: e.Mode, FileFlags: e.FileFlags, FlagsMask: x.flags & restorable}
	m.keepOwner = !x.owner(e, &m)
	m.keepTime = x.flags&timeFlags == 0
	// A time before 1970 has wrapped around.
	sec, nsec := int64(e.MTime)/1e9, int64(e.MTime)%1e9
	if nsec < 0 {
		sec, nsec = sec-1, nsec+1e9
	}
	m.Sec, m.Nsec = sec, int32(nsec)
	x.mode(e, &m)
	m.XAttrs = x.xattrs(e)
	m.keepXAttr = func(name string) bool {
		switch name {
		case xattrACL, xattrDefaultACL:
			return !x.flags.Has(catar.WithACL)
		case xattrCaps:
			return !x.flags.Has(catar.WithFCaps)
		}
		return !x.flags.Has(catar.WithXAttrs)
	}
	if x.flags.Has(catar.WithQuotaProjID) {
		m.ProjID = e.ProjID
	}
	return m
}

// mode finds the permissions to restore. Without any in the archive files get
// what a new file gets and directories stay as they are, as casync has it.
func (x *extractor) mode(e *catar.Entry, m *Meta) {
	m.readOnly = x.flags.Has(catar.WithReadOnly) && e.Mode&0o222 == 0
	switch {
	case x.flags.Has(catar.WithPermissions) && e.ACL != nil && !x.flags.Has(catar.WithACL):
		// The group bits are the mask of the ACL that is not restored: what is
		// left is what the owning group had.
		m.Mode = withoutACL(e.Mode, e.ACL.Posix(e.Mode))
	case x.flags.Has(catar.WithPermissions):
	case e.IsDir():
		m.keepMode = true
	default:
		m.Mode = e.Mode&catar.ModeType | 0o666&^x.opts.Umask
		if m.readOnly {
			m.Mode &^= 0o222
		}
	}
}

// withoutACL returns the mode of a file that loses its ACL: the owning group
// gets no more than it had.
func withoutACL(mode uint32, p catar.PosixACL) uint32 {
	group := p.GroupObj
	if p.HasMask {
		group &= p.Mask
	}
	return mode&^0o070 | uint32(group)<<3
}

// owner finds the owner: by name, as casync does, where the archive has one
// that this system knows, else by number. It reports whether there is one.
func (x *extractor) owner(e *catar.Entry, m *Meta) bool {
	var okUser, okGroup bool
	m.UID, okUser = x.id(e.UID, e.User, x.ids.user)
	m.GID, okGroup = x.id(e.GID, e.Group, x.ids.group)
	if x.flags&idFlags != 0 && !(okUser && okGroup) {
		name := e.Name
		if e.IsDir() { // whose own Dir is the innermost
			name = ""
		}
		x.note(x.open[len(x.open)-1].dir, name, "owner", errNoSuchName)
	}
	return okUser && okGroup
}

func (x *extractor) id(id uint32, name string, lookup func(string) (uint32, bool)) (uint32, bool) {
	if x.flags.Has(catar.WithUserNames) && name != "" {
		if id, ok := lookup(name); ok {
			return id, true
		}
	}
	switch {
	case x.flags.Has(catar.With16BitUIDs | catar.With32BitUIDs):
		return x.opts.Shift.restore(id), true
	case x.flags.Has(catar.WithUserNames) && name == "":
		return x.opts.Shift.restore(0), true
	}
	return 0, false
}

// xattrs returns the entry's xattrs and what the kernel keeps as such.
func (x *extractor) xattrs(e *catar.Entry) []toc.XAttr {
	var out []toc.XAttr
	if x.flags.Has(catar.WithXAttrs) {
		for _, a := range e.XAttrs {
			out = append(out, toc.XAttr{Name: a.Name, Value: a.Value})
		}
	}
	if x.flags.Has(catar.WithACL) && e.ACL != nil {
		out = append(out, toc.XAttr{Name: xattrACL, Value: x.acl(e.ACL.Posix(e.Mode)).XAttr()})
	}
	if x.flags.Has(catar.WithACL) && e.DefaultACL != nil {
		out = append(out, toc.XAttr{Name: xattrDefaultACL, Value: x.acl(*e.DefaultACL).XAttr()})
	}
	if x.flags.Has(catar.WithFCaps) && len(e.FCaps) > 0 {
		out = append(out, toc.XAttr{Name: xattrCaps, Value: e.FCaps})
	}
	if x.flags.Has(catar.WithSELinux) && e.SELinux != "" {
		out = append(out, toc.XAttr{Name: xattrSELinux, Value: append([]byte(e.SELinux), 0)})
	}
	slices.SortFunc(out, func(a, b toc.XAttr) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// acl finds the ids of an ACL's entries. One without an id here gives nobody
// anything and is left out.
func (x *extractor) acl(p catar.PosixACL) catar.PosixACL {
	find := func(l []catar.ACLEntry, lookup func(string) (uint32, bool)) (out []catar.ACLEntry) {
		for _, a := range l {
			if id, ok := x.id(a.ID, a.Name, lookup); ok {
				out = append(out, catar.ACLEntry{ID: id, Perm: a.Perm})
			}
		}
		slices.SortFunc(out, catar.ACLEntry.Compare)
		return slices.CompactFunc(out, func(a, b catar.ACLEntry) bool { return a.ID == b.ID })
	}
	p.Users, p.Groups = find(p.Users, x.ids.user), find(p.Groups, x.ids.group)
	return p
}

// restore maps an id of an archive to one of the disk.
func (s IDShift) restore(id uint32) uint32 {
	if s.Range == 0 {
		return id
	}
	return id%s.Range + s.Base
}

// ids looks up users and groups by name, each once.
type ids struct{ users, groups map[string]foundID }

type foundID struct {
	id uint32
	ok bool
}

func newIDs() *ids { return &ids{users: map[string]foundID{}, groups: map[string]foundID{}} }

func (n *ids) user(name string) (uint32, bool) {
	return find(n.users, name, func() (string, error) {
		u, err := user.Lookup(name)
		if err != nil {
			return "", err
		}
		return u.Uid, nil
	})
}

func (n *ids) group(name string) (uint32, bool) {
	return find(n.groups, name, func() (string, error) {
		g, err := user.LookupGroup(name)
		if err != nil {
			return "", err
		}
		return g.Gid, nil
	})
}

func find(m map[string]foundID, name string, lookup func() (string, error)) (uint32, bool) {
	f, ok := m[name]
	if !ok {
		if s, err := lookup(); err == nil {
			id, err := strconv.ParseUint(s, 10, 32)
			f = foundID{id: uint32(id), ok: err == nil}
		}
		m[name] = f
	}
	return f.id, f.ok
}
