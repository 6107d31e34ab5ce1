package toc

import (
	"encoding/binary"
	"slices"
)

// magic opens the canonical bytes; its last byte is the version.
const magic = "ov2-toc\x01"

// The sections of the canonical bytes, in their order; docs/format/toc.md,
// section 2. One attribute of all nodes lies together because it compresses
// better so, and because a change of one attribute leaves the others' bytes as
// they were, which keeps patches between TOCs small.
const (
	secLevels = iota
	secNames
	secModes
	secLinks
	secUIDs
	secGIDs
	secSeconds
	secNanos
	secRefs
	secSizes
	secDigests
	secTargets
	secDevices
	secXAttrs
	sections
)

var sectionNames = [sections]string{
	"levels", "names", "modes", "links", "uids", "gids", "seconds",
	"nanoseconds", "contents", "sizes", "digests", "targets", "devices", "xattrs",
}

// The first values of the contents section; larger ones point back.
const (
	refNew   = 0 // the next content of the table
	refEmpty = 1 // the empty content, which is not in the table
	refBack  = 2 // refBack+k: the content k+1 before the table's current end
)

// Marshal gives the canonical bytes of t (docs/format/toc.md): equal trees have
// equal bytes. It fails only when t is invalid, as Validate does.
func Marshal(t *TOC) ([]byte, error) {
	if err := t.Validate(); err != nil {
		return nil, err
	}
	e := encoder{nodes: t.Nodes, contents: make(map[[32]byte]int)}
	for i := range t.Nodes {
		e.node(i)
	}
	size := len(magic)
	for _, s := range e.sec {
		size += len(s) + binary.MaxVarintLen64
	}
	out := append(make([]byte, 0, size), magic...)
	for _, s := range e.sec {
		out = binary.AppendUvarint(out, uint64(len(s)))
		out = append(out, s...)
	}
	return out, nil
}

// encoder collects the sections of a valid TOC.
type encoder struct {
	nodes    []Node
	sec      [sections][]byte
	siblings []string // per depth the previous sibling's name
	contents map[[32]byte]int
	xattrGap uint64 // nodes since the last one with attributes
}

func (e *encoder) uvarint(sec int, v uint64) {
	e.sec[sec] = binary.AppendUvarint(e.sec[sec], v)
}

func (e *encoder) node(i int) {
	n := &e.nodes[i]
	e.place(i)
	if n.Link != -1 {
		e.sec[secModes] = append(e.sec[secModes], 0, 0)
		e.uvarint(secLinks, uint64(i)-uint64(n.Link))
		return
	}
	e.sec[secModes] = binary.LittleEndian.AppendUint16(e.sec[secModes], uint16(n.Mode))
	e.uvarint(secUIDs, uint64(n.UID))
	e.uvarint(secGIDs, uint64(n.GID))
	e.sec[secSeconds] = binary.AppendVarint(e.sec[secSeconds], n.Sec)
	e.uvarint(secNanos, uint64(n.Nsec))
	switch n.Type() {
	case TypeRegular:
		e.content(n)
	case TypeSymlink:
		e.sec[secTargets] = append(append(e.sec[secTargets], n.Target...), 0)
	case TypeBlock, TypeChar:
		e.uvarint(secDevices, uint64(n.Major))
		e.uvarint(secDevices, uint64(n.Minor))
	}
	if len(n.XAttrs) == 0 {
		e.xattrGap++
		return
	}
	e.uvarint(secXAttrs, e.xattrGap)
	e.xattrGap = 0
	e.uvarint(secXAttrs, uint64(len(n.XAttrs)))
	for _, x := range n.XAttrs {
		e.sec[secXAttrs] = append(append(e.sec[secXAttrs], x.Name...), 0)
		e.uvarint(secXAttrs, uint64(len(x.Value)))
		e.sec[secXAttrs] = append(e.sec[secXAttrs], x.Value...)
	}
}

// place writes the level and the name of node i, the latter without the bytes
// it shares with the sibling before it.
func (e *encoder) place(i int) {
	n := &e.nodes[i]
	if i == 0 {
		e.siblings = append(e.siblings[:0], "")
		return
	}
	e.uvarint(secLevels, uint64(deepest(&e.nodes[i-1])-n.Depth))
	shared := 0
	if n.Depth < len(e.siblings) {
		shared = commonPrefix(e.siblings[n.Depth], n.Name)
	}
	e.siblings = append(e.siblings[:n.Depth], n.Name)
	b := append(e.sec[secNames], byte(shared))
	e.sec[secNames] = append(append(b, n.Name[shared:]...), 0)
}

// content writes which content the regular file n has.
func (e *encoder) content(n *Node) {
	if n.Size == 0 {
		e.uvarint(secRefs, refEmpty)
		return
	}
	if at, ok := e.contents[n.Digest]; ok {
		e.uvarint(secRefs, uint64(refBack+len(e.contents)-1-at))
		return
	}
	e.contents[n.Digest] = len(e.contents)
	e.uvarint(secRefs, refNew)
	e.uvarint(secSizes, uint64(n.Size))
	e.sec[secDigests] = append(e.sec[secDigests], n.Digest[:]...)
}

// deepest is the greatest depth that the node after prev can have.
func deepest(prev *Node) int {
	if prev.IsDir() {
		return prev.Depth + 1
	}
	return prev.Depth
}

func commonPrefix(a, b string) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}

// boundaries gives the offsets at which the sections of canonical bytes end,
// as far as they can be told; the bytes need not be valid.
func boundaries(b []byte) []int {
	var ends []int
	at := min(len(magic), len(b))
	for range sections {
		n, w := binary.Uvarint(b[at:])
		if w <= 0 || n > uint64(len(b)-at-w) {
			break
		}
		at += w + int(n)
		ends = append(ends, at)
	}
	return slices.Compact(append(ends, len(b)))
}
