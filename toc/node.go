package toc

import (
	"context"
	"io"
)

// The file types of Node.Mode, as in the st_mode of Linux.
const (
	TypeMask    uint32 = 0o170000
	TypeSocket  uint32 = 0o140000
	TypeSymlink uint32 = 0o120000
	TypeRegular uint32 = 0o100000
	TypeBlock   uint32 = 0o060000
	TypeDir     uint32 = 0o040000
	TypeChar    uint32 = 0o020000
	TypeFIFO    uint32 = 0o010000
)

// PermMask holds the bits of Node.Mode beside the file type: the permissions,
// setuid, setgid and sticky.
const PermMask uint32 = 0o7777

// XAttr is one extended attribute. Name carries its namespace ("user.x",
// "system.posix_acl_access", "security.capability"); Value is raw and may be
// empty.
type XAttr struct {
	Name  string
	Value []byte
}

// Node is one name in a tree with everything a filesystem says about it.
//
// A hard-link group is stored as its first name in TOC order (the leader) and
// followers whose Link is the leader's index. A follower repeats all other
// fields of its leader except Name and Depth, so that code that does not care
// for hard links need not look for them.
//
// The fields are in an order that leaves no gaps between them: there may be
// hundreds of thousands of nodes.
type Node struct {
	// Name is the last component of the path, raw bytes; empty for the root.
	Name string
	// Depth is 0 for the root; a child of a directory at depth d has d+1.
	Depth int
	// Mode is the type (S_IFMT) and the permissions (07777). A symlink has
	// permissions 0777.
	Mode     uint32
	UID, GID uint32
	// Nsec and Sec are the modification time; Nsec is 0..999999999, Sec is
	// negative before 1970.
	Nsec int32
	Sec  int64
	// Size is the length of a regular file, 0 for other types.
	Size int64
	// Digest is the SHA-256 of a regular file's content, zero for other types.
	// In a Source zero also means: not known until it is read.
	Digest [32]byte
	// Target is where a symlink points, raw bytes.
	Target string
	// XAttrs is sorted by unsigned bytes of Name, without duplicates.
	XAttrs []XAttr
	// Major and Minor number a device.
	Major, Minor uint32
	// Link is the index of the leader of the node's hard-link group, -1 for a
	// leader and for a node that has no other name.
	Link int32
}

// Type returns the file type bits of the mode.
func (n *Node) Type() uint32 { return n.Mode & TypeMask }

// IsDir reports whether n is a directory.
func (n *Node) IsDir() bool { return n.Type() == TypeDir }

// IsRegular reports whether n is a regular file, the only type with content.
func (n *Node) IsRegular() bool { return n.Type() == TypeRegular }

// TOC is the table of contents of a tree: its nodes in canonical order, that
// is depth first, the root as node 0, the children of a directory by unsigned
// bytes of their names.
type TOC struct {
	Nodes []Node
}

// Source is a filesystem whose contents can be read: nodes in the order of a
// TOC, whose digests may be unknown (zero) until the contents have been read.
type Source struct {
	Nodes []Node
	// Open opens the content of Nodes[i], a regular file with Link -1 and Size
	// above 0. The reader must give exactly Size bytes. Open is safe for
	// concurrent use.
	Open func(ctx context.Context, i int) (io.ReadCloser, error)
	// Close frees what Open needs. It is never nil.
	Close func() error
}
