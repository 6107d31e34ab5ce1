package assemble

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sync/errgroup"

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
						b.opts.Logger.Warn("seed has changed, fetching instead",
							"seed", b.job.Plan.Seeds[c.Seed], "file", c.Path, "reason", err)
						b.lost.Add(1)
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

// copySeed writes one content from its seed to the files of its nodes. An
// error that matches errSeed leaves no file behind.
func (b *builder) copySeed(ctx context.Context, at *cursor, i int32, buf []byte) error {
	c := &b.job.Plan.Contents[i]
	src, err := b.job.Plan.Seeds[c.Seed].Open(ctx, c.Path)
	if err != nil {
		return fmt.Errorf("%w: %w", errSeed, err)
	}
	defer src.Close()
	f, err := at.create(c.Nodes[0])
	if err != nil {
		return err
	}
	if err := b.pour(ctx, f, src, c, buf); err != nil {
		f.Close()
		if !errors.Is(err, errSeed) {
			return b.at(c.Nodes[0], err)
		}
		if rerr := at.remove(c.Nodes[0]); rerr != nil {
			return rerr
		}
		return err
	}
	b.copied.Add(1)
	b.copiedBytes.Add(c.Size)
	return b.complete(ctx, at, c, f)
}

// pour fills f with the content from src and verifies it. Where the
// filesystem can share extents, the file is cloned first and the clone is
// read, so that what was hashed is what stays.
func (b *builder) pour(ctx context.Context, f *os.File, src io.Reader, c *seed.Content, buf []byte) error {
	h := sha256.New()
	from, write := src, io.Writer(f)
	if file, ok := src.(*os.File); ok {
		if fi, err := file.Stat(); err != nil || fi.Size() != c.Size {
			return fmt.Errorf("%w: its size changed", errSeed)
		}
		if tree.Clone(f, file) == nil {
			from, write = io.NewSectionReader(f, 0, c.Size), nil
		}
	}
	var n int64
	for n < c.Size {
		if err := ctx.Err(); err != nil {
			return err
		}
		m, err := from.Read(buf[:min(int64(len(buf)), c.Size-n)])
		h.Write(buf[:m])
		n += int64(m)
		if write != nil && m > 0 {
			if _, err := write.Write(buf[:m]); err != nil {
				return err
			}
		}
		if err != nil && (err != io.EOF || n < c.Size) {
			return fmt.Errorf("%w: %w", errSeed, err)
		}
	}
	if seed.Digest(h.Sum(nil)) != c.Digest {
		return fmt.Errorf("%w: its bytes changed", errSeed)
	}
	return nil
}
