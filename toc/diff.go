package toc

import (
	"bytes"
	"slices"
	"strings"
)

// Aspect is a set of what two nodes can differ in.
type Aspect uint16

// The aspects of a node.
const (
	AspectType Aspect = 1 << iota
	AspectContent
	AspectTarget
	AspectDevice
	AspectMode
	AspectOwner
	AspectTime
	AspectXAttrs
	AspectLinks // another name is the first one of its hard-link group
)

// Names returns the aspects of the set by name, in their order.
func (a Aspect) Names() []string {
	var names []string
	for i, name := range []string{"type", "content", "target", "device", "mode", "owner", "time", "xattrs", "links"} {
		if a&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return names
}

// Change is a path at which two trees differ.
type Change struct {
	// Path is without a leading slash; "." is the root.
	Path string
	// A and B are the node's indexes in the two trees, -1 where it is not there.
	A, B int
	// What differs, if the node is in both.
	What Aspect
}

// Diff calls yield with every path at which the trees a and b differ, in the order
// of a TOC, until it returns false.
func Diff(a, b *TOC, yield func(Change) bool) {
	x, y := newPaths(a.Nodes), newPaths(b.Nodes)
	same := make([]int32, len(a.Nodes)) // of each node of a, the one of b at its path
	for i := range same {
		same[i] = -1
	}
	for x.i < len(a.Nodes) || y.i < len(b.Nodes) {
		var c Change
		switch order := x.compare(y); {
		case order < 0:
			c = Change{Path: x.path(), A: x.i, B: -1}
			x.next()
		case order > 0:
			c = Change{Path: y.path(), A: -1, B: y.i}
			y.next()
		default:
			same[x.i] = int32(y.i)
			n, m := &a.Nodes[x.i], &b.Nodes[y.i]
			what := differ(n, m)
			if (n.Link < 0) != (m.Link < 0) || n.Link >= 0 && same[n.Link] != m.Link {
				what |= AspectLinks
			}
			if what != 0 {
				c = Change{Path: x.path(), A: x.i, B: y.i, What: what}
			}
			x.next()
			y.next()
			if what == 0 {
				continue
			}
		}
		if !yield(c) {
			return
		}
	}
}

// paths walks over nodes and knows the path of each.
type paths struct {
	nodes []Node
	i     int
	names []string // of node i and the directories above it, without the root
}

func newPaths(nodes []Node) *paths { return &paths{nodes: nodes} }

func (p *paths) next() {
	if p.i++; p.i < len(p.nodes) {
		n := &p.nodes[p.i]
		p.names = append(p.names[:n.Depth-1], n.Name)
	}
}

func (p *paths) path() string {
	if len(p.names) == 0 {
		return "."
	}
	return strings.Join(p.names, "/")
}

// compare says which of two places comes first in a TOC; the end is the last.
func (p *paths) compare(q *paths) int {
	pEnd, qEnd := p.i == len(p.nodes), q.i == len(q.nodes)
	switch {
	case pEnd:
		return 1
	case qEnd:
		return -1
	}
	for k := range min(len(p.names), len(q.names)) {
		if c := strings.Compare(p.names[k], q.names[k]); c != 0 {
			return c
		}
	}
	return len(p.names) - len(q.names)
}

// differ compares two nodes of the same path but for their hard links.
func differ(n, m *Node) Aspect {
	var what Aspect
	for _, d := range []struct {
		aspect Aspect
		differ bool
	}{
		{AspectType, n.Type() != m.Type()},
		{AspectContent, n.Type() == m.Type() && n.Digest != m.Digest},
		{AspectTarget, n.Type() == m.Type() && n.Target != m.Target},
		{AspectDevice, n.Type() == m.Type() && (n.Major != m.Major || n.Minor != m.Minor)},
		{AspectMode, n.Mode&PermMask != m.Mode&PermMask},
		{AspectOwner, n.UID != m.UID || n.GID != m.GID},
		{AspectTime, n.Sec != m.Sec || n.Nsec != m.Nsec},
		{AspectXAttrs, !sameXAttrs(n.XAttrs, m.XAttrs)},
	} {
		if d.differ {
			what |= d.aspect
		}
	}
	return what
}

func sameXAttrs(a, b []XAttr) bool {
	return slices.EqualFunc(a, b, func(x, y XAttr) bool { return x.Name == y.Name && bytes.Equal(x.Value, y.Value) })
}
