package tree

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"runtime"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/ociv2-sync/ociv2-sync/catar"
)

// IDShift maps the owners of a tree that was made for a user namespace.
// Encoding takes Base off every id, extracting adds it; either takes the id
// modulo Range. Range 0 changes nothing.
type IDShift struct{ Base, Range uint32 }

// store maps an id of the disk to one of an archive. Ids below Base have none.
func (s IDShift) store(id uint32) (uint32, error) {
	if s.Range == 0 {
		return id, nil
	}
	if id < s.Base {
		return 0, fmt.Errorf("owner id %d is below the shift of %d: %w", id, s.Base, catar.ErrUnsupported)
	}
	return (id - s.Base) % s.Range, nil
}

// EncodeOptions say what of a tree goes into its archive.
type EncodeOptions struct {
	// Flags are the archive's features. The exclude bits among them say whether
	// .caexclude files, other mounts and the nodump attribute are honoured.
	Flags catar.Flags
	Shift IDShift
	// Contents, if set, is told of each regular file that is not empty, before
	// its contents are written, and what stat(2) said of it.
	Contents func(FileAt, *unix.Stat_t)
	// Skip leaves the contents out of what is written: Contents says where they
	// belong.
	Skip bool
}

// FileAt says where an archive has a file.
type FileAt struct {
	Dir, Name string // Dir is the path below the root, "" in the root itself
	Entry     uint64 // offset in the archive of the ENTRY record
	Contents  uint64 // offset of the contents
	Size      uint64 // of these, in bytes
}

// Encode writes the tree at dir as an archive, byte for byte what casync makes
// of it with the same features; docs/format/catar.md, section 5, has the
// exceptions. What the features do not cover is left out; what the format
// cannot hold at all is an error that matches catar.ErrUnsupported, and a file
// that changes meanwhile one that matches ErrChanged.
func Encode(ctx context.Context, dir string, opts EncodeOptions, w io.Writer) error {
	root, err := OpenDir(dir)
	if err != nil {
		return err
	}
	err = newEncoder(opts, w, runtime.GOMAXPROCS(0)).root(ctx, root)
	return errors.Join(err, root.Close())
}

type encoder struct {
	inspector
	w   *catar.Writer
	buf []byte

	ahead chan *ahead // that no directory uses now; nil has all read in its turn

	contents func(FileAt, *unix.Stat_t)
	skip     bool
	path     string // of the directory that is being encoded, below the root
}

// newEncoder returns an encoder that has this many goroutines read ahead, unless it
// is one.
func newEncoder(opts EncodeOptions, w io.Writer, jobs int) *encoder {
	e := &encoder{
		inspector: newInspector(opts), w: catar.NewWriter(w, opts.Flags),
		contents: opts.Contents, skip: opts.Skip, buf: make([]byte, 256<<10),
	}
	if jobs > 1 {
		e.ahead = make(chan *ahead, maxAhead)
		for range maxAhead {
			e.ahead <- newAhead(opts, min(jobs, maxCrew))
		}
	}
	return e
}

func (e *encoder) root(ctx context.Context, root *Dir) error {
	st, err := fstat(root.fd)
	if err != nil {
		return pathError("stat", root.path, err)
	}
	flags, err := e.devs.readFlags(root.fd, &st, e.flags)
	if err != nil {
		return pathError("read flags of", root.path, err)
	}
	if err := e.dir(ctx, root, &st, flags, "", 0, nil); err != nil {
		return err
	}
	return e.w.Close()
}

// dir encodes the directory d, which has these file flags, and all below it. rules
// are the exclude rules of the directories above that may match in it.
func (e *encoder) dir(ctx context.Context, d *Dir, st *unix.Stat_t, flags catar.Flags, name string, depth int, rules []rule) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	ent, err := e.entry(d.fd, st, flags)
	if err != nil {
		return pathError("read", d.path, err)
	}
	ent.Name, ent.Depth = name, depth
	if err := e.write(d.path, "", ent); err != nil {
		return err
	}
	if v, err := e.devs.virtual(d.fd, st); err != nil || v {
		return pathError("statfs", d.path, err)
	}
	if e.flags.Has(catar.ExcludeFile) {
		own, err := readExcludeFile(d)
		if err != nil {
			return err
		}
		rules = append(slices.Clip(rules), own...)
	}
	all, err := d.Names()
	if err != nil {
		return err
	}
	slices.Sort(all)
	return e.children(ctx, d, all, depth+1, rules)
}

