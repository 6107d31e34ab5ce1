package translate

import "github.com/ociv2-sync/ociv2-sync/toc"

// inode is a node of the tree that is being merged, with one or more names. An image
// may have as many as Limits.Entries, so they take little room.
type inode struct {
	attributes
	children map[string]dirent // of a directory
	link     *pendingLink      // non-nil for a hard link whose target is not there yet
	// pruned is 1 + the layer for which the directory holds nothing of lower
	// layers any more: no entry of that layer can bring such things back.
	pruned int32
	listed int32 // 1 + the index of the first name that was put out; 0 before
}

// attributes are what an entry says of a node, but for its name.
type attributes struct {
	mode, uid, gid uint32
	nsec           int32
	sec, size      int64
	digest         [32]byte
	rest           *rest // nil if it is empty
	origin
}

// rest is what few nodes have.
type rest struct {
	target       string
	major, minor uint32
	xattrs       []toc.XAttr
}

// origin says which tar entry a node is from, and where the spool has its content:
// -1 if it has not.
type origin struct {
	off        int64
	layer, ord int32
}

// newInode makes an inode of a node.
func newInode(n *toc.Node, from origin) *inode {
	ino := &inode{attributes: attributes{n.Mode, n.UID, n.GID, n.Nsec, n.Sec, n.Size, n.Digest, nil, from}}
	if n.Target != "" || n.Major != 0 || n.Minor != 0 || n.XAttrs != nil {
		ino.rest = &rest{n.Target, n.Major, n.Minor, n.XAttrs}
	}
	return ino
}

// newDir returns a directory that no layer describes: an implied parent or the
// root before it has an entry.
func newDir() *inode {
	ino := newInode(&toc.Node{Mode: toc.TypeDir | 0o755}, origin{off: -1})
	ino.children = map[string]dirent{}
	return ino
}

// node returns the node with a name. It has no link.
func (a *attributes) node(name string, depth int) toc.Node {
	n := toc.Node{
		Name: name, Depth: depth, Mode: a.mode, UID: a.uid, GID: a.gid, Sec: a.sec, Nsec: a.nsec, Size: a.size, Digest: a.digest, Link: -1,
	}
	if r := a.rest; r != nil {
		n.Target, n.Major, n.Minor, n.XAttrs = r.target, r.major, r.minor, r.xattrs
	}
	return n
}

func (a *attributes) isDir() bool { return a.mode&toc.TypeMask == toc.TypeDir }
