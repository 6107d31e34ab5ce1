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
	inodes []*inode // of each node; nil for the later names of an inode
}

// newLister lists the tree below root, which is used up.
func newLister(root *inode) *lister {
	n := count(root)
	l := &lister{nodes: make([]toc.Node, 0, n), inodes: make([]*inode, 0, n)}
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
	n := ino.node
	n.Name, n.Depth, n.Link = name, depth, -1
	if ino.named {
		n.Link = ino.first
		l.nodes, l.inodes = append(l.nodes, n), append(l.inodes, nil)
		return
	}
	ino.named, ino.first = true, int32(len(l.nodes))
	l.nodes, l.inodes = append(l.nodes, n), append(l.inodes, ino)
	if !n.IsDir() {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(ino.children)) {
		l.put(ino.children[name].ino, name, depth+1)
	}
	ino.children = nil
}

// source returns the listed tree with contents read from sp.
func (l *lister) source(sp *spool) *toc.Source {
	offsets := make([]int64, len(l.nodes))
	for i := range l.nodes {
		n, ino := &l.nodes[i], l.inodes[i]
		if ino == nil {
			n.Digest = l.nodes[n.Link].Digest
			offsets[i] = offsets[n.Link]
			continue
		}
		n.Digest, offsets[i] = ino.node.Digest, ino.off
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
