package catar

import "strings"

// The file type bits of Entry.Mode, as Linux has them.
const (
	ModeType    = 0o170000
	ModeSocket  = 0o140000
	ModeSymlink = 0o120000
	ModeRegular = 0o100000
	ModeBlock   = 0o060000
	ModeDir     = 0o040000
	ModeChar    = 0o020000
	ModeFIFO    = 0o010000
)

// Entry is one node of the tree: everything but a regular file's contents.
type Entry struct {
	// Depth is 0 for the root and one more than its directory's for the others.
	// A directory ends with the next entry that is not deeper than it.
	Depth int
	Name  string // one path component; empty for the root

	Mode      uint32 // file type and permissions: ModeType | 07777
	FileFlags Flags  // the WithFlagXxx and WithSubvolume bits that are set on it
	UID, GID  uint32
	MTime     uint64 // ns since 1970; a time before 1970 wraps around

	User, Group string // names of UID and GID; empty if unknown

	XAttrs     []XAttr // by ascending name
	ACL        *ACL
	DefaultACL *PosixACL // directories only
	SELinux    string
	FCaps      []byte // value of security.capability; regular files only
	ProjID     uint32 // quota project, 0 for none; regular files and directories

	Target       string // of a symbolic link
	Major, Minor uint32 // of a device node
	Size         uint64 // of a regular file's contents, bytes

	// Where the node lies in the archive, bytes from its start. Reader fills
	// them, Writer ignores them.
	Offset        uint64 // of the ENTRY record
	PayloadOffset uint64 // of the first byte of a regular file's contents
}

// XAttr is one extended attribute. Archives hold those whose name begins with
// "user." or "trusted."; others have records of their own or are not kept.
type XAttr struct {
	Name  string
	Value []byte
}

// IsDir reports whether the entry is a directory.
func (e *Entry) IsDir() bool { return e.Mode&ModeType == ModeDir }

// IsRegular reports whether the entry is a regular file.
func (e *Entry) IsRegular() bool { return e.Mode&ModeType == ModeRegular }

// StorableXAttr reports whether an XATTR record may hold the attribute.
func StorableXAttr(x XAttr) bool {
	rest, ok := strings.CutPrefix(x.Name, "user.")
	if !ok {
		rest, ok = strings.CutPrefix(x.Name, "trusted.")
	}
	return ok && rest != "" && len(x.Name) <= maxXAttrName && strings.IndexByte(x.Name, 0) < 0 &&
		len(x.Value) <= maxXAttrValue
}

// StorableName reports whether s may stand in a USER, GROUP or ACL record. The
// rule is what casync's decoder accepts; its encoder also writes other names,
// into archives that nothing can extract.
func StorableName(s string) bool {
	if s == "" || s == "root" || len(s) > maxUserName {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', c == '_':
		case i > 0 && ('0' <= c && c <= '9' || c == '-'):
		default:
			return false
		}
	}
	return true
}

// validFileName reports whether s may name a node below the root.
func validFileName(s string) bool {
	return s != "" && s != "." && s != ".." && len(s) <= MaxName && strings.IndexByte(s, '/') < 0 &&
		strings.IndexByte(s, 0) < 0
}

// ValidID reports whether a node may belong to user or group id: Linux keeps
// two values to mean "none".
func ValidID(id uint32) bool { return id != 0xffff && id != 0xffffffff }

// Stores reports whether an archive with features f has nodes of mode's type.
func (f Flags) Stores(mode uint32) bool {
	switch mode & ModeType {
	case ModeRegular, ModeDir:
		return true
	case ModeSymlink:
		return f&WithSymlinks != 0
	case ModeBlock, ModeChar:
		return f&WithDeviceNodes != 0
	case ModeFIFO:
		return f&WithFIFOs != 0
	case ModeSocket:
		return f&WithSockets != 0
	}
	return false
}

// granularity returns the unit of times in nanoseconds, 0 for no times.
func (f Flags) granularity() uint64 {
	switch {
	case f&WithNsecTime != 0:
		return 1
	case f&WithUsecTime != 0:
		return 1e3
	case f&WithSecTime != 0:
		return 1e9
	case f&With2SecTime != 0:
		return 2e9
	}
	return 0
}

// mode reduces a mode to what f records of it.
func (f Flags) mode(m uint32) uint32 {
	typ := m & ModeType
	if typ == ModeSymlink {
		return typ | 0o777
	}
	if f&(WithPermissions|WithACL) != 0 {
		return typ | m&0o7777
	}
	perm := uint32(0o666)
	if typ == ModeDir {
		perm = 0o777
	}
	if f&WithReadOnly != 0 && m&0o222 == 0 {
		perm &= 0o555
	}
	return typ | perm
}

// Mask reduces e to what an archive with features f records of it. It does not
// make e valid: an id that is too large for f, for example, stays.
func (f Flags) Mask(e *Entry) {
	e.Mode = f.mode(e.Mode)
	typ := e.Mode & ModeType
	inode := typ == ModeRegular || typ == ModeDir
	e.FileFlags &= f & fileFlags
	if !inode {
		e.FileFlags = 0
	}
	if f&withIDs == 0 {
		e.UID, e.GID = 0, 0
	}
	// An id of 0 may have a name: ids are shifted, names are not.
	if f&WithUserNames == 0 {
		e.User, e.Group = "", ""
	}
	if g := f.granularity(); g == 0 {
		e.MTime = 0
	} else {
		e.MTime -= e.MTime % g
	}
	if f&WithXAttrs == 0 || typ == ModeSymlink {
		e.XAttrs = nil
	}
	if f&WithACL == 0 || typ == ModeSymlink {
		e.ACL = nil
	}
	if f&WithACL == 0 || typ != ModeDir {
		e.DefaultACL = nil
	}
	if f&WithSELinux == 0 {
		e.SELinux = ""
	}
	if f&WithFCaps == 0 || typ != ModeRegular {
		e.FCaps = nil
	}
	if f&WithQuotaProjID == 0 || !inode {
		e.ProjID = 0
	}
}
