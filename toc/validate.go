package toc

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/ociv2-sync/ociv2-sync/internal/numset"
)

// Limits of a TOC; docs/format/toc.md, section 3. They are those of Linux, so
// that every TOC can be a filesystem.
const (
	// MaxName is the length of the longest name, in bytes.
	MaxName = 255
	// maxDepth is the depth of the deepest node: no path of 4096 bytes has more
	// components.
	maxDepth = 2048
	// MaxTarget is the length of the longest symlink target, in bytes.
	MaxTarget = 4095
	// MaxXAttrValue is the length of the longest value of an extended
	// attribute, in bytes.
	MaxXAttrValue = 65536
	// MaxXAttrNames bounds the names of one node's extended attributes, each
	// with a zero byte after it: Linux cannot list more.
	MaxXAttrNames = 65536
	// maxXAttrs bounds the values of one node's extended attributes together.
	maxXAttrs = 16 << 20
	// MaxMajor and MaxMinor are the largest device numbers.
	MaxMajor = 1<<12 - 1
	MaxMinor = 1<<20 - 1
	// maxNodes is the number of nodes that a TOC can have.
	maxNodes = 1 << 28
)

// ErrInvalid is wrapped by every error that says that a TOC, its bytes or its
// compressed form is malformed.
var ErrInvalid = errors.New("toc: invalid table of contents")

// Error says what is wrong with a TOC and where.
type Error struct {
	// Section names the part of the canonical bytes, empty when the fault is
	// in the nodes.
	Section string
	// Offset is the position in the canonical bytes, -1 when unknown.
	Offset int64
	// Node is the index of the node at fault, -1 when it is none.
	Node int
	// Path is that node's path, as far as it is known.
	Path string
	// Reason is what is wrong.
	Reason string
}

// Error gives the fault and its place on one line.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(ErrInvalid.Error())
	if e.Section != "" {
		fmt.Fprintf(&b, ": %s", e.Section)
	}
	if e.Offset >= 0 {
		fmt.Fprintf(&b, ": offset %d", e.Offset)
	}
	if e.Node >= 0 {
		fmt.Fprintf(&b, ": node %d", e.Node)
		if e.Path != "" {
			fmt.Fprintf(&b, " (%q)", e.Path)
		}
	}
	b.WriteString(": ")
	b.WriteString(e.Reason)
	return b.String()
}

// Unwrap gives ErrInvalid.
func (e *Error) Unwrap() error { return ErrInvalid }

// emptyDigest is the SHA-256 of no bytes.
var emptyDigest = sha256.Sum256(nil)

// Path gives the path of nodes[i] below the root with '/' between its
// components, "." for the root. It walks back over the nodes: meant for
// messages, not for loops over all nodes.
func Path(nodes []Node, i int) string {
	if i == 0 {
		return "."
	}
	parts := []string{nodes[i].Name}
	want := nodes[i].Depth - 1
	for j := i - 1; j > 0 && want > 0; j-- {
		if nodes[j].Depth == want {
			parts = append(parts, nodes[j].Name)
			want--
		}
	}
	slices.Reverse(parts)
	return strings.Join(parts, "/")
}

// Validate checks every invariant of docs/format/toc.md, section 3: structure,
// order, names, types, hard links, attributes and digests. Its errors are of
// type *Error.
func (t *TOC) Validate() error { return validate(t.Nodes, true) }

// validate is Validate; without digests it takes the unknown (zero) digests of
// a Source that has not been read.
func validate(nodes []Node, digests bool) error {
	firsts := numset.New(len(nodes), func(i int32) *[32]byte { return &nodes[i].Digest })
	return validateNodes(nodes, digests, func(i int) string {
		n := &nodes[i]
		if !n.IsRegular() || n.Digest == [32]byte{} {
			return ""
		}
		// Two sizes under one digest would make the content table
		// ambiguous (docs/format/toc.md, section 2.9).
		if first, _ := firsts.Add(int32(i)); nodes[first].Size != n.Size {
			return "a content with two sizes"
		}
		return ""
	})
}

// validateNodes is validate for what can be told without comparing contents. What more
// returns is wrong with a node beside that, if it is not nil.
func validateNodes(nodes []Node, digests bool, more func(i int) string) error {
	if len(nodes) == 0 {
		return &Error{Offset: -1, Node: -1, Reason: "no root"}
	}
	if len(nodes) > maxNodes {
		return &Error{Offset: -1, Node: -1, Reason: fmt.Sprintf("%d nodes, more than %d", len(nodes), maxNodes)}
	}
	var last [maxDepth + 1]string // per depth the previous sibling
	for i := range nodes {
		reason := checkPlace(nodes, i, &last)
		if reason == "" {
			reason = checkNode(&nodes[i], digests)
		}
		if reason == "" && nodes[i].Link != -1 {
			reason = checkLink(nodes, i)
		}
		if reason == "" && more != nil {
			reason = more(i)
		}
		if reason != "" {
			return &Error{Offset: -1, Node: i, Path: Path(nodes, i), Reason: reason}
		}
	}
	return nil
}

