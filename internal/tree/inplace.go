package tree

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"os"
	"path"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/ociv2-sync/ociv2-sync/catar"
	"github.com/ociv2-sync/ociv2-sync/toc"
)

// PartialError says that an extraction failed after it had changed something that
// was there before.
type PartialError struct {
	// Changed are the paths, below the destination, of what was made, replaced,
	// removed or given other metadata, in that order. Of a new directory
	// its own path stands for all in it; "." is the destination. Of a blob it is
	// the path of the output itself.
	Changed []string
	Err     error
}

func (e *PartialError) Error() string {
	return fmt.Sprintf("%v (changed before: %d)", e.Err, len(e.Changed))
}

// Unwrap returns what went wrong.
func (e *PartialError) Unwrap() error { return e.Err }

// below returns the path below the destination of a name in an open directory.
func (x *extractor) below(depth int, name string) string {
	p := ""
	for _, l := range x.open[1:depth] {
		p = path.Join(p, l.entry.Name)
	}
	return path.Join(p, name)
}

// touched remembers that a name in the innermost open directory is not what it
// was. In a directory that we made that goes without saying.
func (x *extractor) touched(l *level, name string) {
	if !l.made {
		x.change(x.below(len(x.open), name))
	}
}

func (x *extractor) change(path string) {
	x.changed = append(x.changed, path)
	if x.opts.Changed != nil {
		x.opts.Changed(path)
	}
}

// describe sets the metadata of an open directory that is complete. It has changed if they
// are not those that it had when it was opened, whatever the time was meanwhile.
func (x *extractor) describe(l level, m Meta) error {
	notes, err := l.dir.SetSelf(m)
	if !l.made {
		if after, e := l.dir.Self(); e != nil || !l.was.sameMeta(after) {
			name := x.below(len(x.open), "")
			if name == "" {
				name = "."
			}
			x.change(name)
		}
	}
	return x.noted(notes, err)
}

// sameMeta reports whether a node had the same metadata at two moments; false if one of
// them is not known.
func (s *State) sameMeta(o *State) bool {
	return s != nil && o != nil && s.st.Mode == o.st.Mode && s.st.Uid == o.st.Uid && s.st.Gid == o.st.Gid && s.st.Mtim == o.st.Mtim &&
		slices.EqualFunc(s.xattrs, o.xattrs, func(a, b toc.XAttr) bool { return a.Name == b.Name && bytes.Equal(a.Value, b.Value) })
}

// had is a file that the destination has under the name of one of the archive,
// and that agrees with it in its first bytes.
type had struct {
	f      *os.File
	n      int64        // bytes that agree
	sum    maphash.Hash // of these
	linked bool         // it has other names, and the metadata that it is to have
}

// candidate opens the file that the destination has in place of e, if it may be
// the same: of its size and, where the archive has times, its time. One that could not
// be changed is none, nor one with other names that would have to be: these may be
// names in another tree.
func (x *extractor) candidate(l *level, e *catar.Entry) *had {
	if e.FileFlags.Has(catar.WithFlagNoCow) {
		return nil
	}
	st, err := l.dir.lstat(e.Name)
	if err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size != int64(e.Size) {
		return nil
	}
	if x.flags&timeFlags != 0 && uint64(unix.TimespecToNsec(st.Mtim)) != e.MTime {
		return nil
	}
	f, err := l.dir.Open(e.Name)
	if err != nil {
		return nil
	}
	h := &had{f: f}
	if st, err = fstat(int(f.Fd())); err == nil {
		var flags catar.Flags
		h.linked = st.Nlink > 1
		if flags, err = x.devs.readFlags(int(f.Fd()), &st, sealed); err == nil && flags == 0 && (!h.linked || x.described(int(f.Fd()), e)) {
			return h
		}
	}
	f.Close()
	return nil
}

// described reports whether an open file has all the metadata that e gives it.
func (x *extractor) described(fd int, e *catar.Entry) bool {
	m := x.meta(e)
	s, err := stateOf(fd)
	if err != nil || !s.Has(m) {
		return false
	}
	if flags, err := x.devs.readFlags(fd, &s.st, m.FlagsMask); err != nil || flags != m.FileFlags&m.FlagsMask {
		return false
	}
	if m.ProjID == 0 {
		return true
	}
	id, err := readProjID(fd)
	return err == nil && id == m.ProjID
}