// child encodes one node in d, unless it is left out.
func (e *encoder) child(ctx context.Context, d *Dir, name string, depth int, rules []rule) error {
	st, err := d.lstat(name)
	if err != nil {
		return err
	}
	isDir := st.Mode&unix.S_IFMT == unix.S_IFDIR
	excluded, below := match(rules, name, isDir)
	if excluded || !e.flags.Stores(st.Mode) {
		return nil
	}
	switch {
	case isDir:
		sub, err := d.OpenDir(name)
		if err != nil {
			return err
		}
		return errors.Join(e.subdir(ctx, d, sub, name, depth, below), sub.Close())
	case st.Mode&unix.S_IFMT == unix.S_IFREG:
		return e.file(ctx, d, name, depth)
	}
	fd, err := d.openat(name, unix.O_PATH, 0)
	if err != nil {
		return err
	}
	return errors.Join(e.special(d, fd, name, depth), unix.Close(fd))
}

func (e *encoder) subdir(ctx context.Context, d, sub *Dir, name string, depth int, rules []rule) error {
	st, err := fstat(sub.fd)
	if err != nil {
		return pathError("stat", sub.path, err)
	}
	flags, skip, err := e.fileFlags(d, sub.fd, &st)
	if err != nil || skip {
		return pathError("read flags of", sub.path, err)
	}
	outer := e.path
	e.path = path.Join(outer, name)
	defer func() { e.path = outer }()
	return e.dir(ctx, sub, &st, flags, name, depth, rules)
}

func (e *encoder) file(ctx context.Context, d *Dir, name string, depth int) error {
	fd, st, err := d.open(name)
	if err != nil {
		return err
	}
	c := newContents(ctx, d, name, fd, &st)
	err = e.open(d, c, &st, depth)
	return errors.Join(err, c.Close())
}

// open encodes the open file c in d.
func (e *encoder) open(d *Dir, c *contents, st *unix.Stat_t, depth int) error {
	flags, skip, err := e.fileFlags(d, c.fd, st)
	if err != nil || skip {
		return d.error("read flags of", c.name, err)
	}
	ent, err := e.entry(c.fd, st, flags)
	if err != nil {
		return d.error("read", c.name, err)
	}
	ent.Name, ent.Depth = c.name, depth
	return e.regular(d, ent, st, func() error {
		c.left = int64(ent.Size)
		_, err := io.CopyBuffer(struct{ io.Writer }{e.w}, c, e.buf)
		return err
	})
}

// regular writes a regular file in d, the contents by copy.
func (e *encoder) regular(d *Dir, ent *catar.Entry, st *unix.Stat_t, copy func() error) error {
	if err := e.write(d.path, ent.Name, ent); err != nil || ent.Size == 0 {
		return err
	}
	if e.contents != nil {
		e.contents(FileAt{Dir: e.path, Name: ent.Name, Entry: e.w.EntryOffset(), Contents: e.w.Offset(), Size: ent.Size}, st)
	}
	if e.skip {
		return e.w.Skip(ent.Size)
	}
	return copy()
}

// special encodes a node that has neither contents nor children. fd is open
// with O_PATH.
func (e *encoder) special(d *Dir, fd int, name string, depth int) error {
	st, err := fstat(fd)
	if err != nil {
		return d.error("stat", name, err)
	}
	if skip, err := e.otherMount(d, fd); err != nil || skip {
		return d.error("statx", name, err)
	}
	ent, err := e.entry(fd, &st, 0)
	if err != nil {
		return d.error("read", name, err)
	}
	ent.Name, ent.Depth = name, depth
	switch ent.Mode & catar.ModeType {
	case catar.ModeSymlink:
		if ent.Target, err = readlink(fd); err != nil {
			return d.error("readlink", name, err)
		}
	case catar.ModeBlock, catar.ModeChar:
		ent.Major, ent.Minor = unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev))
	}
	return e.write(d.path, name, ent)
}

func (e *encoder) write(dir, name string, ent *catar.Entry) error {
	if err := e.w.WriteEntry(ent); err != nil {
		return fmt.Errorf("tree: %s: %w", path.Join(dir, name), err)
	}
	return nil
}
