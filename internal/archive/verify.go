package archive

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/ociv2-sync/ociv2-sync/caibx"
	"github.com/ociv2-sync/ociv2-sync/catar"
	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/store"
	"github.com/ociv2-sync/ociv2-sync/store/local"
)

// ErrDamaged means that something is not what it should be. What is has been
// reported.
var ErrDamaged = errors.New("verification failed")

// Verified is what was looked at.
type Verified struct {
	Chunks  int   // that were looked at
	Bytes   int64 // that they expand to
	Damaged int   // of the chunks, not missing
	Missing int   // of the chunks
}

// fault returns an error if there was one.
func (v *Verified) fault(name string) error {
	switch {
	case v.Damaged > 0:
		return fmt.Errorf("archive: %s: %w: %d chunks damaged, %d missing, of %d", name, ErrDamaged, v.Damaged, v.Missing, v.Chunks)
	case v.Missing > 0:
		return fmt.Errorf("archive: %s: %w: %d chunks missing, of %d", name, store.ErrNotFound, v.Missing, v.Chunks)
	}
	return nil
}

// checker looks at chunks, several at a time.
type checker struct {
	check  func(ctx context.Context, dst []byte, id chunk.ID) ([]byte, error)
	report func(chunk.ID, error) error

	mu   sync.Mutex
	done Verified
}

