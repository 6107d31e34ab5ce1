package toc

import (
	"bytes"
	"encoding/binary"
	"slices"

	"github.com/ociv2-sync/ociv2-sync/internal/numset"
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
	// A first pass counts, so that the second needs no room but for the bytes.
	counts := newEncoder(t.Nodes, func(int, []byte) bool { return true })
	counts.all()
	size := len(magic)
	for _, n := range counts.size {
		size += n + binary.MaxVarintLen64
	}
	out := append(make([]byte, 0, size), magic...)
	var sec [sections][]byte
	for s, n := range counts.size {
		out = binary.AppendUvarint(out, uint64(n))
		sec[s] = out[len(out):]
		out = out[:len(out)+n]
	}
	newEncoder(t.Nodes, func(s int, b []byte) bool {
		sec[s] = append(sec[s], b...)
		return true
	}).all()
	return out, nil
}

// canonical reports whether b, which d has read as nodes that are valid, is what
// Marshal makes of them.
func (d *decoder) canonical(nodes []Node, b []byte) bool {
	var at [sections]int
	e := newEncoder(nodes, func(s int, b []byte) bool {
		rest := d.sec[s].b[at[s]:]
		at[s] += len(b)
		return bytes.HasPrefix(rest, b)
	})
	if !e.all() {
		return false
	}
	size := len(magic)
	for s, n := range e.size {
		if n != len(d.sec[s].b) {
			return false
		}
		size += len(binary.AppendUvarint(nil, uint64(n))) + n
	}
	return size == len(b) // or the length of a section is spelled in another way
}

// encoder makes the sections of a valid TOC.
type encoder struct {
	nodes    []Node
	put      func(sec int, b []byte) bool // takes the next bytes of a section, or refuses them
	refused  bool
	size     [sections]int // bytes put
	buf      []byte
	siblings []string              // per depth the previous sibling's name
	contents *numset.Set[[32]byte] // numbered as in table
	table    []int32               // the first nodes of the contents
	xattrGap uint64                // nodes since the last one with attributes
}

func newEncoder(nodes []Node, put func(sec int, b []byte) bool) *encoder {
	e := &encoder{nodes: nodes, put: put, table: make([]int32, 0, len(nodes))}
	e.contents = numset.New(len(nodes), func(i int32) *[32]byte { return &nodes[e.table[i]].Digest })
	return e
}

// all puts all nodes, unless something is refused.
func (e *encoder) all() bool {
	for i := range e.nodes {
		if e.node(i); e.refused {
			return false
		}
	}
	return true
}

func (e *encoder) bytes(sec int, b []byte) {
	if !e.refused {
		e.size[sec] += len(b)
		e.refused = !e.put(sec, b)
	}
}

// text puts a string and the zero byte after it.
func (e *encoder) text(sec int, s string) {
	e.buf = append(append(e.buf[:0], s...), 0)
	e.bytes(sec, e.buf)
}

func (e *encoder) uvarint(sec int, v uint64) {
	e.buf = binary.AppendUvarint(e.buf[:0], v)
	e.bytes(sec, e.buf)
}

func (e *encoder) node(i int) {
	n := &e.nodes[i]
	e.place(i)
	mode := uint16(n.Mode)
	if n.Link != -1 {
		mode = 0
	}
	e.buf = binary.LittleEndian.AppendUint16(e.buf[:0], mode)
	e.bytes(secModes, e.buf)
	if n.Link != -1 {
		e.uvarint(secLinks, uint64(i)-uint64(n.Link))
		return
	}
	e.uvarint(secUIDs, uint64(n.UID))
	e.uvarint(secGIDs, uint64(n.GID))
	e.buf = binary.AppendVarint(e.buf[:0], n.Sec)
	e.bytes(secSeconds, e.buf)
	e.uvarint(secNanos, uint64(n.Nsec))
	switch n.Type() {
	case TypeRegular:
		e.content(i)
	case TypeSymlink:
		e.text(secTargets, n.Target)
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
		e.text(secXAttrs, x.Name)
		e.uvarint(secXAttrs, uint64(len(x.Value)))
		e.bytes(secXAttrs, x.Value)
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
	e.buf = append(e.buf[:0], byte(shared))
	e.bytes(secNames, e.buf)
	e.text(secNames, n.Name[shared:])
}

// content writes which content the regular file i has.
func (e *encoder) content(i int) {
	n := &e.nodes[i]
	if n.Size == 0 {
		e.uvarint(secRefs, refEmpty)
		return
	}
	last := int32(len(e.table))
	e.table = append(e.table, int32(i))
	if at, added := e.contents.Add(last); !added {
		e.table = e.table[:last]
		e.uvarint(secRefs, uint64(refBack+last-1-at))
		return
	}
	e.uvarint(secRefs, refNew)
	e.uvarint(secSizes, uint64(n.Size))
	e.bytes(secDigests, n.Digest[:])
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
