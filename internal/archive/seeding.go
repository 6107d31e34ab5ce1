package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"syscall"

	"github.com/ociv2-sync/ociv2-sync/catar"
	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/internal/tree"
	"github.com/ociv2-sync/ociv2-sync/store"
)

// seed reads seeds and puts them before the store of an index.
func (in *Input) seed(ctx context.Context, names []string, opts ExtractOptions) (*seeds, error) {
	s := newSeeds(in.Index, in.tempDir, opts.Tree.Shift, opts.Logger)
	for _, name := range names {
		if err := s.add(ctx, name); err != nil {
			return nil, errors.Join(err, s.Close())
		}
	}
	s.behind, in.store = in.store, store.Chain(s, in.store)
	return s, nil
}

// parts yields the numbers of the chunks that what is read is made of.
func (in *Input) parts() iter.Seq[int] {
	return func(yield func(int) bool) {
		from, to := uint64(0), in.Index.Size()
		if in.sub != nil {
			from, to = in.sub.node.Start, in.sub.node.End
		}
		if from == to {
			return
		}
		for i := in.Index.Find(from); i < len(in.Index.Chunks); i++ {
			if off, _ := in.Index.Span(i); off >= to || !yield(i) {
				return
			}
		}
	}
}

// count says where the chunks came from, or would.
func (r *Restored) count(in *Input, s *seeds) {
	for i := range in.parts() {
		if _, ok := s.has(in.Index.Chunks[i].ID); ok {
			r.Seeded++
		} else {
			r.Fetched++
		}
	}
}

// lacking checks that what the seeds do not have is in the store, if that answers
// at once.
func (in *Input) lacking(ctx context.Context, s *seeds) error {
	var ids []chunk.ID
	for i := range in.parts() {
		if _, ok := s.has(in.Index.Chunks[i].ID); !ok {
			ids = append(ids, in.Index.Chunks[i].ID)
		}
	}
	return in.missing(ctx, s.behind, ids)
}

// missing is an error if a store that answers at once lacks some of these chunks.
func (in *Input) missing(ctx context.Context, st store.Store, ids []chunk.ID) error {
	c, ok := store.As[store.Checker](st)
	if !in.near || !ok {
		return nil
	}
	missing, err := c.Missing(ctx, ids)
	if err != nil || len(missing) == 0 {
		return err
	}
	return fmt.Errorf("archive: %s: %d chunks are missing: %w", in.name, len(missing), store.NotFound(st.String(), missing[0]))
}

// precheck reads an archive to its end, unless it can be read but once.
func (in *Input) precheck(ctx context.Context) error {
	if in.at == nil {
		return nil
	}
	return walk(ctx, in, func(string, *catar.Entry, *catar.Reader) error { return nil })
}

// use has the extraction share what it writes with the seeds.
func (o *ExtractOptions) use(ctx context.Context, in *Input, s *seeds) {
	shift := uint64(0)
	if in.sub != nil {
		shift = in.sub.node.Start - uint64(len(in.sub.head))
	}
	if o.Reflink && len(s.list) > 0 {
		broken := make(map[int]bool)
		o.Tree.Filled = func(f *os.File, e *catar.Entry) error { return s.share(ctx, f, e, shift, broken) }
	}
	if o.Hardlink {
		o.Tree.Twin = func(e *catar.Entry, f *os.File) (*tree.Dir, string, error) { return s.twin(e, f, shift) }
	}
}

// share makes a file that was written use the blocks of the seeds that its bytes
// came from. Seeds that cannot are remembered.
func (s *seeds) share(ctx context.Context, f *os.File, e *catar.Entry, shift uint64, broken map[int]bool) error {
	start, end := e.PayloadOffset+shift, e.PayloadOffset+shift+e.Size
	if e.Size < shareBlock {
		return nil
	}
	for i := s.x.Find(start); i < len(s.x.Chunks); i++ {
		off, size := s.x.Span(i)
		if off >= end {
			break
		}
		p, ok := s.has(s.x.Chunks[i].ID)
		if !ok || s.dirs[p.seed] == nil || broken[p.seed] {
			continue
		}
		// Chunks that follow each other in both are one part.
		from, to := max(off, start), min(off+size, end)
		for to < end {
			i++
			next, size := s.x.Span(i)
			q, ok := s.has(s.x.Chunks[i].ID)
			if !ok || q.seed != p.seed || q.at-p.at != next-off {
				i--
				break
			}
			to = min(next+size, end)
		}
		if err := s.shareFile(ctx, f, p, from-off, to-off, int64(from-start)); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			broken[p.seed] = true
		}
	}
	return nil
}

