package tree

import (
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// CloneOrCopy makes the contents of dst those of src: sharing the blocks where
// the filesystem can, else copying size bytes. It reports whether blocks are
// shared. dst must be empty, and src at its start. That src is not size bytes
// long is ErrChanged.
//
// Nothing is verified: a caller that does not trust src hashes dst afterwards,
// whose bytes no writer of src can change any more.
func CloneOrCopy(dst, src *os.File, size int64) (cloned bool, err error) {
	err = retry(func() error { return unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())) })
	if err == nil {
		st, err := fstat(int(dst.Fd()))
		if err == nil && st.Size != size {
			err = ErrChanged
		}
		return true, pathError("clone", src.Name(), err)
	}
	if !notCloneable(err) {
		return false, pathError("clone", src.Name(), err)
	}
	// io.Copy makes the kernel copy where it can.
	n, err := io.Copy(dst, &io.LimitedReader{R: src, N: size + 1})
	if err == nil && n != size {
		err = ErrChanged
	}
	if err != nil {
		return false, pathError("copy", src.Name(), err)
	}
	return false, nil
}

// notCloneable reports whether an error says that these two files cannot share
// blocks, which copying them may still do.
func notCloneable(err error) bool {
	for _, e := range []error{unix.EOPNOTSUPP, unix.EXDEV, unix.EINVAL, unix.ENOTTY, unix.ENOSYS, unix.EPERM, unix.ETXTBSY} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
