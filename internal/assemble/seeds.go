package assemble

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/ociv2-sync/ociv2-sync/internal/tree"
	"github.com/ociv2-sync/ociv2-sync/seed"
)

// copyBuffer is the size of the buffer that each copying goroutine has.
const copyBuffer = 256 << 10

// errSeed marks a failure of a seed, as against one of the destination: it
// costs a fetch, not the run.
var errSeed = errors.New("seed")

// copySeeds writes the contents that seeds have and returns those that they
// had no more.
func (b *builder) copySeeds(ctx context.Context) ([]int32, error) {
	var mu sync.Mutex
	var lost []int32
	g, ctx := errgroup.WithContext(ctx)
	work := make(chan []int32)
	g.Go(func() error {
		defer close(work)
		for _, group := range b.bySeed() {
			select {
			case work <- group:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	for range b.opts.Copies {
		g.Go(func() error {
			at := b.cursor()
			defer at.close()
			buf := make([]byte, copyBuffer)
			for group := range work {
				for _, i := range group {
					err := b.copySeed(ctx, at, i, buf)
					if errors.Is(err, errSeed) && ctx.Err() == nil {
						c := &b.job.Plan.Contents[i]
						b.missed(ctx, "seed has changed, fetching instead", int(c.Seed), c.Path, err)
						mu.Lock()
						lost = append(lost, i)
						mu.Unlock()
						continue
					}
					if err != nil {
						return err
					}
				}
			}
			return nil
		})
	}
	// Not in the return statement: lost is complete only after Wait.
	err := g.Wait()
	return lost, err
}

// copySeed makes the files of a content that a seed has: from objects, and what is not among
// these from the seed. An error that matches errSeed leaves no file behind.
func (b *builder) copySeed(ctx context.Context, at *cursor, i int32, buf []byte) error {
	c := &b.job.Plan.Contents[i]
	to, err := b.link(ctx, at, c)
	if err != nil || len(to) == 0 {
		return err
	}
	if err := b.copyTo(ctx, at, c, to, buf); err != nil {
		if errors.Is(err, errSeed) {
			if err := b.unlink(at, c, to); err != nil {
				return err
			}
		}
		return err
	}
	b.copied.Add(1)
	b.copiedBytes.Add(c.Size)
	return nil
}

// copyTo writes one content from its seed to files.
func (b *builder) copyTo(ctx context.Context, at *cursor, c *seed.Content, to []place, buf []byte) error {
	src, err := b.job.Plan.Seeds[c.Seed].Open(ctx, c.Path)
	if err != nil {
		return fmt.Errorf("%w: %w", errSeed, err)
	}
	defer src.Close()
	f, err := at.create(to[0].node)
	if err != nil {
		return err
	}
	if err := b.pour(ctx, f, src, c, buf); err != nil {
		f.Close()
		if !errors.Is(err, errSeed) {
			return b.at(to[0].node, err)
		}
		if rerr := at.remove(to[0].node); rerr != nil {
			return rerr
		}
		return err
	}
	return b.complete(ctx, at, c, to, f)
}

// pour fills f with the content from src and verifies it. A file is cloned, where the
// filesystem can share blocks, or copied in the kernel; then f is read, so that what was
// hashed is what stays.
func (b *builder) pour(ctx context.Context, f *os.File, src io.Reader, c *seed.Content, buf []byte) error {
	h := sha256.New()
	var err error
	if file, ok := src.(*os.File); ok {
		err = b.copyFile(ctx, f, file, c.Size, h, buf)
	} else {
		err = stream(ctx, f, src, c.Size, h, buf)
	}
	if err == nil && seed.Digest(h.Sum(nil)) != *c.Digest {
		err = fmt.Errorf("%w: %w", errSeed, errBytes)
	}
	return err
}

// hashStep is how much of a large file is copied before it is read again, in bytes: as long
// as it is in memory.
const hashStep = 4 << 20

// copyFile makes the contents of f those of src and hashes them.
func (b *builder) copyFile(ctx context.Context, f, src *os.File, size int64, h hash.Hash, buf []byte) error {
	if fi, err := src.Stat(); err != nil || fi.Size() != size {
		return fmt.Errorf("%w: %w", errSeed, cmp.Or(err, errSize))
	}
	cloned := !b.opts.NoClone && tree.Clone(f, src) == nil
	for at := int64(0); at < size; at += hashStep {
		end := min(at+hashStep, size)
		if !cloned {
			if err := tree.Copy(ctx, f, src, at, end, b.opts.NoClone); full(err) || ctx.Err() != nil {
				return err
			} else if err != nil {
				return fmt.Errorf("%w: %w", errSeed, err)
			}
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		// A clone is as short as a source that was cut meanwhile.
		if n, err := io.CopyBuffer(h, io.NewSectionReader(f, at, end-at), buf); err != nil || n < end-at {
			return fmt.Errorf("%w: %w: %w", errSeed, errSize, cmp.Or(err, io.ErrUnexpectedEOF))
		}
	}
	return nil
}

// full reports whether an error of a copy is that of its destination.
func full(err error) bool {
	return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || errors.Is(err, unix.EFBIG)
}

// stream writes size bytes of src to f, and leaves out blocks of zeros.
func stream(ctx context.Context, f *os.File, src io.Reader, size int64, h hash.Hash, buf []byte) error {
	w := tree.NewSparseWriter(f)
	for n := int64(0); n < size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		m, err := src.Read(buf[:min(int64(len(buf)), size-n)])
		h.Write(buf[:m])
		n += int64(m)
		if _, err := w.Write(buf[:m]); err != nil {
			return err
		}
		if err != nil && (err != io.EOF || n < size) {
			return fmt.Errorf("%w: %w", errSeed, err)
		}
	}
	return w.End()
}
