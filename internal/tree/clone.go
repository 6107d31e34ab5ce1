package tree

import (
	"context"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Clone makes the empty file dst share the extents of all of src, on
// filesystems that can (xfs, btrfs). On the others it fails and dst stays
// empty.
func Clone(dst, src *os.File) error {
	if err := retry(func() error { return unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())) }); err != nil {
		return pathError("clone", dst.Name(), err)
	}
	return nil
}

// copyStep is how much is copied between two looks at the context.
const copyStep = 64 << 20

// CloneOrCopy fills the empty file dst with the first size bytes of src, which
// is a file of that size: by cloning where the filesystem can, else by copying,
// which the kernel does without passing the bytes through the process.
func CloneOrCopy(ctx context.Context, dst, src *os.File, size int64) error {
	if Clone(dst, src) == nil {
		return nil
	}
	if _, err := src.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("tree: %w", err)
	}
	for done := int64(0); done < size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := io.CopyN(dst, src, min(size-done, copyStep))
		if err != nil {
			return fmt.Errorf("tree: copy %s: %w", src.Name(), err)
		}
		done += n
	}
	return nil
}
