package toc

import (
	"fmt"
	"strings"
	"testing"
)

func changes(a, b *TOC) string {
	var s strings.Builder
	Diff(a, b, func(c Change) bool {
		fmt.Fprintf(&s, "%s %d %d %v\n", c.Path, c.A, c.B, c.What.Names())
		return true
	})
	return s.String()
}

func TestDiff(t *testing.T) {
	n := func(depth int, name string, set ...func(*Node)) Node {
		x := Node{Name: name, Depth: depth, Mode: TypeRegular | 0o644, Link: -1, Digest: emptyDigest}
		for _, f := range set {
			f(&x)
		}
		return x
	}
	directory := func(x *Node) { x.Mode, x.Digest = TypeDir|0o755, [32]byte{} }
	link := func(i int32) func(*Node) { return func(x *Node) { x.Link = i } }
	a := &TOC{[]Node{
		n(0, "", directory), n(1, "a", directory), n(2, "z"), n(1, "a.b"), n(1, "c"), n(1, "d"),
		n(1, "l1"), n(1, "l2"), n(1, "l3", link(6)), n(1, "m", link(7)), n(1, "s", func(x *Node) { x.Mode, x.Target, x.Digest = TypeSymlink|0o777, "x", [32]byte{} }),
		n(1, "v", func(x *Node) { x.Mode, x.Minor, x.Digest = TypeChar|0o600, 1, [32]byte{} }),
	}}
	b := &TOC{[]Node{
		n(0, "", directory, func(x *Node) { x.Nsec = 1 }), n(1, "a", directory), n(1, "a-b"), n(1, "a.b", func(x *Node) { x.Mode |= 0o4000; x.UID = 1 }),
		n(1, "c", directory), n(2, "in"), n(1, "d", func(x *Node) { x.Size, x.Digest[0] = 1, 1; x.XAttrs = []XAttr{{"user.a", nil}} }),
		n(1, "l1"), n(1, "l2"), n(1, "l3", link(8)), n(1, "m", link(8)), n(1, "s", func(x *Node) { x.Mode, x.Target, x.Digest = TypeSymlink|0o777, "y", [32]byte{} }),
		n(1, "v", func(x *Node) { x.Mode, x.Minor, x.Digest = TypeChar|0o600, 2, [32]byte{} }), n(1, "w"),
	}}
	want := `. 0 0 [time]
a/z 2 -1 []
a-b -1 2 []
a.b 3 3 [mode owner]
c 4 4 [type mode]
c/in -1 5 []
d 5 6 [content xattrs]
l3 8 9 [links]
s 10 11 [target]
v 11 12 [device]
w -1 13 []
`
	if got := changes(a, b); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	for _, x := range []*TOC{a, b, sample().toc()} {
		if got := changes(x, x); got != "" {
			t.Errorf("a tree differs from itself in\n%s", got)
		}
	}
	count := 0
	Diff(a, b, func(Change) bool { count++; return count < 3 })
	if count != 3 {
		t.Errorf("yield was called %d times after it returned false", count-3)
	}
}
