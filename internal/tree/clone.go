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
// the blocks where the filesystem can, else copying size bytes from the start.
// That src is shorter is ErrChanged.
//
// Nothing is verified: a caller that does not trust src hashes dst afterwards,
// which whoever writes to src can no longer change.
func CloneOrCopy(ctx context.Context, dst, src *os.File, size int64) error {
	if size == 0 || Clone(dst, src) == nil {
		return nil
	}
	var from, to int64
	for to < size {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := 0
		err := retry(func() (err error) {
			n, err = unix.CopyFileRange(int(src.Fd()), &from, int(dst.Fd()), &to, int(min(copyStep, size-to)), 0)
			return err
		})
		switch {
		case notCopyable(err):
			return copyBytes(ctx, dst, src, to, size)
		case err != nil:
			return pathError("copy", src.Name(), err)
		case n == 0:
			return pathError("copy", src.Name(), ErrChanged)
		}
	}
	return nil
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

// copyBytes copies the bytes from offset at to size.
func copyBytes(ctx context.Context, dst, src *os.File, at, size int64) error {
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
