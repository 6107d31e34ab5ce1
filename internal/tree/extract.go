package tree

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/ociv2-sync/ociv2-sync/catar"
)

// ExtractOptions say how an archive becomes files.
type ExtractOptions struct {
	// Flags are the features that are restored as far as the archive has them;
	// of those that contain each other, such as the kinds of times, any one
	// stands for all.
	Flags catar.Flags
	Shift IDShift
	// Umask is taken off the permissions of archives that have none.
	Umask uint32
	// KeepOthers leaves what the destination has and the archive has not.
	KeepOthers bool
	// PunchHoles leaves out whole blocks of zeros when it writes files.
	PunchHoles bool
	// Below extracts what is below the root, and leaves the destination itself
	// and what else it has as they are.
	Below bool
	// New says that the destination is a new, empty directory that nobody looks
	// into before Extract returns: files need no temporary names in it.
	New bool
	// UndoImmutable takes the immutable and append-only attributes from what
	// has to be replaced or removed.
	UndoImmutable bool

	// Changed, if set, is told of each path below dest that was there, or missing,
	// and is not what it was: those that a PartialError has.
	Changed func(path string)
	// Filled, if set, is called with each regular file that was written when it
	// has its contents and nothing else yet, open for reading and writing.
	Filled func(f *os.File, e *catar.Entry) error
	// Twin, if set, may name a file that is to be had in place of one that was
	// written, as another name of it: in a directory, which the extraction
	// closes. nil keeps the file as it is. What cannot be linked stays a file.
	Twin func(e *catar.Entry, f *os.File) (dir *Dir, name string, err error)
}

// Extract makes the directory dest what the archive says it is. A file appears
// under its name when it is complete, in place of whatever had the name; no
// symbolic link in dest is followed. A file that is there and has the same bytes
// stays, and gets the archive's metadata; one that has other names stays if it has all
// of these already, as nothing is done to another name. An error leaves what was extracted so
// far; if that changed anything that was there, it is a *PartialError. What the system did not let us
// restore is returned beside it.
func Extract(ctx context.Context, r *catar.Reader, dest *Dir, opts ExtractOptions) ([]Unrestored, error) {
	x := &extractor{r: r, opts: opts, ids: newIDs(), devs: devices{}, buf: make([]byte, 256<<10)}
	within, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	x.crew.x = x
	wait := x.crew.start(within, cancel)
	err := x.run(within, dest)
	if err == nil {
		err = x.leave(1)
	}
	if err != nil {
		cancel(err)
		x.abandon()
	}
	wait()
	if first := context.Cause(within); first != nil {
		err = first
	}
	if err == nil {
		err = x.leave(0) // nothing is made in it any more
	}
	slices.SortStableFunc(x.notes, func(a, b Unrestored) int { return strings.Compare(a.Path, b.Path) })
	x.notes = slices.CompactFunc(x.notes, func(a, b Unrestored) bool { return a.Path == b.Path && a.What == b.What })
	if err != nil && len(x.changed) > 0 {
		err = &PartialError{Changed: x.changed, Err: err}
	}
	return x.notes, err
}

// abandon closes the open directories after a failure, but for the root, which is
// the caller's.
func (x *extractor) abandon() {
	for _, l := range x.open[min(1, len(x.open)):] {
		l.filling.done = l.dir.Close
		_ = l.filling.end() // there is an error already
	}
	x.open = x.open[:min(1, len(x.open))]
}

// level is a directory that is being filled.
type level struct {
	dir     *Dir
	entry   *catar.Entry
	names   []string // of its entries so far, in order
	made    bool     // by us, so that nothing else is in it
	was     *State   // of one that we did not make, if it could be read
	filling *filling
	bare    bool // it has no default ACL that what is made in it would inherit
}

type extractor struct {
	r     *catar.Reader
	opts  ExtractOptions
	flags catar.Flags // what both the archive has and the options ask for
	ids   *ids
	devs  devices
	open  []level
	buf   []byte
	crew  crew

	mu    sync.Mutex
	notes []Unrestored

	changed []string // of what was there before
}