// shareFile shares what of the bytes from and to, after a place in a directory,
// is in one file.
func (s *seeds) shareFile(ctx context.Context, f *os.File, p place, from, to uint64, dest int64) error {
	r := s.dirs[p.seed]
	for from < to {
		n, file := r.span(p.at+from, to-from)
		if file != nil && n >= shareBlock {
			src, err := r.root.OpenBelow(file.path())
			if err != nil {
				return err
			}
			l := link{seed: src, from: int64(p.at + from - file.Contents), to: dest, size: int64(n)}
			if err := errors.Join(l.share(ctx, f), src.Close()); err != nil {
				return err
			}
		}
		from, dest = from+n, dest+int64(n)
	}
	return nil
}

// twin returns the file of a seed that is the same as one that was written: all
// chunks of its records and contents are the seed's, one after the other. Since
// seeds change, both are compared.
func (s *seeds) twin(e *catar.Entry, f *os.File, shift uint64) (*tree.Dir, string, error) {
	start, end := e.Offset+shift, e.PayloadOffset+shift+e.Size
	i := s.x.Find(start)
	off, size := s.x.Span(i)
	p, ok := s.has(s.x.Chunks[i].ID)
	if e.Size == 0 || !ok || s.dirs[p.seed] == nil {
		return nil, "", nil
	}
	for last := off + size; last < end; last += size {
		i++
		at, n := s.x.Span(i)
		q, ok := s.has(s.x.Chunks[i].ID)
		if !ok || q.seed != p.seed || q.at-p.at != at-off {
			return nil, "", nil
		}
		size = n
	}
	r := s.dirs[p.seed]
	_, file := r.span(p.at+e.PayloadOffset+shift-off, 1)
	if file == nil || file.Entry != p.at+start-off || file.end() != p.at+end-off {
		return nil, "", nil
	}
	src, err := r.root.OpenBelow(file.path())
	if err != nil {
		return nil, "", nil //nolint:nilerr // it is gone
	}
	defer src.Close()
	if same, err := sameFile(f, src); err != nil || !same {
		return nil, "", err
	}
	dir, err := r.root.DirBelow(file.Dir)
	if err != nil {
		return nil, "", nil //nolint:nilerr // it is gone
	}
	return dir, file.Name, nil
}

// sameFile reports whether two open files have the same bytes and metadata.
func sameFile(a, b *os.File) (bool, error) {
	x, err := a.Stat()
	if err != nil {
		return false, err
	}
	y, err := b.Stat()
	if err != nil {
		return false, err
	}
	p, q := x.Sys().(*syscall.Stat_t), y.Sys().(*syscall.Stat_t)
	if p.Mode != q.Mode || p.Uid != q.Uid || p.Gid != q.Gid || p.Mtim != q.Mtim || p.Size != q.Size {
		return false, nil
	}
	return sameBytes(io.NewSectionReader(a, 0, p.Size), io.NewSectionReader(b, 0, p.Size))
}

// sameBytes reports whether two streams of one length are the same.
func sameBytes(a, b io.Reader) (bool, error) {
	bufA, bufB := make([]byte, 64<<10), make([]byte, 64<<10)
	for {
		n, endA, err := fill(a, bufA)
		if err != nil {
			return false, err
		}
		m, _, err := fill(b, bufB)
		if err != nil || !bytes.Equal(bufA[:n], bufB[:m]) {
			return false, err
		}
		if endA {
			return true, nil
		}
	}
}

// fill reads until buf is full or r ends.
func fill(r io.Reader, buf []byte) (n int, end bool, err error) {
	n, err = io.ReadFull(r, buf)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return n, true, nil
	}
	return n, false, err
}
