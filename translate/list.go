package translate

import (
	"context"
	"io"
	"maps"
	"slices"

	"github.com/ociv2-sync/ociv2-sync/toc"
)

// lister puts a tree into the order of a TOC.
type lister struct {
	nodes  []toc.Node
	origin []origin // of each node but the later names of an inode
}

// newLister lists the tree below root, which is used up: what is listed is let go, so
// that the two never need room side by side.
func newLister(root *inode) *lister {
	n := count(root)
	l := &lister{nodes: make([]toc.Node, 0, n), origin: make([]origin, 0, n)}
	l.put(root, "", 0)
	return l
}

// count returns the number of names in the tree below ino, ino included.
func count(ino *inode) int {
	n := 1
	for _, e := range ino.children {
		n += count(e.ino)
	}
	return n
}

// put appends ino and all below it.
func (l *lister) put(ino *inode, name string, depth int) {
	n := ino.node(name, depth)
	if ino.listed > 0 {
		n.Link = ino.listed - 1
		l.nodes, l.origin = append(l.nodes, n), append(l.origin, origin{})
		return
	}
	l.nodes, l.origin = append(l.nodes, n), append(l.origin, ino.origin)
	ino.listed = int32(len(l.nodes))
	if !n.IsDir() {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(ino.children)) {
		l.put(ino.children[name].ino, name, depth+1)
		delete(ino.children, name)
	}
	ino.children = nil
}

// source returns the listed tree with contents read from sp.
func (l *lister) source(sp *spool) *toc.Source {
	offsets := make([]int64, len(l.nodes))
	for i := range l.nodes {
		offsets[i] = l.origin[i].off
		if n := &l.nodes[i]; n.Link >= 0 {
			n.Digest = l.nodes[n.Link].Digest
			offsets[i] = offsets[n.Link]
		}
	}
	nodes := l.nodes
	return &toc.Source{
		Nodes: nodes,
		Open: func(ctx context.Context, i int) (io.ReadCloser, error) {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			return io.NopCloser(io.NewSectionReader(sp.f, offsets[i], nodes[i].Size)), nil
		},
		Close: sp.f.Close,
	}
}
