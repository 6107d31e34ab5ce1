package translate

import (
	"context"
	"strings"

	"github.com/ociv2-sync/ociv2-sync/toc"
)

// dirent is a name in a directory. layer is the last layer that had an entry
// for it or for something below it: that layer's whiteouts leave it alone, in
// whatever order its entries come.
type dirent struct {
	ino   *inode
	layer int32
}

// pendingLink is a hard link that comes before its target in the layer.
type pendingLink struct {
	dir          *inode // where the link is
	name, target string
	entry        string // name of the entry, for the error
	followed     bool
}

// tree is a filesystem in memory to which layers are applied, lowest first, with
// the rules of umoci's unpacking. Names resolve as they would inside a chroot.
type tree struct {
	root    *inode
	layer   int32 // being applied
	pending []*inode
	maxPath int
}

// maxSymlinks is how many symlinks one path may lead through.
const maxSymlinks = 255

// resolve follows the symlinks in the directory path dir and returns the
// components it really has. Components that do not exist, or lie below something
// that is not a directory, stay as they are.
func (t *tree) resolve(dir string) ([]string, error) {
	var names []string
	length, links := 0, 0
	// at[i] is the inode of names[:i], nil if there is none.
	at := []*inode{t.root}
	for dir != "" {
		var name string
		name, dir, _ = strings.Cut(dir, "/")
		switch name {
		case "", ".":
			continue
		case "..":
			if len(names) > 0 {
				length -= len(names[len(names)-1]) + 1
				names, at = names[:len(names)-1], at[:len(at)-1]
			}
			continue
		}
		var ino *inode
		if parent := at[len(at)-1]; parent != nil {
			ino = parent.children[name].ino
		}
		if ino != nil && ino.link == nil && ino.mode&toc.TypeMask == toc.TypeSymlink {
			if links++; links > maxSymlinks {
				return nil, malformed("too many symlinks in its path")
			}
			target := ino.rest.target
			if strings.HasPrefix(target, "/") {
				names, at, length = names[:0], at[:1], 0
			}
			dir = target + "/" + dir
			continue
		}
		if length += len(name) + 1; length > t.maxPath {
			return nil, exceeded("bytes of a path, its symlinks resolved,", int64(t.maxPath))
		}
		names, at = append(names, name), append(at, ino)
	}
	return names, nil
}

// find returns the directory with the given resolved path, nil if there is none.
func (t *tree) find(names []string) *inode {
	d := t.root
	for _, name := range names {
		if d = d.children[name].ino; d == nil {
			return nil
		}
	}
	if !d.isDir() {
		return nil
	}
	return d
}

// makeAll returns the directory with the given resolved path. What is missing
// is made, what is not a directory is replaced, and every name on the way is
// marked as this layer's.
func (t *tree) makeAll(names []string) *inode {
	d := t.root
	for _, name := range names {
		e := d.children[name]
		if e.ino == nil || !e.ino.isDir() {
			e.ino = newDir()
			name = strings.Clone(name)
		}
		e.layer = t.layer
		d.children[name] = e
		d = e.ino
	}
	return d
}

// apply applies the ops of one layer in their order, and lets go of each. With an error it returns
// the path of the op that it is about.
func (t *tree) apply(ctx context.Context, layer int, ops []op) (string, error) {
	t.layer = int32(layer)
	for i := range ops {
		err := ctx.Err() // a path through many symlinks takes its time
		if err == nil {
			err = t.applyOp(&ops[i])
		}
		if err != nil {
			return ops[i].path, err
		}
		ops[i] = op{}
	}
	return t.settlePending()
}

func (t *tree) applyOp(o *op) error {
	if o.path == "" && o.kind == opSet {
		t.root.attributes = o.ino.attributes
		return nil
	}
	if o.kind == opClear {
		names, err := t.resolve(o.path)
		if err == nil {
			t.prune(t.find(names))
		}
		return err
	}
	i := strings.LastIndexByte(o.path, '/')
	name := strings.Clone(o.path[i+1:]) // it stays, the path does not
	names, err := t.resolve(o.path[:max(i, 0)])
	if err != nil {
		return err
	}
	switch o.kind {
	case opClear: // done above: it is about the directory itself
	case opRemove:
		if d := t.find(names); d != nil {
			t.remove(d, name)
		}
	case opSet:
		d := t.makeAll(names)
		if old := d.children[name].ino; old != nil && old.isDir() && o.ino.isDir() {
			old.attributes = o.ino.attributes
			o.ino = old
		} else if o.ino.isDir() {
			o.ino.children = map[string]dirent{}
		}
		d.children[name] = dirent{o.ino, t.layer}
	case opLink:
		d := t.makeAll(names)
		delete(d.children, name) // a link to what it replaces has no target
		return t.link(d, name, o)
	}
	return nil
}

// link makes name in d another name of the op's target, or a pendingLink if
// there is no such thing yet.
func (t *tree) link(d *inode, name string, o *op) error {
	ino, err := t.lookup(o.target)
	if err != nil {
		return err
	}
	if ino == nil || ino.link != nil {
		ino = &inode{link: &pendingLink{dir: d, name: name, target: o.target, entry: o.path}}
		t.pending = append(t.pending, ino)
	} else if ino.isDir() {
		return errLinkToDir
	}
	d.children[name] = dirent{ino, t.layer}
	return nil
}

var errLinkToDir = malformed("hard link to a directory")

// lookup returns what is at path, symlinks followed except in its last
// component; nil if there is nothing.
func (t *tree) lookup(path string) (*inode, error) {
	if path == "" {
		return t.root, nil
	}
	i := strings.LastIndexByte(path, '/')
	names, err := t.resolve(path[:max(i, 0)])
	if err != nil {
		return nil, err
	}
	if d := t.find(names); d != nil {
		return d.children[path[i+1:]].ino, nil
	}
	return nil, nil
}

// settlePending gives the layer's links whose targets came after them what they
// link to. With an error it returns the path of the entry that it is about.
func (t *tree) settlePending() (string, error) {
	defer func() { t.pending = nil }()
	for _, ino := range t.pending {
		// Links to links: the chain ends at something real, or nowhere.
		var chain []*inode
		for ino.link != nil && !ino.link.followed {
			if ino.link.dir.children[ino.link.name].ino != ino {
				break // replaced by a later entry
			}
			ino.link.followed = true
			chain = append(chain, ino)
			target, err := t.lookup(ino.link.target)
			if err != nil {
				return ino.link.entry, err
			}
			if target == nil {
				return ino.link.entry, malformed("hard link to %q, which does not exist", ino.link.target)
			}
			ino = target
		}
		for _, l := range chain {
			if ino.link != nil {
				return l.link.entry, malformed("hard link to itself by way of %q", l.link.target)
			}
			if ino.isDir() {
				return l.link.entry, errLinkToDir
			}
			l.link.dir.children[l.link.name] = dirent{ino, t.layer}
		}
	}
	return "", nil
}

// remove takes name out of d, except for what this layer has put there.
func (t *tree) remove(d *inode, name string) {
	e, ok := d.children[name]
	switch {
	case !ok:
	case e.layer != t.layer:
		delete(d.children, name)
	default:
		t.prune(e.ino)
	}
}

// prune empties the directory d, except for what this layer has put there. Each
// directory is walked once a layer, however many whiteouts it has.
func (t *tree) prune(d *inode) {
	if d == nil || d.pruned == t.layer+1 {
		return
	}
	d.pruned = t.layer + 1
	for name := range d.children {
		t.remove(d, name)
	}
}
