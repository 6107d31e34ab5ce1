package tree

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/ociv2-sync/ociv2-sync/catar"
)

// replaced makes a node under a temporary name, and then gives it its own.
func (x *extractor) replaced(ctx context.Context, l *level, e *catar.Entry, contents io.Reader) error {
	temp := ".ociv2-sync-" + rand.Text()
	made, err := x.make(ctx, l, temp, e, contents)
	if err != nil || !made {
		if rmErr := l.dir.RemoveAll(temp); err == nil {
			err = rmErr
		}
		return err
	}
	if err := x.replace(l, temp, e.Name); err != nil {
		return errors.Join(err, l.dir.RemoveAll(temp))
	}
	x.touched(l, e.Name)
	return x.seal(l.dir, e)
}

// sealed are the attributes under which a file cannot even be renamed.
const sealed = catar.WithFlagImmutable | catar.WithFlagAppend

// seal sets what had to wait until the file had its name.
func (x *extractor) seal(d *Dir, e *catar.Entry) error {
	if e.FileFlags&x.flags&sealed == 0 {
		return nil
	}
	f, err := d.Open(e.Name)
	if err != nil {
		return err
	}
	s := &setter{fd: int(f.Fd()), path: f.Name()}
	s.setFlags(Meta{FileFlags: e.FileFlags, FlagsMask: x.flags & sealed})
	return errors.Join(x.noted(s.notes, s.err), f.Close())
}

// twin puts another name of the file that Twin knows in place of one that was
// just written.
func (x *extractor) twin(d *Dir, temp string, e *catar.Entry, f *os.File) error {
	from, name, err := x.opts.Twin(e, f)
	if err != nil || from == nil {
		return err
	}
	defer from.Close()
	beside := ".ociv2-sync-" + rand.Text()
	if d.Link(beside, from, name) != nil {
		return nil // another filesystem, or too many names: it stays as it is
	}
	return d.Rename(beside, temp)
}

// replace moves a complete node to its name.
func (x *extractor) replace(l *level, temp, name string) error {
	err := l.dir.Rename(temp, name)
	if errors.Is(err, unix.EISDIR) || errors.Is(err, unix.EPERM) && x.opts.UndoImmutable {
		err = x.removeAll(l.dir, name)
		if err == nil {
			err = l.dir.Rename(temp, name)
		}
		if err != nil { // what had the name may be gone
			x.touched(l, name)
		}
	}
	return err
}

// removeAll is Dir.RemoveAll, also for what resists it by an attribute if the
// options say so.
func (x *extractor) removeAll(d *Dir, name string) error {
	err := d.RemoveAll(name)
	if x.opts.UndoImmutable && errors.Is(err, unix.EPERM) {
		if err := d.clearImmutableBelow(name); err != nil {
			return err
		}
		err = d.RemoveAll(name)
	}
	return err
}
