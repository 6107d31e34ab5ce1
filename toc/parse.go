package toc

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
)

// Parse reads canonical bytes (docs/format/toc.md). It takes exactly what
// Marshal writes: whatever it accepts marshals to the same bytes. The nodes it
// allocates are bounded by the length of b. Its errors are of type *Error.
func Parse(b []byte) (*TOC, error) {
	d, err := split(b)
	if err != nil {
		return nil, err
	}
	t := &TOC{Nodes: make([]Node, len(d.sec[secModes].b)/2)}
	for i := range t.Nodes {
		if err := d.node(t.Nodes, i); err != nil {
			return nil, err
		}
	}
	for s := range d.sec {
		if c := &d.sec[s]; c.at != len(c.b) {
			return nil, d.fail(s, -1, "%d bytes too many", len(c.b)-c.at)
		}
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

// column is one section while it is read.
type column struct {
	b     []byte
	at    int
	start int // of b in the canonical bytes
}

type decoder struct {
	sec      [sections]column
	siblings []string
	contents []int32 // the nodes that the table's contents came with
	xattrs   uint64  // nodes to pass before the next one with attributes
	pending  bool    // xattrs has been read
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
	nodes := len(d.sec[secModes].b) / 2
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

// text reads up to a zero byte.
func (d *decoder) text(sec, node int) (string, error) {
	c := &d.sec[sec]
	n := bytes.IndexByte(c.b[c.at:], 0)
	if n < 0 {
		return "", d.fail(sec, node, "text without its end")
	}
	s := string(c.b[c.at : c.at+n])
	c.at += n + 1
	return s, nil
}

func (d *decoder) node(nodes []Node, i int) error {
	n := &nodes[i]
	if err := d.place(nodes, i); err != nil {
		return err
	}
	raw, err := d.bytes(secModes, i, 2)
	if err != nil {
		return err
	}
	mode := binary.LittleEndian.Uint16(raw)
	if mode == 0 {
		return d.follower(nodes, i)
	}
	n.Mode, n.Link = uint32(mode), -1
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
		err = d.content(nodes, i)
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
func (d *decoder) place(nodes []Node, i int) error {
	if i == 0 {
		d.siblings = append(d.siblings, "")
		return nil
	}
	deep := deepest(&nodes[i-1])
	up, err := d.uvarint(secLevels, i, uint64(deep-1))
	if err != nil {
		return err
	}
	depth := deep - int(up)
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
	rest, err := d.text(secNames, i)
	if err != nil {
		return err
	}
	if int(shared[0])+len(rest) > MaxName {
		return d.fail(secNames, i, "name of %d bytes", int(shared[0])+len(rest))
	}
	n := &nodes[i]
	n.Depth = depth
	n.Name = prefix[:shared[0]] + rest
	d.siblings = append(d.siblings[:depth], n.Name)
	return nil
}

// follower reads which node the hard link i belongs to and copies it.
func (d *decoder) follower(nodes []Node, i int) error {
	back, err := d.uvarint(secLinks, i, math.MaxInt32)
	if err != nil {
		return err
	}
	if back == 0 || back >= uint64(i) {
		return d.fail(secLinks, i, "hard link %d nodes back", back)
	}
	leader := nodes[i-int(back)]
	if leader.Link != -1 || leader.IsDir() {
		return d.fail(secLinks, i, "hard link to a directory or a follower")
	}
	leader.Name, leader.Depth, leader.Link = nodes[i].Name, nodes[i].Depth, int32(i)-int32(back)
	nodes[i] = leader
	return nil
}

func (d *decoder) content(nodes []Node, i int) error {
	n := &nodes[i]
	ref, err := d.uvarint(secRefs, i, uint64(refBack+len(d.contents))-1)
	if err != nil {
		return err
	}
	switch {
	case ref == refEmpty:
		n.Digest = emptyDigest
		return nil
	case ref >= refBack:
		c := &nodes[d.contents[len(d.contents)-1-int(ref-refBack)]]
		n.Size, n.Digest = c.Size, c.Digest
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
	d.contents = append(d.contents, int32(i))
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
