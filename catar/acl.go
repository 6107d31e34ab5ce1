package catar

import (
	"cmp"
	"encoding/binary"
	"slices"
)

// Perm is a set of permissions in an ACL: 4 read, 2 write, 1 execute.
type Perm uint8

// ACLEntry gives one named user or group permissions.
type ACLEntry struct {
	ID   uint32
	Name string // with feature user-names only; empty if unknown
	Perm Perm
}

// Compare orders the entries of an archive: by id, and by name where an archive
// has no ids.
func (e ACLEntry) Compare(x ACLEntry) int {
	return cmp.Or(cmp.Compare(e.ID, x.ID), cmp.Compare(e.Name, x.Name))
}

// ACL is what a catar records of an access ACL beside the mode. The mode's
// group bits hold the ACL's mask when HasMask is set.
type ACL struct {
	Users, Groups []ACLEntry // in the order of Compare
	HasMask       bool       // an ACL_GROUP_OBJ record follows
	GroupObj      Perm       // what the owning group really has
}

// PosixACL is a whole POSIX ACL: what one of the xattrs system.posix_acl_access
// and system.posix_acl_default holds. Default ACLs are recorded whole.
type PosixACL struct {
	UserObj, GroupObj, Other Perm
	HasMask                  bool
	Mask                     Perm
	Users, Groups            []ACLEntry // in the order of Compare
}

// The layout of the kernel's ACL xattrs: a version, then entries of tag (16
// bits), permissions (16 bits) and id (32 bits), little-endian.
const (
	aclVersion   = 2
	aclEntrySize = 8
	aclNoID      = 1<<32 - 1

	aclUserObj  = 0x01
	aclUser     = 0x02
	aclGroupObj = 0x04
	aclGroup    = 0x08
	aclMask     = 0x10
	aclOther    = 0x20
)

// maxACLEntries is what fits in an xattr of 64 KiB, the most Linux takes.
const maxACLEntries = (maxXAttrValue - 4) / aclEntrySize

// ParsePosixACL decodes the value of one of the two ACL xattrs. Entries may be
// in any order; anything that the kernel would refuse (an entry twice or
// missing, unknown bits, named entries without a mask) is an error.
func ParsePosixACL(b []byte) (PosixACL, error) {
	var p PosixACL
	if len(b) < 4 || (len(b)-4)%aclEntrySize != 0 || len(b) > maxXAttrValue {
		return p, unsupported("ACL xattr of %d bytes", len(b))
	}
	if v := binary.LittleEndian.Uint32(b); v != aclVersion {
		return p, unsupported("ACL xattr version %d", v)
	}
	var seen uint16
	for b = b[4:]; len(b) > 0; b = b[aclEntrySize:] {
		tag, perm, id := binary.LittleEndian.Uint16(b), binary.LittleEndian.Uint16(b[2:]), binary.LittleEndian.Uint32(b[4:])
		if perm > 7 {
			return p, unsupported("ACL permissions %#o", perm)
		}
		named := tag == aclUser || tag == aclGroup
		if named && id == aclNoID {
			return p, unsupported("ACL entry for no id")
		}
		if !named && seen&tag != 0 {
			return p, unsupported("ACL entry %#x twice", tag)
		}
		seen |= tag
		switch tag {
		case aclUserObj:
			p.UserObj = Perm(perm)
		case aclGroupObj:
			p.GroupObj = Perm(perm)
		case aclOther:
			p.Other = Perm(perm)
		case aclMask:
			p.Mask, p.HasMask = Perm(perm), true
		case aclUser:
			p.Users = append(p.Users, ACLEntry{ID: id, Perm: Perm(perm)})
		case aclGroup:
			p.Groups = append(p.Groups, ACLEntry{ID: id, Perm: Perm(perm)})
		default:
			return p, unsupported("ACL entry of unknown kind %#x", tag)
		}
	}
	const need = aclUserObj | aclGroupObj | aclOther
	if seen&need != need || seen&(aclUser|aclGroup) != 0 && !p.HasMask {
		return p, unsupported("incomplete ACL")
	}
	for _, l := range [][]ACLEntry{p.Users, p.Groups} {
		slices.SortFunc(l, ACLEntry.Compare)
		for i := 1; i < len(l); i++ {
			if l[i-1].ID == l[i].ID {
				return p, unsupported("ACL entry for id %d twice", l[i].ID)
			}
		}
	}
	return p, nil
}

// XAttr returns the xattr value for p, with its entries in the kernel's order.
func (p PosixACL) XAttr() []byte {
	b := make([]byte, 4, 4+aclEntrySize*(4+len(p.Users)+len(p.Groups)))
	binary.LittleEndian.PutUint32(b, aclVersion)
	add := func(tag uint16, perm Perm, id uint32) {
		b = binary.LittleEndian.AppendUint16(b, tag)
		b = binary.LittleEndian.AppendUint16(b, uint16(perm))
		b = binary.LittleEndian.AppendUint32(b, id)
	}
	add(aclUserObj, p.UserObj, aclNoID)
	for _, e := range p.Users {
		add(aclUser, e.Perm, e.ID)
	}
	add(aclGroupObj, p.GroupObj, aclNoID)
	for _, e := range p.Groups {
		add(aclGroup, e.Perm, e.ID)
	}
	if p.HasMask {
		add(aclMask, p.Mask, aclNoID)
	}
	add(aclOther, p.Other, aclNoID)
	return b
}

// Access returns what a catar records of p as an access ACL, nil when the mode
// says it all.
func (p PosixACL) Access() *ACL {
	if !p.HasMask {
		return nil
	}
	return &ACL{Users: p.Users, Groups: p.Groups, HasMask: true, GroupObj: p.GroupObj}
}

// Mode returns mode with the permission bits that a file with the access ACL p
// shows.
func (p PosixACL) Mode(mode uint32) uint32 {
	group := p.GroupObj
	if p.HasMask {
		group = p.Mask
	}
	return mode&^0o777 | uint32(p.UserObj)<<6 | uint32(group)<<3 | uint32(p.Other)
}

// Posix returns the whole access ACL of a file with the given mode.
func (a *ACL) Posix(mode uint32) PosixACL {
	group := Perm(mode >> 3 & 7)
	p := PosixACL{
		UserObj: Perm(mode >> 6 & 7), GroupObj: group, Other: Perm(mode & 7),
		Users: a.Users, Groups: a.Groups,
	}
	if a.HasMask {
		p.GroupObj = a.GroupObj
	}
	if a.HasMask || len(a.Users)+len(a.Groups) > 0 {
		p.Mask, p.HasMask = group, true
	}
	return p
}
