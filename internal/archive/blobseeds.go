package archive

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"

	"github.com/ociv2-sync/ociv2-sync/caibx"
	"github.com/ociv2-sync/ociv2-sync/chunk"
)

// blobSeed is a file that has the chunks of an index, if that is true.
type blobSeed struct {
	f *os.File
	x *caibx.Index
}

// open reads the seeds, as far as they are needed for what the output does not have,
// and checks that the store has the rest, if that answers at once.
func (w *blobWriter) open(had *caibx.Index) ([]blobSeed, error) {
	lacking := make(map[chunk.ID]bool)
	for id := range w.places {
		lacking[id] = true
	}
	found := func(x *caibx.Index) {
		for _, c := range x.Chunks {
			delete(lacking, c.ID)
		}
	}
	found(had)
	var all []blobSeed
	for _, name := range w.opts.Seeds {
		if len(lacking) == 0 {
			break
		}
		s, err := w.seed(name)
		if err != nil {
			return nil, err
		}
		found(s.x)
		all = append(all, s)
	}
	return all, w.in.missing(w.ctx, w.in.store, slices.Collect(maps.Keys(lacking)))
}

// seed opens a seed and reads what it has.
func (w *blobWriter) seed(name string) (blobSeed, error) {
	f, err := os.Open(name)
	if err != nil {
		return blobSeed{}, fmt.Errorf("archive: seed: %w", err)
	}
	w.files = append(w.files, f)
	if fi, err := f.Stat(); err != nil || fi.IsDir() {
		return blobSeed{}, errors.Join(err, fmt.Errorf("archive: %w: the seed %s of a blob is a directory", ErrUsage, name))
	}
	x, err := readIndexFile(name + ".caibx")
	if err != nil || x.Algorithm() != w.x.Algorithm() {
		x, err = w.scan(f) // there is none, or it is of no use
	}
	return blobSeed{f, x}, err
}

// take writes the chunks that a seed has according to its index, which need not
// be true: every one is verified.
func (w *blobWriter) take(s blobSeed, share bool) error {
	f, x := s.f, s.x
	alg := w.x.Algorithm()
	var buf []byte
	for i, c := range x.Chunks {
		places := w.places[c.ID]
		if len(places) == 0 {
			continue
		}
		if err := w.ctx.Err(); err != nil {
			return err
		}
		off, size := x.Span(i)
		if _, want := w.x.Span(places[0]); want != size {
			continue
		}
		if uint64(cap(buf)) < size {
			buf = make([]byte, size)
		}
		buf = buf[:size]
		if n, err := f.ReadAt(buf, int64(off)); n < len(buf) {
			if errors.Is(err, io.EOF) {
				continue
			}
			return fmt.Errorf("archive: %w", err)
		}
		if alg.Sum(buf) != c.ID {
			continue // it has changed since
		}
		if share {
			for _, p := range places {
				to, _ := w.x.Span(p)
				w.links = append(w.links, link{f, int64(off), int64(to), int64(size)})
			}
		}
		w.done.Seeded += len(places)
		if err := w.put(c.ID, buf); err != nil {
			return err
		}
	}
	return nil
}
