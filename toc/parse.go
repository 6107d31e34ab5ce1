package toc

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"strings"
)

// Parse reads canonical bytes (docs/format/toc.md). It takes exactly what
// Marshal writes: whatever it accepts marshals to the same bytes. The nodes it
// allocates are bounded by the length of b. Its errors are of type *Error.
func Parse(b []byte) (*TOC, error) {
	d, err := split(b)
	if err != nil {
		return nil, err
	}
	t := &TOC{Nodes: make([]Node, d.nodes())}
	for i := range t.Nodes {
		back, err := d.node(&t.Nodes[i], i)
		if err == nil && back > 0 {
			err = d.follow(t.Nodes, i, back)
		}
		if err != nil {
			return nil, err
		}
	}
	if err := d.end(); err != nil {
		return nil, err
	}
	// The encoding has more than one spelling for a tree (long varints, short
	// shared prefixes, a content listed twice); only Marshal's is valid.
	if err := t.Validate(); err != nil {
		return nil, err
	}
	if d.canonical(t.Nodes, b) {
		return t, nil
	}
	again, err := Marshal(t)
	if err != nil {
		return nil, err
	}
	at := int64(commonPrefix(string(again), string(b)))
	return nil, &Error{Offset: at, Node: -1, Reason: "not in canonical form"}
}

// Each calls visit with every node of canonical bytes that [Parse] has accepted before, one
// after the other, without holding more than one of them. The node is good until visit
// returns. Of a follower of a hard-link group it has Name, Depth and Link alone.
func Each(b []byte, visit func(n *Node) error) error {
	d, err := split(b)
	if err != nil {
		return err
	}
	var n Node // one for all: each would take room of its own
	for i := range d.nodes() {
		n = Node{}
		back, err := d.node(&n, i)
		if err == nil && back > 0 {
			n.Link = int32(i - back)
		}
		if err == nil {
			err = visit(&n)
		}
		if err != nil {
			return err
		}
	}
	return d.end()
}

// column is one section while it is read.
type column struct {
	b     []byte
	at    int
	start int // of b in the canonical bytes
}

type decoder struct {
	sec      [sections]column
	siblings []string
	names    strings.Builder // of nameBlock bytes, with the latest names
	deepest  int             // that the next node may be
	sizes    []int64         // of the table's contents, whose digests are their section
	xattrs   uint64          // nodes to pass before the next one with attributes
	pending  bool            // xattrs has been read
}

// nodes returns how many there are.
func (d *decoder) nodes() int { return len(d.sec[secModes].b) / 2 }

// end checks that nothing is left.
func (d *decoder) end() error {
	for s := range d.sec {
		if c := &d.sec[s]; c.at != len(c.b) {
			return d.fail(s, -1, "%d bytes too many", len(c.b)-c.at)
		}
	}
	return nil
}

func (d *decoder) fail(sec, node int, format string, args ...any) error {
	c := &d.sec[sec]
	return &Error{
		Section: sectionNames[sec],
		Offset:  int64(c.start + c.at),
		Node:    node,
		Reason:  fmt.Sprintf(format, args...),
	}
}

// split finds the sections and checks the lengths that depend on nothing else.
func split(b []byte) (*decoder, error) {
	if len(b) < len(magic) || string(b[:len(magic)-1]) != magic[:len(magic)-1] {
		return nil, &Error{Node: -1, Reason: "not a table of contents"}
	}
	if v := b[len(magic)-1]; v != magic[len(magic)-1] {
		return nil, &Error{Offset: int64(len(magic) - 1), Node: -1, Reason: fmt.Sprintf("version %d is not supported", v)}
	}
	d := &decoder{}
	at := len(magic)
	for s := range d.sec {
		n, w := binary.Uvarint(b[at:])
		if w <= 0 || n > uint64(len(b)-at-w) {
			return nil, &Error{Section: sectionNames[s], Offset: int64(at), Node: -1, Reason: "section is cut short"}
		}
		at += w
		d.sec[s] = column{b: b[at : at+int(n) : at+int(n)], start: at}
		at += int(n)
	}
	if at != len(b) {
		return nil, &Error{Offset: int64(at), Node: -1, Reason: fmt.Sprintf("%d bytes after the end", len(b)-at)}
	}
	d.sizes = make([]int64, 0, len(d.sec[secDigests].b)/len(emptyDigest))
	nodes := d.nodes()
	switch {
	case nodes == 0 || len(d.sec[secModes].b)%2 != 0:
		return nil, d.fail(secModes, -1, "section of %d bytes", len(d.sec[secModes].b))
	case len(d.sec[secLevels].b) < nodes-1:
		return nil, d.fail(secLevels, -1, "%d bytes for %d nodes", len(d.sec[secLevels].b), nodes)
	case nodes > maxNodes:
		return nil, d.fail(secModes, -1, "%d nodes, more than %d", nodes, maxNodes)
	}
	return d, nil
}