func (x *extractor) run(ctx context.Context, dest *Dir) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		e, err := x.r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if e.Depth == 0 {
			x.flags = replayed(x.r.Flags(), x.opts.Flags)
			top := level{dir: dest, entry: e, made: x.opts.New, bare: !dest.Inherits(), filling: newFilling(dest)}
			top.was, _ = dest.Self() // at worst it counts as changed
			x.open = append(x.open, top)
			continue
		}
		if err := x.leave(e.Depth); err != nil {
			return err
		}
		if err := x.node(ctx, e); err != nil {
			return err
		}
	}
}

// leave completes the open directories down to a depth.
func (x *extractor) leave(depth int) error {
	for len(x.open) > depth {
		l := x.open[len(x.open)-1]
		kept := len(x.open) == 1 && x.opts.Below
		if !x.opts.KeepOthers && !kept && !l.made {
			if err := x.removeOthers(l); err != nil {
				return err
			}
		}
		var err error
		var m Meta
		if !kept {
			m = x.meta(l.entry)
			m.NoXAttrs = l.made && l.bare && len(x.open) > 1
		}
		switch {
		case len(x.open) > 1 && l.made:
			l.filling.done = func() error {
				notes, err := l.dir.SetSelf(m)
				return errors.Join(x.noted(notes, err), l.dir.Close())
			}
			err = l.filling.end()
		case len(x.open) > 1: // the root is the caller's
			err = errors.Join(x.describe(l, m), l.dir.Close())
		case !kept:
			err = x.describe(l, m)
		}
		x.open = x.open[:len(x.open)-1]
		if err != nil {
			return err
		}
	}
	return nil
}

func (x *extractor) removeOthers(l level) error {
	have, err := l.dir.Names()
	if err != nil {
		return err
	}
	for _, n := range have {
		if _, ok := slices.BinarySearch(l.names, n); ok {
			continue
		}
		err := x.removeAll(l.dir, n)
		x.touched(&l, n) // if it failed, a part of it may be gone
		if err != nil {
			return err
		}
	}
	return nil
}

// node makes one node in the innermost open directory.
func (x *extractor) node(ctx context.Context, e *catar.Entry) error {
	l := &x.open[len(x.open)-1]
	l.names = append(l.names, e.Name)
	if !x.flags.Stores(e.Mode) {
		return nil // left out by the options
	}
	if e.IsDir() {
		sub := level{entry: e, bare: l.bare}
		var err error
		if sub.dir, sub.made, err = x.mkdir(l, e); err != nil {
			return err
		}
		if !sub.made {
			sub.bare = !sub.dir.Inherits()
			sub.was, _ = sub.dir.Self() // at worst it counts as changed
		}
		sub.filling = newFilling(sub.dir)
		x.open = append(x.open, sub)
		return nil
	}
	if x.crew.takes(e) {
		m := x.meta(e)
		m.NoXAttrs = l.bare
		return x.crew.write(l, e, m)
	}
	if x.opts.New {
		made, err := x.make(ctx, l, e.Name, e, x.r)
		if err != nil || !made {
			return err
		}
		return x.seal(l.dir, e)
	}
	if l.made {
		return x.replaced(ctx, l, e, x.r)
	}
	if !e.IsRegular() {
		if same, err := x.stays(l, e); err != nil || same {
			return err
		}
		return x.replaced(ctx, l, e, nil)
	}
	h := x.candidate(l, e)
	if h == nil {
		return x.replaced(ctx, l, e, x.r)
	}
	defer h.f.Close()
	contents, err := x.inPlace(ctx, l, e, h)
	if err != nil || contents == nil {
		return err
	}
	return x.replaced(ctx, l, e, contents)
}

