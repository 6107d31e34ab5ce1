package tree

import (
	"context"
	"errors"
	"io"
	"path"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/ociv2-sync/ociv2-sync/toc"
)

// Scan reads all metadata of the tree at dir: every xattr under its raw name,
// hard links as links. Contents are opened when they are asked for, and refused
// with ErrChanged when they are no longer those that Scan saw; their digests
// stay unknown. Filesystems of the kernel's own state count as empty. It keeps
// some 400 bytes for each node. The caller closes the Source.
func Scan(ctx context.Context, dir string) (*toc.Source, error) {
	root, err := OpenDir(dir)
	if err != nil {
		return nil, err
	}
	s := &scanner{root: root, leaders: map[inode]int32{}, devs: devices{}}
	if err := s.dir(ctx, root, "", -1); err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return &toc.Source{Nodes: s.nodes, Open: s.open, Close: root.Close}, nil
}

type inode struct{ dev, ino uint64 }

// scanner collects nodes in canonical order, and what is needed to find each
// again.
type scanner struct {
	root    *Dir
	nodes   []toc.Node
	seen    []snapshot // of each node
	parents []int32    // index of each node's directory; -1 for the root's
	leaders map[inode]int32
	devs    devices
}

// dir adds the directory d, and all below it.
func (s *scanner) dir(ctx context.Context, d *Dir, name string, parent int32) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	self := int32(len(s.nodes))
	st, err := fstat(d.fd)
	if err != nil {
		return pathError("stat", d.path, err)
	}
	if err := s.node(d.fd, &st, name, parent); err != nil {
		return pathError("read", d.path, err)
	}
	if v, err := s.devs.virtual(d.fd, &st); err != nil || v {
		return pathError("statfs", d.path, err)
	}
	names, err := d.Names()
	if err != nil {
		return err
	}
	slices.Sort(names)
	for _, n := range names {
		if err := s.child(ctx, d, n, self); err != nil {
			return err
		}
	}
	return nil
}

func (s *scanner) child(ctx context.Context, d *Dir, name string, parent int32) error {
	fd, err := d.openat(name, unix.O_PATH, 0)
	if err != nil {
		return err
	}
	st, err := fstat(fd)
	if err == nil && st.Mode&unix.S_IFMT != unix.S_IFDIR {
		err = s.node(fd, &st, name, parent)
	}
	if err := errors.Join(d.error("read", name, err), unix.Close(fd)); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil
	}
	sub, err := d.OpenDir(name)
	if err != nil {
		return err
	}
	return errors.Join(s.dir(ctx, sub, name, parent), sub.Close())
}

// node adds the node open at fd.
func (s *scanner) node(fd int, st *unix.Stat_t, name string, parent int32) error {
	n := toc.Node{
		Name: name, Mode: st.Mode & (toc.TypeMask | toc.PermMask), UID: st.Uid, GID: st.Gid,
		Sec: int64(st.Mtim.Sec), Nsec: int32(st.Mtim.Nsec), Link: -1,
	}
	if parent >= 0 {
		n.Depth = s.nodes[parent].Depth + 1
	}
	var err error
	if n.XAttrs, err = readXAttrs(fd, func(string) bool { return true }); err != nil {
		return err
	}
	switch n.Type() {
	case toc.TypeRegular:
		n.Size = st.Size
		v, err := s.devs.virtual(fd, st)
		if err != nil {
			return err
		}
		if v {
			n.Size = 0
		}
	case toc.TypeSymlink:
		n.Mode |= 0o777
		if n.Target, err = readlink(fd); err != nil {
			return err
		}
	case toc.TypeBlock, toc.TypeChar:
		n.Major, n.Minor = unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev))
	}
	if n.Type() != toc.TypeDir && st.Nlink > 1 {
		id := inode{uint64(st.Dev), st.Ino}
		if leader, ok := s.leaders[id]; ok {
			n.Link = leader
		} else {
			s.leaders[id] = int32(len(s.nodes))
		}
	}
	s.nodes, s.parents = append(s.nodes, n), append(s.parents, parent)
	s.seen = append(s.seen, snapshotOf(st))
	return nil
}

// open opens the contents of node i, one component after the other from the
// root.
func (s *scanner) open(ctx context.Context, i int) (io.ReadCloser, error) {
	var names []string
	for j := int32(i); j > 0; j = s.parents[j] {
		names = append(names, s.nodes[j].Name)
	}
	slices.Reverse(names)
	name := path.Join(names...)
	fd, st, err := s.root.openBelow(name)
	if err != nil {
		return nil, err
	}
	c := newContents(ctx, s.root, name, fd, &st)
	c.left = s.nodes[i].Size
	if c.was != s.seen[i] {
		return nil, errors.Join(c.error(ErrChanged), c.Close())
	}
	return c, nil
}