func (d *decoder) uvarint(sec, node int, limit uint64) (uint64, error) {
	c := &d.sec[sec]
	v, w := binary.Uvarint(c.b[c.at:])
	if w <= 0 {
		return 0, d.fail(sec, node, "number is cut short or too large")
	}
	if v > limit {
		return 0, d.fail(sec, node, "%d is more than %d", v, limit)
	}
	c.at += w
	return v, nil
}

func (d *decoder) bytes(sec, node, n int) ([]byte, error) {
	c := &d.sec[sec]
	if n > len(c.b)-c.at {
		return nil, d.fail(sec, node, "section is cut short")
	}
	c.at += n
	return c.b[c.at-n : c.at], nil
}

// textBytes reads up to a zero byte.
func (d *decoder) textBytes(sec, node int) ([]byte, error) {
	c := &d.sec[sec]
	n := bytes.IndexByte(c.b[c.at:], 0)
	if n < 0 {
		return nil, d.fail(sec, node, "text without its end")
	}
	b := c.b[c.at : c.at+n]
	c.at += n + 1
	return b, nil
}

func (d *decoder) text(sec, node int) (string, error) {
	b, err := d.textBytes(sec, node)
	return string(b), err
}

// nameBlock is how many bytes of names are allocated together: a string of its own for each
// of hundreds of thousands takes more room, and more of the collector's time.
const nameBlock = 16 << 10

// name returns the name that begins with prefix and ends with rest.
func (d *decoder) name(prefix string, rest []byte) string {
	if d.names.Cap()-d.names.Len() < len(prefix)+len(rest) {
		d.names = strings.Builder{}
		d.names.Grow(nameBlock)
	}
	from := d.names.Len()
	d.names.WriteString(prefix)
	d.names.Write(rest)
	return d.names.String()[from:]
}

// node reads node i. Of a follower it reads the place alone, and returns how many nodes
// back its leader is.
func (d *decoder) node(n *Node, i int) (back int, err error) {
	if err := d.place(n, i); err != nil {
		return 0, err
	}
	raw, err := d.bytes(secModes, i, 2)
	if err != nil {
		return 0, err
	}
	d.deepest = n.Depth
	mode := binary.LittleEndian.Uint16(raw)
	if mode == 0 {
		back, err := d.uvarint(secLinks, i, math.MaxInt32)
		if err == nil && (back == 0 || back >= uint64(i)) {
			err = d.fail(secLinks, i, "hard link %d nodes back", back)
		}
		return int(back), err
	}
	n.Mode, n.Link = uint32(mode), -1
	if n.IsDir() {
		d.deepest++
	}
	return 0, d.attributes(n, i)
}

// attributes reads what node i has beside its place and its type.
func (d *decoder) attributes(n *Node, i int) error {
	if i == 0 && !n.IsDir() {
		return d.fail(secModes, i, "the root is no directory")
	}
	uid, err := d.uvarint(secUIDs, i, math.MaxUint32)
	if err != nil {
		return err
	}
	gid, err := d.uvarint(secGIDs, i, math.MaxUint32)
	if err != nil {
		return err
	}
	sec := &d.sec[secSeconds]
	s, w := binary.Varint(sec.b[sec.at:])
	if w <= 0 {
		return d.fail(secSeconds, i, "number is cut short or too large")
	}
	sec.at += w
	nsec, err := d.uvarint(secNanos, i, 999_999_999)
	if err != nil {
		return err
	}
	n.UID, n.GID, n.Sec, n.Nsec = uint32(uid), uint32(gid), s, int32(nsec)
	switch n.Type() {
	case TypeRegular:
		err = d.content(n, i)
	case TypeSymlink:
		n.Target, err = d.text(secTargets, i)
	case TypeBlock, TypeChar:
		err = d.device(n, i)
	}
	if err != nil {
		return err
	}
	return d.nodeXAttrs(n, i)
}