// checkPlace checks where node i hangs: depth, name and order.
func checkPlace(nodes []Node, i int, last *[maxDepth + 1]string) string {
	n := &nodes[i]
	if i == 0 {
		switch {
		case n.Depth != 0 || n.Name != "":
			return "the root has a name or a depth"
		case !n.IsDir():
			return "the root is no directory"
		}
		return ""
	}
	prev := &nodes[i-1]
	if n.Depth < 1 || n.Depth > deepest(prev) || n.Depth > maxDepth {
		return fmt.Sprintf("depth %d after depth %d", n.Depth, prev.Depth)
	}
	if reason := checkName(n.Name); reason != "" {
		return reason
	}
	if n.Depth > prev.Depth {
		last[n.Depth] = ""
	}
	if n.Name <= last[n.Depth] {
		return "not in order after its sibling"
	}
	last[n.Depth] = n.Name
	return ""
}

func checkName(name string) string {
	switch {
	case name == "", name == ".", name == "..":
		return fmt.Sprintf("name %q", name)
	case len(name) > MaxName:
		return fmt.Sprintf("name of %d bytes", len(name))
	case strings.ContainsAny(name, "/\x00"):
		return "name with a slash or a zero byte"
	}
	return ""
}

// checkNode checks what node n says of itself.
func checkNode(n *Node, digests bool) string {
	var device, symlink, regular bool
	switch n.Type() {
	case TypeRegular:
		regular = true
	case TypeSymlink:
		symlink = true
	case TypeBlock, TypeChar:
		device = true
	case TypeDir, TypeFIFO, TypeSocket:
	default:
		return fmt.Sprintf("type %#o", n.Type())
	}
	switch {
	case n.Mode&^(TypeMask|PermMask) != 0:
		return fmt.Sprintf("mode %#o", n.Mode)
	case n.Nsec < 0 || n.Nsec > 999_999_999:
		return fmt.Sprintf("%d nanoseconds", n.Nsec)
	case symlink && n.Mode&PermMask != 0o777:
		return fmt.Sprintf("symlink with permissions %#o", n.Mode&PermMask)
	case symlink && (n.Target == "" || len(n.Target) > MaxTarget || strings.IndexByte(n.Target, 0) >= 0):
		return "symlink target empty, too long or with a zero byte"
	case !symlink && n.Target != "":
		return "target on a node that is no symlink"
	case !device && (n.Major != 0 || n.Minor != 0):
		return "device number on a node that is no device"
	case n.Major > MaxMajor || n.Minor > MaxMinor:
		return fmt.Sprintf("device %d:%d", n.Major, n.Minor)
	case n.Size < 0 || !regular && n.Size != 0:
		return fmt.Sprintf("size %d", n.Size)
	}
	zero := n.Digest == [32]byte{}
	switch {
	case !regular && !zero:
		return "digest on a node without content"
	case regular && zero && digests:
		return "no digest"
	case regular && !zero && (n.Size == 0) != (n.Digest == emptyDigest):
		return "size and digest disagree on whether the content is empty"
	}
	return checkXAttrs(n.XAttrs)
}

func checkXAttrs(xs []XAttr) string {
	names, values := 0, 0
	for i, x := range xs {
		names += len(x.Name) + 1
		values += len(x.Value)
		switch {
		case x.Name == "" || len(x.Name) > MaxName || strings.IndexByte(x.Name, 0) >= 0:
			return fmt.Sprintf("attribute name %q", x.Name)
		case len(x.Value) > MaxXAttrValue:
			return fmt.Sprintf("attribute %q of %d bytes", x.Name, len(x.Value))
		case i > 0 && x.Name <= xs[i-1].Name:
			return fmt.Sprintf("attribute %q not in order", x.Name)
		case names > MaxXAttrNames || values > maxXAttrs:
			return "too many attributes"
		}
	}
	return ""
}

// checkLink checks that follower i repeats its leader.
func checkLink(nodes []Node, i int) string {
	n := &nodes[i]
	if n.Link < 1 || int(n.Link) >= i {
		return fmt.Sprintf("hard link to node %d", n.Link)
	}
	l := &nodes[n.Link]
	switch {
	case l.Link != -1:
		return "hard link to a follower"
	case n.IsDir():
		return "hard link to a directory"
	case n.Mode != l.Mode || n.UID != l.UID || n.GID != l.GID || n.Sec != l.Sec || n.Nsec != l.Nsec ||
		n.Size != l.Size || n.Digest != l.Digest || n.Target != l.Target || n.Major != l.Major ||
		n.Minor != l.Minor || !equalXAttrs(n.XAttrs, l.XAttrs):
		return "hard link that differs from its leader"
	}
	return ""
}

func equalXAttrs(a, b []XAttr) bool {
	return slices.EqualFunc(a, b, func(x, y XAttr) bool {
		return x.Name == y.Name && bytes.Equal(x.Value, y.Value)
	})
}
