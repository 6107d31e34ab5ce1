package transfer

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"

	"github.com/ociv2-sync/ociv2-sync/internal/tree"
	"github.com/ociv2-sync/ociv2-sync/toc"
)

// maxTable bounds a file of an image that is read as a whole.
const maxTable = 16 << 20

// readInTree reads a file of the tree with the given nodes that has been made in
// dir, with symbolic links followed as if dir were the root directory.
func readInTree(nodes []toc.Node, dir, path string) (_ []byte, err error) {
	i, ok := resolve(nodes, path)
	if !ok || !nodes[i].IsRegular() {
		return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
	}
	d, err := tree.OpenDir(dir)
	if err != nil {
		return nil, err
	}
	names := strings.Split(toc.Path(nodes, i), "/")
	for _, name := range names[:len(names)-1] {
		sub, oerr := d.OpenDir(name)
		if err := errors.Join(oerr, d.Close()); err != nil {
			return nil, err
		}
		d = sub
	}
	f, err := d.Open(names[len(names)-1])
	if err := errors.Join(err, d.Close()); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	b, err := io.ReadAll(io.LimitReader(f, maxTable+1))
	if err == nil && len(b) > maxTable {
		err = fmt.Errorf("transfer: %w: the image's /%s has more than %d bytes", toc.ErrInvalid, path, maxTable)
	}
	return b, err
}

// maxLinks is how many symbolic links Linux follows in one path.
const maxLinks = 40

// resolve returns the node that path leads to from the root of the tree, symbolic
// links followed inside it.
func resolve(nodes []toc.Node, path string) (int, bool) {
	var at []int // the directories on the way, without the root
	links := 0
	rest := strings.Split(path, "/")
	for len(rest) > 0 {
		name := rest[0]
		rest = rest[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			at = at[:max(0, len(at)-1)]
			continue
		}
		dir := 0
		if len(at) > 0 {
			dir = at[len(at)-1]
		}
		i, ok := child(nodes, dir, name)
		if !ok {
			return 0, false
		}
		switch n := &nodes[i]; {
		case n.Type() == toc.TypeSymlink:
			if links++; links > maxLinks {
				return 0, false
			}
			if strings.HasPrefix(n.Target, "/") {
				at = nil
			}
			rest = append(strings.Split(n.Target, "/"), rest...)
		case n.IsDir():
			at = append(at, i)
		default:
			return i, len(rest) == 0
		}
	}
	return 0, false
}

// child returns the node called name in the directory dir.
func child(nodes []toc.Node, dir int, name string) (int, bool) {
	for i := dir + 1; i < len(nodes) && nodes[i].Depth > nodes[dir].Depth; i++ {
		if nodes[i].Depth == nodes[dir].Depth+1 && nodes[i].Name == name {
			return i, true
		}
	}
	return 0, false
}
