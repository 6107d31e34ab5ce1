package toc

import (
	"bytes"
	"context"
	"crypto/sha256"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/ociv2-sync/ociv2-sync/catar"
)

// tree is a way to write trees down in tests: paths to nodes. It sorts them,
// adds the parents they need, and gives hard links their leaders.
type tree map[string]entryOf

// entryOf is a node without its place. LinkTo names another path of the same
// hard-link group instead of everything else.
type entryOf struct {
	Node
	Content string
	LinkTo  string
}

func dir(mode uint32) entryOf { return entryOf{Node: Node{Mode: TypeDir | mode}} }

func file(mode uint32, content string) entryOf {
	return entryOf{Node: Node{Mode: TypeRegular | mode, Sec: 1_700_000_000}, Content: content}
}

func symlink(target string) entryOf {
	return entryOf{Node: Node{Mode: TypeSymlink | 0o777, Target: target}}
}

func (e entryOf) with(change func(*Node)) entryOf {
	change(&e.Node)
	return e
}

func (e entryOf) xattr(name, value string) entryOf {
	e.XAttrs = append(slices.Clone(e.XAttrs), XAttr{name, []byte(value)})
	slices.SortFunc(e.XAttrs, func(a, b XAttr) int { return strings.Compare(a.Name, b.Name) })
	return e
}

// source turns the tree into a Source whose digests are unknown.
func (t tree) source() *Source {
	for p := range maps.Clone(t) {
		for q := path.Dir(p); q != "."; q = path.Dir(q) {
			if _, ok := t[q]; !ok {
				t[q] = dir(0o755)
			}
		}
	}
	paths := slices.Collect(maps.Keys(t))
	if _, ok := t["."]; !ok {
		paths = append(paths, ".")
		t["."] = dir(0o755)
	}
	// "/" sorts before every other byte of a name once it is a zero byte.
	key := func(p string) string {
		if p == "." {
			return ""
		}
		return "\x00" + strings.ReplaceAll(p, "/", "\x00")
	}
	slices.SortFunc(paths, func(a, b string) int { return strings.Compare(key(a), key(b)) })

	src := &Source{Close: func() error { return nil }}
	var contents []string
	leaders := make(map[string]int32)
	for i, p := range paths {
		e := t[p]
		group := p
		if e.LinkTo != "" {
			group = e.LinkTo
			e.Node, e.Content = t[group].Node, t[group].Content
		}
		n := e.Node
		n.Link = -1
		if l, ok := leaders[group]; ok {
			n.Link = l
		} else {
			leaders[group] = int32(i)
		}
		if p != "." {
			n.Name, n.Depth = path.Base(p), strings.Count(p, "/")+1
		}
		if n.IsRegular() {
			n.Size = int64(len(e.Content))
		}
		src.Nodes = append(src.Nodes, n)
		contents = append(contents, e.Content)
	}
	src.Open = func(_ context.Context, i int) (io.ReadCloser, error) {
		if src.Nodes[i].Link != -1 || src.Nodes[i].Size == 0 {
			panic("opened a node that has no content of its own")
		}
		return io.NopCloser(strings.NewReader(contents[i])), nil
	}
	return src
}

// toc is source with all digests.
func (t tree) toc() *TOC {
	src := t.source()
	for i := range src.Nodes {
		n := &src.Nodes[i]
		if !n.IsRegular() {
			continue
		}
		n.Digest = emptyDigest
		if n.Size > 0 {
			r, _ := src.Open(context.Background(), leader(src.Nodes, i))
			b, _ := io.ReadAll(r)
			n.Digest = sha256.Sum256(b)
		}
	}
	return &TOC{Nodes: src.Nodes}
}

func aclXAttr(p catar.PosixACL) string { return string(p.XAttr()) }

const caps2 = "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