// place reads level and name of node i.
func (d *decoder) place(n *Node, i int) error {
	if i == 0 {
		d.siblings = append(d.siblings, "")
		return nil
	}
	up, err := d.uvarint(secLevels, i, uint64(d.deepest-1))
	if err != nil {
		return err
	}
	depth := d.deepest - int(up)
	if depth > maxDepth {
		return d.fail(secLevels, i, "deeper than %d", maxDepth)
	}
	shared, err := d.bytes(secNames, i, 1)
	if err != nil {
		return err
	}
	prefix := ""
	if depth < len(d.siblings) {
		prefix = d.siblings[depth]
	}
	if int(shared[0]) > len(prefix) {
		return d.fail(secNames, i, "shares %d bytes with a name of %d", shared[0], len(prefix))
	}
	rest, err := d.textBytes(secNames, i)
	if err != nil {
		return err
	}
	if int(shared[0])+len(rest) > MaxName {
		return d.fail(secNames, i, "name of %d bytes", int(shared[0])+len(rest))
	}
	n.Depth = depth
	n.Name = d.name(prefix[:shared[0]], rest)
	d.siblings = append(d.siblings[:depth], n.Name)
	return nil
}

// follow copies the node that the hard link i belongs to.
func (d *decoder) follow(nodes []Node, i, back int) error {
	leader := nodes[i-back]
	if leader.Link != -1 || leader.IsDir() {
		return d.fail(secLinks, i, "hard link to a directory or a follower")
	}
	leader.Name, leader.Depth, leader.Link = nodes[i].Name, nodes[i].Depth, int32(i-back)
	nodes[i] = leader
	return nil
}

func (d *decoder) content(n *Node, i int) error {
	ref, err := d.uvarint(secRefs, i, uint64(refBack+len(d.sizes))-1)
	if err != nil {
		return err
	}
	switch {
	case ref == refEmpty:
		n.Digest = emptyDigest
		return nil
	case ref >= refBack:
		c := len(d.sizes) - 1 - int(ref-refBack)
		n.Size, n.Digest = d.sizes[c], [32]byte(d.sec[secDigests].b[c*len(n.Digest):])
		return nil
	}
	size, err := d.uvarint(secSizes, i, math.MaxInt64)
	if err != nil {
		return err
	}
	if size == 0 {
		return d.fail(secSizes, i, "the empty content has no entry")
	}
	digest, err := d.bytes(secDigests, i, len(n.Digest))
	if err != nil {
		return err
	}
	n.Size, n.Digest = int64(size), [32]byte(digest)
	d.sizes = append(d.sizes, n.Size)
	return nil
}

func (d *decoder) device(n *Node, i int) error {
	major, err := d.uvarint(secDevices, i, MaxMajor)
	if err != nil {
		return err
	}
	minor, err := d.uvarint(secDevices, i, MaxMinor)
	if err != nil {
		return err
	}
	n.Major, n.Minor = uint32(major), uint32(minor)
	return nil
}

// nodeXAttrs reads the attributes of node i when it has any.
func (d *decoder) nodeXAttrs(n *Node, i int) error {
	c := &d.sec[secXAttrs]
	if !d.pending {
		if c.at == len(c.b) {
			return nil
		}
		gap, err := d.uvarint(secXAttrs, i, maxNodes)
		if err != nil {
			return err
		}
		d.xattrs, d.pending = gap, true
	}
	if d.xattrs > 0 {
		d.xattrs--
		return nil
	}
	d.pending = false
	count, err := d.uvarint(secXAttrs, i, uint64(len(c.b)-c.at))
	if err != nil {
		return err
	}
	if count == 0 {
		return d.fail(secXAttrs, i, "entry without attributes")
	}
	for range count {
		name, err := d.text(secXAttrs, i)
		if err != nil {
			return err
		}
		size, err := d.uvarint(secXAttrs, i, MaxXAttrValue)
		if err != nil {
			return err
		}
		value, err := d.bytes(secXAttrs, i, int(size))
		if err != nil {
			return err
		}
		n.XAttrs = append(n.XAttrs, XAttr{Name: name, Value: bytes.Clone(value)})
	}
	return nil
}