// run checks chunks until todo gives no more. An error that is not that of a
// chunk ends it.
func (c *checker) run(ctx context.Context, jobs int, todo func(yield func(chunk.ID) error) error) error {
	g, ctx := errgroup.WithContext(ctx)
	ids := make(chan chunk.ID)
	g.Go(func() error {
		defer close(ids)
		return todo(func(id chunk.ID) error {
			select {
			case ids <- id:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	})
	for range max(jobs, 1) {
		g.Go(func() error {
			var buf []byte
			for id := range ids {
				out, err := c.check(ctx, buf, id)
				if err == nil {
					buf = out
				}
				if err := c.count(id, len(out), err); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// count adds what became of a chunk. It returns the errors that end the check.
func (c *checker) count(id chunk.ID, size int, err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.done.Chunks++
	c.done.Bytes += int64(size)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, store.ErrNotFound):
		c.done.Missing++
	case errors.Is(err, store.ErrCorrupt), errors.Is(err, store.ErrTooLarge):
		c.done.Damaged++
	default:
		return err
	}
	return c.report(id, err)
}

// VerifyStore checks that every chunk in a store is what its name says. It
// reports those that are not, and then returns an error too. A directory without
// chunks that has other things is ErrUsage.
func VerifyStore(ctx context.Context, dir string, jobs int, report func(chunk.ID, error) error) (*Verified, error) {
	st, err := local.Open(dir, local.Options{})
	if err != nil {
		return nil, err
	}
	defer st.Close()
	c := &checker{report: report, check: func(ctx context.Context, dst []byte, id chunk.ID) ([]byte, error) {
		p, err := st.Get(ctx, id, store.MaxPacked(chunk.MaxSize))
		if err != nil {
			return nil, err
		}
		return store.Check(dst, p, id)
	}}
	err = c.run(ctx, jobs, func(yield func(chunk.ID) error) error {
		for id, err := range st.List(ctx) {
			if err != nil {
				return err
			}
			if err := yield(id); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil && c.done.Chunks == 0 {
		if err := mayBeStore(dir); err != nil {
			return nil, err
		}
	}
	if err == nil {
		err = c.done.fault(dir)
	}
	return &c.done, err
}

// mayBeStore refuses a directory without chunks that has other things than a store has:
// it would be called good for nothing.
func mayBeStore(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	for _, e := range entries {
		if _, err := hex.DecodeString(e.Name()); err != nil || len(e.Name()) != 4 {
			return fmt.Errorf("archive: %w: %s is no chunk store, which in a repository is REPO/default.castr", ErrUsage, dir)
		}
	}
	return nil
}

// VerifyIndex checks that the store of an index has every chunk of it, whole.
// It reports those that it has not, and then returns an error too.
func VerifyIndex(ctx context.Context, in *Input, jobs int, report func(chunk.ID, error) error) (*Verified, error) {
	if in.Index == nil {
		return nil, fmt.Errorf("archive: %w: %s is not an index (.caidx or .caibx)", ErrUsage, in.name)
	}
	sizes := sizesOf(in.Index)
	c := &checker{report: report, check: func(ctx context.Context, dst []byte, id chunk.ID) ([]byte, error) {
		return getChunk(ctx, in.store, in.Index, dst, id, sizes[id])
	}}
	err := c.run(ctx, jobs, func(yield func(chunk.ID) error) error { return eachChunk(in.Index, yield) })
	if err == nil {
		err = c.done.fault(in.name)
	}
	return &c.done, err
}

func getChunk(ctx context.Context, s store.Store, x *caibx.Index, dst []byte, id chunk.ID, size uint64) ([]byte, error) {
	p, err := s.Get(ctx, id, store.MaxPacked(size))
	if err != nil {
		return nil, err
	}
	return store.Unpack(dst, p, x.Algorithm(), id, size)
}

// sizesOf returns the sizes of the chunks of an index.
func sizesOf(x *caibx.Index) map[chunk.ID]uint64 {
	sizes := make(map[chunk.ID]uint64)
	for i, c := range x.Chunks {
		_, sizes[c.ID] = x.Span(i)
	}
	return sizes
}

// eachChunk yields each chunk of an index once, in the order of its first place.
func eachChunk(x *caibx.Index, yield func(chunk.ID) error) error {
	seen := make(map[chunk.ID]struct{})
	for _, c := range x.Chunks {
		if _, ok := seen[c.ID]; ok {
			continue
		}
		seen[c.ID] = struct{}{}
		if err := yield(c.ID); err != nil {
			return err
		}
	}
	return nil
}

// Range is a part of a stream that is not what the index says.
type Range struct{ From, To uint64 }

// VerifyTarget checks that what an index describes is what is at target: a
// directory for the index of an archive, which is read with the archive's
// features, or any other file; of a block device, which has a length of its own,
// what follows is not looked at. It reports the parts that differ, and then
// returns an error too. No chunk is needed for it.
func VerifyTarget(ctx context.Context, in *Input, target string, report func(Range) error) (*Verified, error) {
	if in.Index == nil {
		return nil, fmt.Errorf("archive: %w: %s is not an index (.caidx or .caibx)", ErrUsage, in.name)
	}
	other, err := Open(ctx, target, OpenOptions{Flags: catar.Flags(in.Index.FeatureFlags)})
	if err != nil {
		return nil, err
	}
	defer other.Close()
	if other.IsArchive() != in.IsArchive() {
		return nil, fmt.Errorf("archive: %w: one of %s and %s is a tree, the other a blob", ErrUsage, in.name, target)
	}
	if other.device != nil {
		other.write = copyFrom(io.LimitReader(other.device, int64(in.Index.Size())))
	}
	done := &Verified{}
	err = other.Read(ctx, func(_ context.Context, r io.Reader) error {
		return done.compare(in.Index, r, report)
	})
	if err == nil && done.Damaged > 0 {
		err = fmt.Errorf("archive: %s: %w: %d of %d chunks of %s differ", target, ErrDamaged, done.Damaged, done.Chunks, in.name)
	}
	return done, err
}

// compare reads a stream by the chunks of an index.
func (v *Verified) compare(x *caibx.Index, r io.Reader, report func(Range) error) error {
	alg := x.Algorithm()
	var buf []byte
	var bad Range
	flush := func(r Range) error {
		if r.From == r.To {
			return nil
		}
		return report(r)
	}
	for i, c := range x.Chunks {
		off, size := x.Span(i)
		buf = slices.Grow(buf[:0], int(size))[:size]
		n, err := io.ReadFull(r, buf)
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return err
		}
		v.Chunks++
		v.Bytes += int64(n)
		if err == nil && alg.Sum(buf) == c.ID {
			continue
		}
		v.Damaged++
		if bad.To != off || bad.To == 0 {
			if err := flush(bad); err != nil {
				return err
			}
			bad.From = off
		}
		bad.To = off + size
	}
	if err := flush(bad); err != nil {
		return err
	}
	more, err := io.Copy(io.Discard, r)
	if err != nil || more == 0 {
		return err
	}
	v.Damaged++
	v.Chunks++
	return report(Range{x.Size(), x.Size() + uint64(more)})
}

// Repaired is what Repair did.
type Repaired struct {
	Verified
	Fetched int   // chunks that were put in place of damaged or missing ones
	Bytes   int64 // their packed size, which is what was transferred
}

// Repair makes the store in dir have every chunk of an index, whole: what is
// damaged or missing there is taken from sources, verified, and put in its
// place. Nothing else is fetched. It reports the chunks that it mends.
func Repair(ctx context.Context, in *Input, dir string, sources store.Store, jobs int, report func(chunk.ID, error) error) (_ *Repaired, err error) {
	if in.Index == nil {
		return nil, fmt.Errorf("archive: %w: %s is not an index (.caidx or .caibx)", ErrUsage, in.name)
	}
	st, err := local.Open(dir, local.Options{Create: true, Sync: true})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	unlock, err := st.Lock(ctx, false)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	done := &Repaired{}
	sizes := sizesOf(in.Index)
	c := &checker{report: report}
	c.check = func(ctx context.Context, dst []byte, id chunk.ID) ([]byte, error) {
		out, bad := getChunk(ctx, st, in.Index, dst, id, sizes[id])
		if bad == nil || !errors.Is(bad, store.ErrNotFound) && !errors.Is(bad, store.ErrCorrupt) && !errors.Is(bad, store.ErrTooLarge) {
			return out, bad
		}
		p, err := sources.Get(ctx, id, store.MaxPacked(sizes[id]))
		if err != nil {
			return nil, fatal{err}
		}
		if _, err := store.Unpack(dst, p, in.Index.Algorithm(), id, sizes[id]); err != nil {
			return nil, fatal{fmt.Errorf("%s: %w", sources, err)}
		}
		if err := st.Delete(ctx, id); err != nil && !errors.Is(err, store.ErrNotFound) {
			return nil, fatal{err}
		}
		if err := st.Put(ctx, id, p); err != nil {
			return nil, fatal{err}
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		done.Fetched++
		done.Bytes += int64(len(p.Data))
		return nil, bad
	}
	err = c.run(ctx, jobs, func(yield func(chunk.ID) error) error { return eachChunk(in.Index, yield) })
	if hidden, ok := errors.AsType[fatal](err); ok {
		err = hidden.err
	}
	done.Verified = c.done
	return done, errors.Join(err, st.Flush())
}

// fatal hides from the counting what kind of error ended a repair.
type fatal struct{ err error }

func (e fatal) Error() string { return e.err.Error() }
