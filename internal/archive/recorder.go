package archive

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sort"

	"golang.org/x/sys/unix"

	"github.com/ociv2-sync/ociv2-sync/internal/tree"
)

// recording is the archive of a directory, to be read in any order without being
// kept: contents are read from the files again, all else is in a temporary file.
// It takes some 200 bytes of memory for each file.
type recording struct {
	root  *tree.Dir
	rest  *os.File // without a name: all records but the contents
	files []recorded
	size  uint64
	skips bool // Write is given no contents
	check bool // what is read of a file must be what it had when it was added
}

// recorded is a file whose contents are a part of the archive.
type recorded struct {
	tree.FileAt
	before uint64 // bytes of contents before it
	state  state
}

// end returns the offset after the contents.
func (f *recorded) end() uint64 { return f.Contents + f.Size }

func newRecording(dir, temp string) (_ *recording, err error) {
	r := &recording{}
	if r.root, err = tree.OpenDir(dir); err != nil {
		return nil, err
	}
	if r.rest, err = tempFile(temp); err != nil {
		return nil, errors.Join(err, r.root.Close())
	}
	return r, nil
}

// Close closes what the recording reads from.
func (r *recording) Close() error { return errors.Join(r.root.Close(), r.rest.Close()) }

// add is told of a file before its contents are written.
func (r *recording) add(f tree.FileAt, st *unix.Stat_t) {
	before := uint64(0)
	if n := len(r.files); n > 0 {
		before = r.files[n-1].before + r.files[n-1].Size
	}
	r.files = append(r.files, recorded{f, before, stateOf(st)})
}

// Write implements [io.Writer]: it is given the archive, and keeps what is not
// contents.
func (r *recording) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		n, f := r.span(r.size, uint64(len(rest)))
		if f != nil && r.skips {
			r.size = f.end()
			continue
		}
		if f == nil {
			if _, err := r.rest.Write(rest[:n]); err != nil {
				return 0, fmt.Errorf("archive: %w", err)
			}
		}
		r.size, rest = r.size+n, rest[n:]
	}
	return len(p), nil
}

// at returns the number of the first file whose contents end after an offset.
func (r *recording) at(off uint64) int {
	return sort.Search(len(r.files), func(i int) bool { return r.files[i].end() > off })
}

// span returns how many of the n bytes from an offset on are in one place, and
// the file if that is one.
func (r *recording) span(off, n uint64) (uint64, *recorded) {
	i := r.at(off)
	switch {
	case i == len(r.files):
		return n, nil
	case r.files[i].Contents > off:
		return min(n, r.files[i].Contents-off), nil
	}
	f := &r.files[i]
	return min(n, f.end()-off), f
}

// ReadAt implements [io.ReaderAt]. What it reads of files may have changed.
func (r *recording) ReadAt(p []byte, at int64) (int, error) {
	done := 0
	for done < len(p) {
		off := uint64(at) + uint64(done)
		if off >= r.size {
			return done, io.EOF
		}
		n, f := r.span(off, min(uint64(len(p)-done), r.size-off))
		part := p[done : done+int(n)]
		if err := r.read(part, off, f); err != nil {
			return done, err
		}
		done += int(n)
	}
	return done, nil
}

// read fills p from a file, or from the other records if it is nil.
func (r *recording) read(p []byte, off uint64, f *recorded) error {
	if f == nil {
		before := uint64(0)
		if i := r.at(off); i > 0 {
			before = r.files[i-1].before + r.files[i-1].Size
		}
		return full(r.rest.ReadAt(p, int64(off-before)))
	}
	file, err := r.root.OpenBelow(f.path())
	if err != nil {
		return err
	}
	err = full(file.ReadAt(p, int64(off-f.Contents)))
	if r.check {
		var st unix.Stat_t
		if e := unix.Fstat(int(file.Fd()), &st); e != nil || stateOf(&st) != f.state {
			err = errors.Join(err, e, fmt.Errorf("archive: %s: %w", file.Name(), tree.ErrChanged))
		}
	}
	return errors.Join(err, file.Close())
}

// state is what changes when a file's contents do.
type state struct {
	dev, ino           uint64
	size, mtime, ctime int64
}

func stateOf(st *unix.Stat_t) state {
	return state{uint64(st.Dev), st.Ino, st.Size, unix.TimespecToNsec(st.Mtim), unix.TimespecToNsec(st.Ctim)}
}

// full drops the error of a read that was complete; io.EOF may come with it.
func full(_ int, err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// path is that of the file below the root.
func (f *recorded) path() string {
	if f.Dir == "" {
		return f.Name
	}
	return f.Dir + "/" + f.Name
}
