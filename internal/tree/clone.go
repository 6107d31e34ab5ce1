package tree

import (
	"context"
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Clone makes the contents of dst those of src by sharing all blocks. That the
// filesystem cannot is an error; dst is unchanged then.
func Clone(dst, src *os.File) error {
	err := retry(func() error { return unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())) })
	return pathError("clone", src.Name(), err)
}

// copyStep is how much is copied between two looks at the context, in bytes.
const copyStep = 8 << 20

// CloneOrCopy makes the contents of dst, which is empty, those of src: sharing
// the blocks where the filesystem can, else as Copy does.
//
// Nothing is verified: a caller that does not trust src hashes dst afterwards,
// which whoever writes to src can no longer change.
func CloneOrCopy(ctx context.Context, dst, src *os.File, size int64) error {
	if size == 0 || Clone(dst, src) == nil {
		return nil
	}
	return Copy(ctx, dst, src, 0, size, false)
}

// Copy copies the bytes of src from one offset to another to the same place of dst,
// which has nothing there: in the kernel where that can, and as it likes, which may be by
// sharing blocks, or with plain byte for byte. Holes of src become holes of dst,
// which is at least to bytes long then. That src is shorter is ErrChanged.
func Copy(ctx context.Context, dst, src *os.File, from, to int64, plain bool) error {
	move := copyBytes
	if plain {
		move = pump
	}
	for at := from; at < to; {
		data, end := extent(src, at, to)
		if err := move(ctx, dst, src, data, end); err != nil {
			return err
		}
		at = end
	}
	// A hole at the end has given dst no length, nor tells it whether src has one.
	st, err := fstat(int(src.Fd()))
	if err == nil && st.Size < to {
		err = ErrChanged
	}
	if err != nil {
		return pathError("copy", src.Name(), err)
	}
	if st, err = fstat(int(dst.Fd())); err == nil && st.Size < to {
		err = retry(func() error { return unix.Ftruncate(int(dst.Fd()), to) })
	}
	return pathError("write", dst.Name(), err)
}

// extent returns the first piece at or after an offset that is no hole, up to limit. A
// filesystem that does not tell has none.
func extent(f *os.File, at, limit int64) (data, end int64) {
	data, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) { // a hole to the end, or the end
		return limit, limit
	}
	if err != nil || data < at {
		return at, limit
	}
	end, err = unix.Seek(int(f.Fd()), data, unix.SEEK_HOLE)
	if err != nil || end <= data {
		end = limit
	}
	return min(data, limit), min(end, limit)
}

// copyBytes copies the bytes from one offset to another.
func copyBytes(ctx context.Context, dst, src *os.File, from, end int64) error {
	to := from
	for to < end {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := 0
		err := retry(func() (err error) {
			n, err = unix.CopyFileRange(int(src.Fd()), &from, int(dst.Fd()), &to, int(min(copyStep, end-to)), 0)
			return err
		})
		switch {
		case notCopyable(err):
			return pump(ctx, dst, src, to, end)
		case err != nil:
			return pathError("copy", src.Name(), err)
		case n == 0:
			return pathError("copy", src.Name(), ErrChanged)
		}
	}
	return nil
}

// CanClone reports whether files on the filesystem of a directory can share blocks, as far
// as can be told by trying it on files without a name: without those, or the right to
// make them, it says no.
func CanClone(dir string) bool {
	var files [2]*os.File
	for i := range files {
		fd, err := openat(unix.AT_FDCWD, dir, unix.O_TMPFILE|unix.O_RDWR, 0o600)
		if err != nil {
			return false
		}
		files[i] = os.NewFile(uintptr(fd), dir)
		defer files[i].Close()
	}
	if _, err := files[0].Write(make([]byte, holeSize)); err != nil {
		return false
	}
	return Clone(files[1], files[0]) == nil
}

// notCopyable reports whether an error says that the kernel does not copy
// between these two files, which reading and writing may still do.
func notCopyable(err error) bool {
	for _, e := range []error{unix.EOPNOTSUPP, unix.EXDEV, unix.EINVAL, unix.ENOSYS, unix.EPERM} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// pump copies the bytes from offset at to size through our memory.
func pump(ctx context.Context, dst, src *os.File, at, size int64) error {
	buf := make([]byte, 256<<10)
	for at < size {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := src.ReadAt(buf[:min(int64(len(buf)), size-at)], at)
		if _, err := dst.WriteAt(buf[:n], at); err != nil {
			return pathError("write", dst.Name(), err)
		}
		at += int64(n)
		if at < size && errors.Is(err, io.EOF) {
			err = ErrChanged
		}
		if at < size && err != nil {
			return pathError("copy", src.Name(), err)
		}
	}
	return nil
}