// mkdir opens the directory, which may be there already, and reports whether it
// made it.
func (x *extractor) mkdir(l *level, e *catar.Entry) (*Dir, bool, error) {
	parent := l.dir
	if !l.made {
		d, err := parent.OpenDir(e.Name)
		if err == nil {
			if x.opts.UndoImmutable {
				clearImmutable(d.fd)
			}
			return d, false, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			if !errors.Is(err, unix.ENOTDIR) && !errors.Is(err, unix.ELOOP) {
				return nil, false, err
			}
			if err := x.removeAll(parent, e.Name); err != nil {
				return nil, false, err
			}
		}
		x.touched(l, e.Name) // at the latest by what comes next
	}
	if x.flags.Has(catar.WithSubvolume) && e.FileFlags.Has(catar.WithSubvolume) {
		err := parent.makeSubvolume(e.Name)
		if err == nil {
			d, err := parent.OpenDir(e.Name)
			return d, true, err
		}
		if !MayLack(err) {
			return nil, false, err
		}
		x.note(parent, e.Name, "subvolume", err)
	}
	d, err := parent.Mkdir(e.Name)
	return d, true, err
}

// make makes a node with all its metadata under a name, which may be a temporary
// one. It returns false if the system does not let us.
func (x *extractor) make(ctx context.Context, l *level, temp string, e *catar.Entry, contents io.Reader) (bool, error) {
	d := l.dir
	m := x.meta(e)
	m.NoXAttrs = l.bare
	var err error
	switch e.Mode & catar.ModeType {
	case catar.ModeRegular:
		return true, x.file(ctx, d, temp, e, m, contents)
	case catar.ModeSymlink:
		err = d.Symlink(e.Target, temp)
	default:
		err = d.Mknod(temp, e.Mode, e.Major, e.Minor)
	}
	if err != nil && MayLack(err) {
		x.note(d, e.Name, "node", err)
		return false, nil
	}
	if err != nil {
		return false, err
	}
	notes, err := d.SetMeta(temp, m)
	return true, x.noted(renamed(notes, d, e), err)
}

func (x *extractor) file(ctx context.Context, d *Dir, temp string, e *catar.Entry, m Meta, contents io.Reader) error {
	f, err := d.Create(temp)
	if err != nil {
		return err
	}
	m.FileFlags &^= sealed
	// Copying on write can only be turned off while a file is empty.
	early := &setter{fd: int(f.Fd()), path: f.Name()}
	early.setBits(Meta{FileFlags: m.FileFlags, FlagsMask: m.FlagsMask & m.FileFlags & catar.WithFlagNoCow}, chattrs(),
		unix.FS_IOC_GETFLAGS, unix.FS_IOC_SETFLAGS)
	if err := x.contents(ctx, f, e, contents); err != nil {
		return errors.Join(err, f.Close())
	}
	if x.opts.Filled != nil {
		if err := x.opts.Filled(f, e); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	notes, err := SetFileMeta(f, m)
	if err == nil && x.opts.Twin != nil {
		err = x.twin(d, temp, e, f)
	}
	return errors.Join(x.noted(renamed(notes, d, e), err), f.Close())
}

func (x *extractor) contents(ctx context.Context, f *os.File, e *catar.Entry, r io.Reader) error {
	if e.Size == 0 {
		return nil
	}
	w := io.Writer(f)
	var sparse *SparseWriter
	if x.opts.PunchHoles {
		sparse = NewSparseWriter(f)
		w = sparse
	}
	if _, err := io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{ctxReader{ctx.Err, r}}, x.buf); err != nil {
		return err
	}
	if sparse != nil {
		return sparse.End()
	}
	return nil
}

func (x *extractor) note(d *Dir, name, what string, err error) {
	_ = x.noted([]Unrestored{{Path: path.Join(d.path, name), What: what, Err: err}}, nil)
}

// noted keeps notes, and returns err.
func (x *extractor) noted(notes []Unrestored, err error) error {
	if len(notes) == 0 {
		return err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.notes = append(x.notes, notes...)
	return err
}

// renamed gives notes the name that the node will have.
func renamed(notes []Unrestored, d *Dir, e *catar.Entry) []Unrestored {
	for i := range notes {
		notes[i].Path = path.Join(d.path, e.Name)
	}
	return notes
}

// ctxReader ends a long copy when the context ends.
type ctxReader struct {
	err func() error
	r   io.Reader
}

func (r ctxReader) Read(p []byte) (int, error) {
	if err := r.err(); err != nil {
		return 0, fmt.Errorf("tree: extract: %w", err)
	}
	return r.r.Read(p)
}