// sample is a tree with everything that a TOC can say, and every case of the
// projection.
func sample() tree {
	long := strings.Repeat("n", 237)
	access := catar.PosixACL{
		UserObj: 6, GroupObj: 4, Other: 4, HasMask: true, Mask: 5,
		Users:  []catar.ACLEntry{{ID: 1000, Perm: 7}, {ID: 65535, Perm: 1}},
		Groups: []catar.ACLEntry{{ID: 50, Perm: 1}},
	}
	def := catar.PosixACL{UserObj: 7, GroupObj: 5, Other: 0, HasMask: true, Mask: 7, Users: []catar.ACLEntry{{ID: 7, Perm: 2}}}
	return tree{
		".":                                 dir(0o755).with(func(n *Node) { n.Sec, n.Nsec = 1_600_000_000, 123456789 }),
		"empty":                             file(0o644, ""),
		"dir/a":                             file(0o644, "first content\n"),
		"dir/a.b":                           file(0o600, "second content\n"),
		"dir/ab":                            file(0o600, "first content\n"),
		"dir":                               dir(0o1777).xattr("user.dir", "on a directory").xattr("system.posix_acl_default", aclXAttr(def)),
		"dir/hard1":                         {LinkTo: "dir/hard2"},
		"dir/hard2":                         file(0o4755, strings.Repeat("linked ", 100)).xattr("user.empty", "").xattr("user.x", "1\x00\xff"),
		"z-hard3":                           {LinkTo: "dir/hard2"},
		"slink1":                            symlink("../over/there"),
		"slink2":                            {LinkTo: "slink1"},
		"slink-long":                        symlink(strings.Repeat("t", MaxTarget)),
		"null":                              {Node: Node{Mode: TypeChar | 0o666, Major: 1, Minor: 3}},
		"disk":                              {Node: Node{Mode: TypeBlock | 0o660, GID: 6, Major: MaxMajor, Minor: MaxMinor}},
		"whiteout":                          {Node: Node{Mode: TypeChar}},
		"fifo":                              {Node: Node{Mode: TypeFIFO | 0o600, Sec: 5}},
		"sock":                              {Node: Node{Mode: TypeSocket | 0o700}},
		"odd \n\xff\xfe ":                   file(0o444, "odd"),
		"caps":                              file(0o755, "caps").xattr("security.capability", caps2),
		"caps-bad":                          file(0o755, "caps").xattr("security.capability", "bad"),
		"acl":                               file(0o654, "acl").xattr("system.posix_acl_access", aclXAttr(access)),
		"acl-fifo":                          entryOf{Node: Node{Mode: TypeFIFO | 0o654}}.xattr("system.posix_acl_access", aclXAttr(access)),
		"acl-dev":                           entryOf{Node: Node{Mode: TypeChar | 0o654, Minor: 7}}.xattr("system.posix_acl_access", aclXAttr(access)),
		"acl-bad":                           file(0o640, "acl").xattr("system.posix_acl_access", "\x02\x00\x00\x00bad"),
		"xattrs":                            file(0o640, "x").xattr("security.ima", "i").xattr("trusted.t", "t").xattr("nospace", "n"),
		"xattr-fifo":                        {Node: Node{Mode: TypeFIFO | 0o600}},
		"big-ids":                           file(0o644, "ids").with(func(n *Node) { n.UID, n.GID = 65535, 1<<32-1 }),
		"ids":                               file(0o644, "ids").with(func(n *Node) { n.UID, n.GID = 65534, 1<<32-2 }),
		"past":                              file(0o644, "p").with(func(n *Node) { n.Sec, n.Nsec = -2, 500_000_000 }),
		"before-1970":                       file(0o644, "p").with(func(n *Node) { n.Sec, n.Nsec = -1, 999_999_999 }),
		"far-future":                        file(0o644, "p").with(func(n *Node) { n.Sec = 1 << 62 }),
		"2400":                              file(0o644, "p").with(func(n *Node) { n.Sec = 13_600_000_000 }),
		long:                                file(0o644, "the longest that casync takes"),
		long + "n":                          file(0o644, "left out"),
		long + "o":                          {LinkTo: "dir/ab"},
		long + "p/inside":                   file(0o644, "left out with its directory"),
		long + "p/second":                   {LinkTo: long + "p/inside"},
		long + "p/sub/x":                    {Node: Node{Mode: TypeFIFO}},
		"q":                                 file(0o644, "after what is left out"),
		strings.Repeat("d/", 62) + "63":     file(0o644, "the deepest"),
		strings.Repeat("d/", 63) + "64":     file(0o644, "too deep"),
		strings.Repeat("d/", 63) + "65/66":  dir(0o755),
		strings.Repeat("e/", 66) + "deeper": {LinkTo: "e/seen"},
		"e/seen":                            file(0o644, "two names, one left out"),
		"e/e/e/f":                           file(0o644, strings.Repeat("0123456789", 100_000)),
		"fifo-user":                         entryOf{Node: Node{Mode: TypeFIFO | 0o600}}.xattr("user.no", "refused by Linux").xattr("trusted.yes", "v"),
		"symlink-xattr":                     symlink("x").xattr("trusted.left", "out"),
		"acl-file-default":                  file(0o644, "q").xattr("system.posix_acl_default", aclXAttr(def)),
		"dir-acl":                           dir(0o755).xattr("system.posix_acl_access", aclXAttr(access)).with(func(n *Node) { n.Mode = TypeDir | 0o754 }),
	}
}

func marshal(t testing.TB, x *TOC) []byte {
	t.Helper()
	b, err := Marshal(x)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func find(t testing.TB, nodes []Node, p string) int {
	t.Helper()
	for i := range nodes {
		if Path(nodes, i) == p {
			return i
		}
	}
	t.Fatalf("no node %q", p)
	return -1
}

func TestPath(t *testing.T) {
	nodes := sample().source().Nodes
	for _, p := range []string{".", "dir", "dir/a.b", "e/e/e/f", "z-hard3"} {
		if got := Path(nodes, find(t, nodes, p)); got != p {
			t.Errorf("Path = %q, want %q", got, p)
		}
	}
}

// catarOf gives the projected catar of a source.
func catarOf(t testing.TB, src *Source) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := WriteCatar(t.Context(), src, &b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
