// Package filestore is a chunk store in casync's layout (docs/format/chunks.md,
// section 4) wherever files can be kept: a directory behind SFTP, a bucket.
package filestore

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"path"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/store"
)

// Files keep the chunks. Paths are slash-separated. All methods may be called
// from several goroutines at once.
type Files interface {
	// ReadFile returns the contents of a file of at most limit bytes; the error
	// wraps [store.ErrNotFound] or [store.ErrTooLarge].
	ReadFile(ctx context.Context, path string, limit int64) ([]byte, error)
	// Stat returns the entry of a file; the error wraps [store.ErrNotFound].
	Stat(ctx context.Context, path string) (store.Entry, error)
	// Create makes a file, whole or not at all; the error wraps
	// [store.ErrExists] when there is one.
	Create(ctx context.Context, path string, data []byte) error
	// Remove removes a file; that there is none is no error.
	Remove(ctx context.Context, path string) error
	// List returns what is in a directory, with deep all files below it.
	List(ctx context.Context, dir string, deep bool) iter.Seq2[store.Entry, error]
	// String names the place for messages.
	String() string
}

// Options say how a store is used. The zero value works.
type Options struct {
	// ListFirst lists all chunks, once, before the first question for what is
	// there, in place of asking for each: where a list is cheap. What others
	// write after that is not noticed, except by Put.
	ListFirst bool
}

// asks is how many questions are asked at a time.
const asks = 64

// Store is a chunk store. It implements [store.Store], [store.Writer],
// [store.Checker], [store.Statter] and [store.Deleter].
type Store struct {
	files Files
	dir   string
	opts  Options

	listing sync.Mutex // one goroutine lists
	mu      sync.Mutex
	listed  bool
	sizes   map[chunk.ID]int64 // packed; of chunks that are known to be there
}

// New returns the chunk store in a directory of files.
func New(files Files, dir string, o Options) *Store {
	return &Store{files: files, dir: dir, opts: o, sizes: make(map[chunk.ID]int64)}
}

// String names the store.
func (s *Store) String() string { return s.files.String() + "/" + s.dir }

// suffix is what the name of a compressed chunk ends in.
const suffix = ".cacnk"

var forms = [...]store.Form{store.Compressed, store.Raw}

func (s *Store) path(id chunk.ID, form store.Form) string {
	hex := id.String()
	name := s.dir + "/" + hex[:4] + "/" + hex
	if form == store.Raw {
		return name
	}
	return name + suffix
}

// Get implements [store.Store].
func (s *Store) Get(ctx context.Context, id chunk.ID, limit int64) (store.Packed, error) {
	for _, form := range forms {
		data, err := s.files.ReadFile(ctx, s.path(id, form), limit)
		switch {
		case err == nil && len(data) > 0: // an empty file is what a crash leaves
			return store.Packed{Form: form, Data: data}, nil
		case err != nil && !errors.Is(err, store.ErrNotFound):
			return store.Packed{}, err
		}
	}
	return store.Packed{}, store.NotFound(s.String(), id)
}

// Put implements [store.Writer].
func (s *Store) Put(ctx context.Context, id chunk.ID, p store.Packed) error {
	path := s.path(id, p.Form)
	err := s.files.Create(ctx, path, p.Data)
	if errors.Is(err, store.ErrExists) {
		var e store.Entry
		if e, err = s.files.Stat(ctx, path); err == nil && e.Size == 0 {
			// What a crash has left makes way.
			if err = s.files.Remove(ctx, path); err == nil {
				return s.Put(ctx, id, p)
			}
		}
		if err == nil {
			s.know(id, e.Size)
		}
		return err
	}
	if err == nil {
		s.know(id, int64(len(p.Data)))
	}
	return err
}

func (s *Store) know(id chunk.ID, size int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sizes[id] = size
}

// known returns the size of a chunk if it is known to be there, and whether one
// that is not is known not to be.
func (s *Store) known(id chunk.ID) (size int64, there, all bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	size, there = s.sizes[id]
	return size, there, s.listed
}

// list lists the store, once.
func (s *Store) list(ctx context.Context) error {
	if !s.opts.ListFirst {
		return nil
	}
	s.listing.Lock()
	defer s.listing.Unlock()
	if s.listed {
		return nil
	}
	for e, err := range s.files.List(ctx, s.dir, true) {
		if err != nil {
			return err
		}
		if id, ok := parseName(path.Base(e.Path)); ok && e.Size > 0 {
			s.know(id, e.Size)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.listed = true
	return nil
}

// parseName reads the name of a chunk's file.
func parseName(name string) (chunk.ID, bool) {
	hex := strings.TrimSuffix(name, suffix)
	id, err := chunk.ParseID(hex)
	return id, err == nil && id.String() == hex
}

// size returns the packed size of a chunk.
func (s *Store) size(ctx context.Context, id chunk.ID) (int64, error) {
	if err := s.list(ctx); err != nil {
		return 0, err
	}
	size, there, all := s.known(id)
	if there {
		return size, nil
	}
	if !all {
		for _, form := range forms {
			e, err := s.files.Stat(ctx, s.path(id, form))
			switch {
			case err == nil && e.Size > 0:
				s.know(id, e.Size)
				return e.Size, nil
			case err != nil && !errors.Is(err, store.ErrNotFound):
				return 0, err
			}
		}
	}
	return 0, store.NotFound(s.String(), id)
}

// StoredSize implements [store.Statter].
func (s *Store) StoredSize(ctx context.Context, id chunk.ID) (int64, error) { return s.size(ctx, id) }

// Missing implements [store.Checker].
func (s *Store) Missing(ctx context.Context, ids []chunk.ID) ([]chunk.ID, error) {
	lacks := make([]bool, len(ids))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(asks)
	for i, id := range ids {
		g.Go(func() error {
			_, err := s.size(gctx, id)
			if errors.Is(err, store.ErrNotFound) {
				lacks[i], err = true, nil
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	var missing []chunk.ID
	for i, id := range ids {
		if lacks[i] {
			missing = append(missing, id)
		}
	}
	return missing, ctx.Err()
}

// Delete implements [store.Deleter].
func (s *Store) Delete(ctx context.Context, id chunk.ID) error {
	if _, err := s.size(ctx, id); err != nil {
		return err
	}
	for _, form := range forms {
		if err := s.files.Remove(ctx, s.path(id, form)); err != nil {
			return fmt.Errorf("filestore: %w", err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sizes, id)
	return nil
}
