package translate

import (
	"archive/tar"
	"crypto/sha256"
	"maps"
	"math"
	"path"
	"slices"
	"strings"

	"github.com/ociv2-sync/ociv2-sync/toc"
)

type opKind uint8

const (
	opSet    opKind = iota // make ino the node at path
	opLink                 // make path another name of what is at target
	opRemove               // whiteout: path is not in the image
	opClear                // opaque whiteout: nothing in path is in the image
)

// op is what one tar entry does to the tree. Paths are cleaned, without a
// leading slash; the empty path is the root.
type op struct {
	path   string
	target string
	ino    *inode
	kind   opKind
}

const (
	whiteoutPrefix = ".wh."
	whiteoutOpaque = ".wh..wh..opq"
)

// decode turns the ord-th entry of a layer into what it does; nil if it does
// nothing. The node of a regular file has neither digest nor content yet.
func (m *merger) decode(layer, ord int, h *tar.Header) (*op, error) {
	if m.entries++; m.entries > m.limits.Entries {
		return nil, exceeded("entries", int64(m.limits.Entries))
	}
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil, globalHeader(h.PAXRecords)
	}
	name, err := m.cleanPath("name", h.Name)
	if err != nil {
		return nil, err
	}
	if !m.info.Layers[layer].Whole {
		if o, err := whiteout(name); o != nil || err != nil {
			return o, err
		}
	}
	if h.Typeflag == tar.TypeLink {
		target, err := m.cleanPath("hard link to", h.Linkname)
		if err != nil {
			return nil, err
		}
		if name == "" {
			return nil, errRootType
		}
		return &op{kind: opLink, path: name, target: target}, nil
	}
	var n toc.Node
	if err := m.node(&n, h); err != nil {
		return nil, err
	}
	if name == "" && !n.IsDir() {
		return nil, errRootType
	}
	return &op{kind: opSet, path: name, ino: newInode(&n, origin{-1, int32(layer), int32(ord)})}, nil
}

// whiteout returns what an entry called name deletes; nil if it is no whiteout.
func whiteout(name string) (*op, error) {
	dir, base := path.Split(name)
	if strings.HasPrefix(dir, whiteoutPrefix) || strings.Contains(dir, "/"+whiteoutPrefix) {
		return nil, malformed("an entry below a whiteout")
	}
	hidden, ok := strings.CutPrefix(base, whiteoutPrefix)
	if !ok {
		return nil, nil
	}
	dir = strings.TrimSuffix(dir, "/")
	switch {
	case base == whiteoutOpaque:
		return &op{kind: opClear, path: dir}, nil
	case hidden == "" || hidden == "." || hidden == "..":
		return nil, malformed("a whiteout of nothing")
	}
	return &op{kind: opRemove, path: path.Join(dir, hidden)}, nil
}

var errRootType = malformed("the root must be a directory")

// nodeType returns the type of the node that a tar type makes. Contiguous files and GNU's old
// form of sparse files are regular files to every reader of their content.
func nodeType(flag byte) (uint32, bool) {
	switch flag {
	case tar.TypeReg, '\x00', tar.TypeCont, tar.TypeGNUSparse:
		return toc.TypeRegular, true
	case tar.TypeDir:
		return toc.TypeDir, true
	case tar.TypeSymlink:
		return toc.TypeSymlink, true
	case tar.TypeChar:
		return toc.TypeChar, true
	case tar.TypeBlock:
		return toc.TypeBlock, true
	case tar.TypeFifo:
		return toc.TypeFIFO, true
	}
	return 0, false
}

// node fills n with all that h says except the name.
func (m *merger) node(n *toc.Node, h *tar.Header) error {
	typ, ok := nodeType(h.Typeflag)
	if !ok {
		return malformed("tar type %q", h.Typeflag)
	}
	for _, id := range []int{h.Uid, h.Gid} {
		if id < 0 || int64(id) > math.MaxUint32 {
			return malformed("owner %d:%d", h.Uid, h.Gid)
		}
	}
	n.Mode = typ | uint32(h.Mode)&toc.PermMask
	n.UID, n.GID = uint32(h.Uid), uint32(h.Gid)
	n.Sec, n.Nsec = h.ModTime.Unix(), int32(h.ModTime.Nanosecond())
	switch typ {
	case toc.TypeRegular:
		if m.content += h.Size; m.content > m.limits.Bytes {
			return exceeded("bytes of contents", m.limits.Bytes)
		}
		n.Size = h.Size
		if n.Size == 0 {
			n.Digest = sha256.Sum256(nil)
		}
	case toc.TypeSymlink:
		n.Mode = toc.TypeSymlink | 0o777
		n.Target = h.Linkname
		if n.Target == "" || strings.IndexByte(n.Target, 0) >= 0 {
			return malformed("symlink to %q", n.Target)
		}
		if len(n.Target) > m.limits.Path {
			return exceeded("bytes of symlink target", int64(m.limits.Path))
		}
		if err := m.charge(len(n.Target)); err != nil {
			return err
		}
	case toc.TypeChar, toc.TypeBlock:
		// The ranges that Linux has for them.
		if h.Devmajor < 0 || h.Devmajor > toc.MaxMajor || h.Devminor < 0 || h.Devminor > toc.MaxMinor {
			return malformed("device %d:%d", h.Devmajor, h.Devminor)
		}
		n.Major, n.Minor = uint32(h.Devmajor), uint32(h.Devminor)
	}
	var err error
	if n.XAttrs, err = m.xattrs(h.PAXRecords); err != nil {
		return err
	}
	settle(n)
	return nil
}

// cleanPath returns the components of p joined by single slashes. A path that
// climbs above the root is refused; what is there instead (umoci stays at the
// root) is hardly what its author meant.
func (m *merger) cleanPath(what, p string) (string, error) {
	if strings.IndexByte(p, 0) >= 0 {
		return "", malformed("%s %q holds a zero byte", what, p)
	}
	if len(p) > m.limits.Path {
		return "", exceeded("bytes of "+what, int64(m.limits.Path))
	}
	depth := 0
	for c := range strings.SplitSeq(p, "/") {
		switch {
		case c == "..":
			if depth--; depth < 0 {
				return "", malformed("%s %q leads out of the image", what, p)
			}
		case c != "" && c != ".":
			depth++
		}
		if len(c) > toc.MaxName {
			return "", exceeded("bytes of a component of "+what, toc.MaxName)
		}
	}
	if err := m.charge(len(p)); err != nil {
		return "", err
	}
	return strings.TrimPrefix(path.Clean("/"+p), "/"), nil
}

// charge counts n bytes that stay in memory.
func (m *merger) charge(n int) error {
	if m.metadata += int64(n); m.metadata > m.limits.Metadata {
		return exceeded("bytes of names, link targets and xattrs", m.limits.Metadata)
	}
	return nil
}

// globalHeader accepts the PAX records for all later entries that change none of
// them, such as the comment of git archive.
func globalHeader(records map[string]string) error {
	for _, key := range slices.Sorted(maps.Keys(records)) {
		switch key {
		case "path", "linkpath", "size", "uid", "gid", "mtime":
			return malformed("global PAX header sets %s", key)
		}
		for _, prefix := range []string{paxSchily, paxLibarchive, "GNU.sparse."} {
			if strings.HasPrefix(key, prefix) {
				return malformed("global PAX header sets %s", key)
			}
		}
	}
	return nil
}
