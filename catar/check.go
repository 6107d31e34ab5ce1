package catar

import "strings"

// checkEntry is the one definition of a valid node: Writer refuses what it
// refuses, and Reader calls it such a node malformed. It does not see where the
// node lies in the tree.
func (f Flags) checkEntry(e *Entry) error {
	if !f.Stores(e.Mode) || e.Mode&^(ModeType|0o7777) != 0 {
		return unsupported("mode %#o with these feature flags", e.Mode)
	}
	if e.Depth > MaxDepth {
		return unsupported("depth %d, the most is %d", e.Depth, MaxDepth)
	}
	if e.Depth > 0 && !validFileName(e.Name) {
		return unsupported("file name %q", e.Name)
	}
	kept := *e
	f.Mask(&kept)
	switch {
	case kept.Mode != e.Mode:
		return unsupported("mode %#o, these feature flags make it %#o", e.Mode, kept.Mode)
	case kept.FileFlags != e.FileFlags:
		return unsupported("file flags %#x are not all covered", uint64(e.FileFlags))
	case kept.MTime != e.MTime:
		return unsupported("time %d is finer than the feature flags say", e.MTime)
	case kept.UID != e.UID || kept.GID != e.GID || kept.User != e.User || kept.Group != e.Group:
		return unsupported("owner %d (%q), %d (%q) with these feature flags", e.UID, e.User, e.GID, e.Group)
	case len(kept.XAttrs) != len(e.XAttrs):
		return unsupported("xattrs here")
	case kept.ACL != e.ACL || kept.DefaultACL != e.DefaultACL:
		return unsupported("ACL here")
	case kept.SELinux != e.SELinux || len(kept.FCaps) != len(e.FCaps) || kept.ProjID != e.ProjID:
		return unsupported("SELinux label, capabilities or project id here")
	}
	if err := f.checkOwner(e); err != nil {
		return err
	}
	if err := checkXAttrs(e); err != nil {
		return err
	}
	if err := f.checkACLs(e); err != nil {
		return err
	}
	return checkContents(e)
}

func (f Flags) checkOwner(e *Entry) error {
	for _, id := range []uint32{e.UID, e.GID} {
		if !ValidID(id) {
			return unsupported("owner id %d", id)
		}
		if f&With16BitUIDs != 0 && id > 0xffff {
			return unsupported("owner id %d with 16 bit ids", id)
		}
	}
	for _, s := range []string{e.User, e.Group} {
		if s != "" && !StorableName(s) {
			return unsupported("owner name %q", s)
		}
	}
	return nil
}

func checkXAttrs(e *Entry) error {
	total := 0
	for i, x := range e.XAttrs {
		if !StorableXAttr(x) {
			return unsupported("xattr %q of %d bytes", x.Name, len(x.Value))
		}
		if i > 0 && e.XAttrs[i-1].Name >= x.Name {
			return unsupported("xattr %q after %q", x.Name, e.XAttrs[i-1].Name)
		}
		total += len(x.Name) + len(x.Value) + headerSize + 1
	}
	if total > maxNodeMeta {
		return unsupported("%d bytes of xattrs on one node", total)
	}
	if len(e.FCaps) > maxFCaps {
		return unsupported("%d bytes of capabilities", len(e.FCaps))
	}
	if len(e.SELinux) > maxSELinux || strings.IndexByte(e.SELinux, 0) >= 0 {
		return unsupported("SELinux label %q", e.SELinux)
	}
	return nil
}

func (f Flags) checkACLs(e *Entry) error {
	if a := e.ACL; a != nil {
		if a.GroupObj > 7 || !a.HasMask && (a.GroupObj != 0 || len(a.Users)+len(a.Groups) == 0) {
			return unsupported("ACL without a mask")
		}
		if err := f.checkACLEntries(a.Users, a.Groups); err != nil {
			return err
		}
	}
	if a := e.DefaultACL; a != nil {
		if a.UserObj > 7 || a.GroupObj > 7 || a.Other > 7 || a.Mask > 7 || !a.HasMask && a.Mask != 0 {
			return unsupported("default ACL permissions")
		}
		return f.checkACLEntries(a.Users, a.Groups)
	}
	return nil
}

func (f Flags) checkACLEntries(lists ...[]ACLEntry) error {
	for _, l := range lists {
		if len(l) > maxACLEntries {
			return unsupported("%d ACL entries", len(l))
		}
		for i, x := range l {
			if !ValidID(x.ID) || x.Perm > 7 {
				return unsupported("ACL entry for id %d with permissions %#o", x.ID, x.Perm)
			}
			if x.Name != "" && (f&WithUserNames == 0 || !StorableName(x.Name)) {
				return unsupported("ACL entry for name %q", x.Name)
			}
			if f&withIDs == 0 && x.ID != 0 || f&With16BitUIDs != 0 && x.ID > 0xffff {
				return unsupported("ACL entry for id %d with these feature flags", x.ID)
			}
			if i > 0 && l[i-1].Compare(x) >= 0 {
				return unsupported("ACL entry for id %d (%q) after %d (%q)", x.ID, x.Name, l[i-1].ID, l[i-1].Name)
			}
		}
	}
	return nil
}

// checkContents checks what only one type of node has.
func checkContents(e *Entry) error {
	typ := e.Mode & ModeType
	if (typ == ModeSymlink) != (e.Target != "") || len(e.Target) > MaxTarget || strings.IndexByte(e.Target, 0) >= 0 {
		return unsupported("symlink target %q with mode %#o", e.Target, e.Mode)
	}
	device := typ == ModeBlock || typ == ModeChar
	if !device && e.Major|e.Minor != 0 || e.Major >= maxMajor || e.Minor >= maxMinor {
		return unsupported("device %d:%d with mode %#o", e.Major, e.Minor, e.Mode)
	}
	if typ != ModeRegular && e.Size != 0 || e.Size > 1<<63-1-headerSize {
		return unsupported("size %d with mode %#o", e.Size, e.Mode)
	}
	return nil
}
