package archive

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"

	"github.com/ociv2-sync/ociv2-sync/caibx"
	"github.com/ociv2-sync/ociv2-sync/catar"
	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/internal/ingest"
	"github.com/ociv2-sync/ociv2-sync/internal/pipe"
	"github.com/ociv2-sync/ociv2-sync/internal/stores"
	"github.com/ociv2-sync/ociv2-sync/internal/tree"
	"github.com/ociv2-sync/ociv2-sync/store"
)

// seeds is a store of those chunks of an index that something on this machine
// has. It verifies what it gives: a chunk that changed since it was found is one
// that it does not have.
type seeds struct {
	x      *caibx.Index
	temp   string
	shift  tree.IDShift
	logger *slog.Logger
	sizes  map[chunk.ID]uint64 // of the chunks that are wanted
	behind store.Store         // asked for what the seeds do not have

	list []seedSource
	dirs []*recording // those of list that are directories, else nil

	mu     sync.RWMutex
	places map[chunk.ID]place
}

// seedSource is one seed.
type seedSource struct {
	name string
	read func(ctx context.Context, id chunk.ID, p []byte, at uint64) error
	io.Closer
}

// place is where a seed has a chunk.
type place struct {
	seed int
	at   uint64 // in the stream of the seed
}

func newSeeds(x *caibx.Index, temp string, shift tree.IDShift, logger *slog.Logger) *seeds {
	return &seeds{x: x, temp: temp, shift: shift, logger: cmp.Or(logger, slog.New(slog.DiscardHandler)), sizes: sizesOf(x), places: make(map[chunk.ID]place)}
}

// Close closes the seeds.
func (s *seeds) Close() error {
	var err error
	for _, l := range s.list {
		err = errors.Join(err, l.Close())
	}
	return err
}

// String implements [store.Store].
func (s *seeds) String() string { return "the seeds" }

// Get implements [store.Store].
func (s *seeds) Get(ctx context.Context, id chunk.ID, limit int64) (store.Packed, error) {
	s.mu.RLock()
	p, ok := s.places[id]
	s.mu.RUnlock()
	size := s.sizes[id]
	if !ok || int64(size) > limit {
		return store.Packed{}, store.NotFound(s.String(), id)
	}
	data := make([]byte, size)
	err := s.list[p.seed].read(ctx, id, data, p.at)
	if err == nil && s.x.Algorithm().Sum(data) != id {
		err = errors.New("its bytes changed")
	}
	if err != nil {
		if ctx.Err() != nil {
			return store.Packed{}, ctx.Err()
		}
		s.logger.Info("seed has changed, asking a store instead", "seed", s.list[p.seed].name, "chunk", id, "reason", err)
		s.mu.Lock()
		delete(s.places, id)
		s.mu.Unlock()
		return store.Packed{}, store.NotFound(s.String(), id)
	}
	return store.Packed{Form: store.Raw, Data: data}, nil
}

// has reports whether a chunk is still where it was found.
func (s *seeds) has(id chunk.ID) (place, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	p, ok := s.places[id]
	return p, ok
}

// add looks for chunks in one more seed: a directory, which is read as the
// archive of the index was made, an index with the store beside it, or any other
// file or device. Seeds that hold nothing new, as the others had it, are closed.
func (s *seeds) add(ctx context.Context, name string) error {
	if _, remote, err := stores.SSH(name); err != nil || remote || stores.IsURL(name) {
		return fmt.Errorf("archive: %w: the seed %s is not on this machine", ErrUsage, name)
	}
	if k := KindOf(name); k == ArchiveIndex || k == BlobIndex {
		return s.addIndex(name)
	}
	fi, err := os.Stat(name)
	if err != nil {
		return fmt.Errorf("archive: seed: %w", err)
	}
	if fi.IsDir() {
		return s.addDir(ctx, name)
	}
	f, err := os.Open(name)
	if err != nil {
		return fmt.Errorf("archive: seed: %w", err)
	}
	err = s.scan(ctx, name, f, func(w io.Writer) error {
		_, err := io.Copy(w, f)
		return err
	})
	if err != nil {
		return errors.Join(err, f.Close())
	}
	return nil
}

// source is what a seed is read from.
type source interface {
	io.ReaderAt
	io.Closer
}

// addDir takes the archive of a directory for a seed. Its owners are shifted as
// those of the destination are; if it has some that cannot have been, they are
// taken as they are.
func (s *seeds) addDir(ctx context.Context, name string) error {
	shifts := []tree.IDShift{s.shift}
	if s.shift.Base != 0 {
		shifts = append(shifts, tree.IDShift{})
	}
	for i, shift := range shifts {
		r, err := newRecording(name, s.temp)
		if err != nil {
			return fmt.Errorf("archive: seed: %w", err)
		}
		var unfit bool
		err = s.scan(ctx, name, r, func(w io.Writer) error {
			opts := tree.EncodeOptions{Flags: catar.Flags(s.x.FeatureFlags), Shift: shift, Contents: r.add}
			err := tree.Encode(ctx, name, opts, io.MultiWriter(r, w))
			if unfit = errors.Is(err, catar.ErrUnsupported) && i+1 < len(shifts); unfit {
				return nil
			}
			return err
		})
		if err != nil {
			return errors.Join(err, r.Close())
		}
		if !unfit {
			break
		}
	}
	return nil
}

// scan notes where a stream has chunks that are wanted. What makes the stream
// end early, other than the end of ctx, is no error: the chunks before that are
// of use.
func (s *seeds) scan(ctx context.Context, name string, src source, stream func(io.Writer) error) error {
	var found *ingest.Result
	err := pipe.Run(ctx, func(ctx context.Context, w io.Writer) error {
		if err := stream(w); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			s.logger.Warn("seed cannot be read to its end", "seed", name, "reason", err)
		}
		return nil
	}, func(ctx context.Context, r io.Reader) (err error) {
		found, err = ingest.Stream(ctx, r, ingest.Options{Params: s.x.Params, FeatureFlags: s.x.FeatureFlags})
		return err
	})
	if err != nil {
		return err
	}
	s.take(found.Index, seedSource{name: name, Closer: src, read: func(_ context.Context, _ chunk.ID, p []byte, at uint64) error {
		return full(src.ReadAt(p, int64(at)))
	}})
	s.dirs[len(s.dirs)-1], _ = src.(*recording)
	return nil
}

// addIndex takes the chunks of another index for a seed.
func (s *seeds) addIndex(name string) error {
	x, err := readIndexFile(name)
	if err != nil {
		return err
	}
	st, closer, err := stores.Open([]string{DefaultStore(name)}, stores.Clients{})
	if err != nil {
		return err
	}
	if x.Algorithm() != s.x.Algorithm() {
		x = &caibx.Index{} // none of its chunks can be one of ours
	}
	s.take(x, seedSource{name: name, Closer: closer, read: func(ctx context.Context, id chunk.ID, p []byte, _ uint64) error {
		_, err := getChunk(ctx, st, s.x, p[:0], id, uint64(len(p)))
		return err
	}})
	return nil
}

// take adds a seed that has the chunks of an index.
func (s *seeds) take(x *caibx.Index, l seedSource) {
	for i, c := range x.Chunks {
		off, size := x.Span(i)
		if want, ok := s.sizes[c.ID]; !ok || want != size {
			continue
		}
		if _, had := s.places[c.ID]; !had {
			s.places[c.ID] = place{len(s.list), off}
		}
	}
	s.list, s.dirs = append(s.list, l), append(s.dirs, nil)
}
