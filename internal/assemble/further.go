package assemble

import (
	"context"
	"errors"
	"os"

	"github.com/ociv2-sync/ociv2-sync/internal/tree"
	"github.com/ociv2-sync/ociv2-sync/toc"
)

// errAbsent says why a further name of a node is not made.
var errAbsent = errors.New("what it is another name of could not be made")

// further makes node i, a further name of another, under a name in the directory d, and
// reports whether it is there. Where the filesystem gives the file no further name, a
// file of its own takes its place, which is noted.
func (b *builder) further(ctx context.Context, d *tree.Dir, name string, i int32, at *cursor) (bool, error) {
	first := b.job.Nodes[i].Link
	n := &b.job.Nodes[first]
	if b.absent[first] {
		b.lack(i, errAbsent)
		return false, nil
	}
	from, err := at.dir(first)
	if err != nil {
		return false, err
	}
	err = d.Link(name, from, n.Name)
	if err != nil && tree.CannotLink(err) && b.opts.Objects != nil && n.Type() == toc.TypeRegular && !b.apart[first] {
		// Other images may have taken the names that a file can have.
		b.apart[first] = true
		if err := b.part(ctx, first, i); err != nil {
			return false, err
		}
		err = d.Link(name, from, n.Name)
	}
	if err == nil || !tree.CannotLink(err) {
		return err == nil, err
	}
	if n.Type() != toc.TypeRegular {
		b.lack(i, err)
		return false, nil
	}
	return true, b.alone(ctx, d, name, i, from, err)
}

// alone makes node i, a further name of a file in the directory from, a file of its own,
// and notes why.
func (b *builder) alone(ctx context.Context, d *tree.Dir, name string, i int32, from *tree.Dir, reason error) error {
	b.note(i, []tree.Unrestored{{What: "hard link", Err: reason}})
	first := b.job.Nodes[i].Link
	f, err := from.Open(b.job.Nodes[first].Name)
	if err != nil {
		return err
	}
	return errors.Join(b.copyOf(ctx, d, name, first, f), f.Close())
}

// copyOf makes another file like that of node i, which is open.
func (b *builder) copyOf(ctx context.Context, d *tree.Dir, name string, i int32, file *os.File) error {
	f, err := d.Create(name)
	if err != nil {
		return err
	}
	if err := b.duplicate(ctx, f, file, b.job.Nodes[i].Size); err != nil {
		return errors.Join(err, f.Close())
	}
	_, err = b.seal(i, f)
	return err
}

// part makes the names before node i of a group of hard links, of which first is the
// first, names of a file that no other image has.
func (b *builder) part(ctx context.Context, first, i int32) (err error) {
	at, again := b.cursor(), b.cursor()
	defer at.close()
	defer again.close()
	name := b.job.Nodes[first].Name
	from, err := at.dir(first)
	if err != nil {
		return err
	}
	shared, err := from.Open(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, shared.Close()) }()
	for j := first; j < i; j++ {
		if j != first && b.job.Nodes[j].Link != first {
			continue
		}
		d, err := again.dir(j)
		if err != nil {
			return err
		}
		n := b.job.Nodes[j].Name
		if err := d.Remove(n); err != nil {
			return b.at(j, err)
		}
		if j == first {
			err = b.copyOf(ctx, d, n, first, shared)
		} else {
			err = d.Link(n, from, name)
		}
		if err == nil && !b.above(b.parent[j], i) { // which is finished: its times changed
			_, err = d.SetSelf(b.meta(b.parent[j]))
		}
		if err != nil {
			return b.at(j, err)
		}
	}
	return nil
}

// above reports whether node i lies in the directory dir, at whatever depth.
func (b *builder) above(dir, i int32) bool {
	for i > dir {
		i = b.parent[i]
	}
	return i == dir
}
