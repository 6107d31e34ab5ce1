package archive

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// link is a part of the output that a seed has too.
type link struct {
	seed           *os.File
	from, to, size int64
}

// shareBlock is the alignment and the smallest size of what is shared.
const shareBlock = 4096

// maxShare is the most that one call shares: more is cut by the kernel.
const maxShare = 16 << 20

// share makes the output use the blocks of the seeds where both have the same
// bytes at the same alignment. The kernel compares them before it does, so
// whatever becomes of a seed meanwhile, the output keeps its bytes. What cannot
// be shared stays a copy.
func (w *blobWriter) share() error {
	for i := 0; i < len(w.links); {
		// Chunks that follow each other in both are one part.
		l := w.links[i]
		for i++; i < len(w.links); i++ {
			n := w.links[i]
			if n.seed != l.seed || n.from != l.from+l.size || n.to != l.to+l.size {
				break
			}
			l.size += n.size
		}
		if l.share(w.ctx, w.out) != nil {
			return w.ctx.Err() // or not this filesystem: then they are copies
		}
	}
	return nil
}

// share makes a file use the blocks of the seed for a part that both have, where
// that lies alike. An error says that they cannot.
func (l link) share(ctx context.Context, out *os.File) error {
	if (l.from-l.to)%shareBlock != 0 {
		return nil
	}
	skip := (shareBlock - l.from%shareBlock) % shareBlock
	end := (l.from + l.size) / shareBlock * shareBlock
	for from := l.from + skip; from < end; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := min(end-from, maxShare)
		r := unix.FileDedupeRange{
			Src_offset: uint64(from), Src_length: uint64(n),
			Info: []unix.FileDedupeRangeInfo{{Dest_fd: int64(out.Fd()), Dest_offset: uint64(from - l.from + l.to)}},
		}
		if err := unix.IoctlFileDedupeRange(int(l.seed.Fd()), &r); err != nil {
			return fmt.Errorf("archive: share blocks: %w", err)
		}
		from += n
	}
	return nil
}