// inPlace leaves the file where it is if its bytes are those of the archive, and
// gives it the archive's metadata. If not, it returns a reader of all contents.
func (x *extractor) inPlace(ctx context.Context, l *level, e *catar.Entry, h *had) (io.Reader, error) {
	old := make([]byte, len(x.buf))
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		n, err := io.ReadFull(x.r, x.buf[:min(int64(len(x.buf)), int64(e.Size)-h.n)])
		if n == 0 && (err == nil || errors.Is(err, io.EOF)) {
			break // all of it agrees
		}
		if err != nil {
			return nil, err
		}
		if k, _ := h.f.ReadAt(old[:n], h.n); k < n || !bytes.Equal(old[:n], x.buf[:n]) {
			rest := bytes.Clone(x.buf[:n])
			return io.MultiReader(&prefix{h: h, left: h.n}, bytes.NewReader(rest), x.r), nil
		}
		h.sum.Write(old[:n])
		h.n += int64(n)
	}
	if h.linked {
		return nil, nil
	}
	m := x.meta(e)
	m.FileFlags &^= sealed
	before, _ := stateOf(int(h.f.Fd())) // at worst it counts as changed
	notes, err := SetFileMeta(h.f, m)
	if err := x.noted(notes, err); err != nil {
		return nil, err
	}
	if after, err := stateOf(int(h.f.Fd())); err != nil || !before.sameMeta(after) {
		x.touched(l, e.Name)
	}
	return nil, x.seal(l.dir, e)
}

// stays reports whether the destination has what e is already, which is no regular
// file or directory, and then gives it the archive's metadata.
func (x *extractor) stays(l *level, e *catar.Entry) (bool, error) {
	before, err := l.dir.lstat(e.Name)
	if err != nil || (before.Mode^e.Mode)&unix.S_IFMT != 0 {
		return false, nil //nolint:nilerr // it is made anew, which says what is wrong
	}
	switch e.Mode & catar.ModeType {
	case catar.ModeSymlink:
		fd, err := l.dir.openat(e.Name, unix.O_PATH, 0)
		if err != nil {
			return false, nil //nolint:nilerr // as before
		}
		target, err := readlink(fd)
		unix.Close(fd)
		if err != nil || target != e.Target {
			return false, nil //nolint:nilerr // as before
		}
	case catar.ModeBlock, catar.ModeChar:
		if before.Rdev != unix.Mkdev(e.Major, e.Minor) {
			return false, nil
		}
	}
	m := x.meta(e)
	was, err := l.dir.State(e.Name)
	if before.Nlink > 1 { // what would change another name, which may be in another tree, is made anew
		return err == nil && was.Has(m), nil
	}
	notes, err := l.dir.SetMeta(e.Name, m) // without was it counts as changed
	if after, err := l.dir.State(e.Name); err != nil || !was.sameMeta(after) {
		x.touched(l, e.Name)
	}
	return true, x.noted(notes, err)
}

// prefix reads again the bytes that agreed, and fails if they changed meanwhile.
type prefix struct {
	h    *had
	at   int64
	left int64
	sum  maphash.Hash
}

// Read implements [io.Reader].
func (p *prefix) Read(b []byte) (int, error) {
	if p.left == 0 {
		return 0, io.EOF
	}
	if p.at == 0 {
		p.sum.SetSeed(p.h.sum.Seed())
	}
	n, err := p.h.f.ReadAt(b[:min(int64(len(b)), p.left)], p.at)
	p.sum.Write(b[:n])
	p.at, p.left = p.at+int64(n), p.left-int64(n)
	switch {
	case n == 0:
		return 0, pathError("read", p.h.f.Name(), errors.Join(ErrChanged, err))
	case p.left == 0 && p.sum.Sum64() != p.h.sum.Sum64():
		return 0, pathError("read", p.h.f.Name(), ErrChanged)
	}
	return n, nil
}
