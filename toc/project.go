package toc

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/ociv2-sync/ociv2-sync/catar"
)

// ProjectionFlags are the feature flags of every projected catar and of its
// index: docs/format/projection.md, section 2.
const ProjectionFlags = catar.With32BitUIDs | catar.WithNsecTime | catar.WithACL |
	catar.WithSymlinks | catar.WithDeviceNodes | catar.WithFIFOs | catar.WithSockets |
	catar.WithXAttrs | catar.WithFCaps | catar.SHA512_256

const (
	// maxProjectedName is the longest name that casync extracts: it writes a
	// file under ".#", the name and 16 digits before it renames it.
	maxProjectedName = MaxName - 18
	// nobody stands in for the ids that casync refuses.
	nobody = 65534

	xattrAccess  = "system.posix_acl_access"
	xattrDefault = "system.posix_acl_default"
	xattrCaps    = "security.capability"
)

// Layout says where the contents of a tree lie in the byte space of its image:
// the projected catar, and after it the contents that the catar leaves out.
type Layout struct {
	// CatarSize and ExtraSize are the lengths of the two parts in bytes.
	CatarSize, ExtraSize uint64
	// Offset gives for each node where its content begins, -1 for nodes that
	// have none there: those without content, names of a hard-link group whose
	// content is only under another of its names, and empty files. Followers
	// inside the catar have contents of their own.
	Offset []int64
}

// NewLayout computes the layout of the projection (docs/format/projection.md)
// from nodes alone; their digests are not looked at.
func NewLayout(nodes []Node) (*Layout, error) {
	if err := validateNodes(nodes, false, nil); err != nil {
		return nil, err
	}
	l := &Layout{Offset: make([]int64, len(nodes))}
	for i := range l.Offset {
		l.Offset[i] = -1
	}
	w := catar.NewWriter(io.Discard, ProjectionFlags)
	err := project(nodes, w, func(i int) error {
		l.Offset[i] = int64(w.Offset())
		return w.Skip(uint64(nodes[i].Size))
	})
	if err != nil {
		return nil, err
	}
	l.CatarSize = w.Offset()
	for i := range extra(nodes) {
		l.Offset[i] = int64(l.CatarSize + l.ExtraSize)
		l.ExtraSize += uint64(nodes[i].Size)
		if l.CatarSize+l.ExtraSize > maxImage {
			return nil, errTooLarge
		}
	}
	return l, nil
}

// maxImage bounds the byte space of an image, so that no offset in it, and no
// sum of one and a size, overflows.
const maxImage = 1 << 62

var errTooLarge = fmt.Errorf("%w: more than 2^62 bytes of contents", ErrInvalid)

// project writes the catar of valid nodes; content is called for each regular
// file that is not empty, once its entry has been written, and must write or
// skip Size bytes.
func project(nodes []Node, w *catar.Writer, content func(i int) error) error {
	for i := range included(nodes) {
		n := &nodes[i]
		e := entry(n)
		if w.Offset()+e.Size > maxImage {
			return errTooLarge
		}
		if err := w.WriteEntry(&e); err != nil {
			return fmt.Errorf("toc: project %q: %w", Path(nodes, i), err)
		}
		if n.Size == 0 {
			continue
		}
		if err := content(i); err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return fmt.Errorf("toc: project: %w", err)
	}
	return nil
}

// included yields the nodes that the catar holds, in order: all but those that
// casync cannot extract and what lies below them.
func included(nodes []Node) func(yield func(int) bool) {
	return func(yield func(int) bool) {
		skip := maxDepth + 1 // nodes deeper than this lie below one left out
		for i := range nodes {
			n := &nodes[i]
			if n.Depth > skip {
				continue
			}
			skip = maxDepth + 1
			if len(n.Name) > maxProjectedName || n.Depth > catar.MaxDepth {
				skip = n.Depth
				continue
			}
			if !yield(i) {
				return
			}
		}
	}
}

// extra yields the nodes whose contents the catar leaves out, in order: leaders
// of which no name is in the catar.
func extra(nodes []Node) func(yield func(int) bool) {
	return func(yield func(int) bool) {
		have := make([]bool, len(nodes))
		for i := range included(nodes) {
			have[leader(nodes, i)] = true
		}
		for i := range nodes {
			if n := &nodes[i]; n.Size > 0 && n.Link == -1 && !have[i] && !yield(i) {
				return
			}
		}
	}
}

func leader(nodes []Node, i int) int {
	if l := nodes[i].Link; l != -1 {
		return int(l)
	}
	return i
}

// entry is what the catar says of n: docs/format/projection.md, section 4.
func entry(n *Node) catar.Entry {
	e := catar.Entry{
		Depth: n.Depth,
		Name:  n.Name,
		Mode:  n.Mode,
		UID:   projectID(n.UID),
		GID:   projectID(n.GID),
		MTime: projectTime(n.Sec, n.Nsec),
		Size:  uint64(n.Size),

		Target: n.Target,
		Major:  n.Major,
		Minor:  n.Minor,
	}
	if n.Type() == TypeSymlink {
		return e
	}
	for _, x := range n.XAttrs {
		switch x.Name {
		case xattrAccess:
			if p, err := catar.ParsePosixACL(x.Value); err == nil {
				e.ACL = projectACL(p).Access()
			}
		case xattrDefault:
			if p, err := catar.ParsePosixACL(x.Value); err == nil && n.IsDir() {
				p = projectACL(p)
				e.DefaultACL = &p
			}
		case xattrCaps:
			if n.IsRegular() && validCaps(x.Value) {
				e.FCaps = x.Value
			}
		default:
			// casync sets no attributes on other types.
			a := catar.XAttr{Name: x.Name, Value: x.Value}
			if (n.IsRegular() || n.IsDir()) && catar.StorableXAttr(a) {
				e.XAttrs = append(e.XAttrs, a)
			}
		}
	}
	return e
}

func projectID(id uint32) uint32 {
	if !catar.ValidID(id) {
		return nobody
	}
	return id
}

// projectTime gives the nanoseconds since 1970, 0 for what casync cannot
// extract.
func projectTime(sec int64, nsec int32) uint64 {
	if sec < 0 || sec > (catar.MaxMTime-int64(nsec))/1e9 {
		return 0
	}
	return uint64(sec)*1e9 + uint64(nsec)
}

// projectACL drops the entries of ids that casync refuses.
func projectACL(p catar.PosixACL) catar.PosixACL {
	p.Users = validEntries(p.Users)
	p.Groups = validEntries(p.Groups)
	return p
}

func validEntries(in []catar.ACLEntry) []catar.ACLEntry {
	var out []catar.ACLEntry
	for _, e := range in {
		if catar.ValidID(e.ID) {
			out = append(out, e)
		}
	}
	return out
}

// validCaps reports whether Linux takes b as file capabilities: revision 2 or
// 3, with the "effective" flag or without any.
func validCaps(b []byte) bool {
	if len(b) < 4 {
		return false
	}
	switch binary.LittleEndian.Uint32(b) &^ 1 {
	case 0x02000000:
		return len(b) == 20
	case 0x03000000:
		return len(b) == 24
	}
	return false
}
