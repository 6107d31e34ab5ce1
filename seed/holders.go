package seed

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ociv2-sync/ociv2-sync/caibx"
	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/store"
)

// holder is a seed in which chunks may be, at whatever place.
type holder interface {
	// chunks calls found with the path and the offset of each chunk of left
	// that the seed has, and takes it out of left, which has their sizes.
	chunks(ctx context.Context, space *Space, left map[chunk.ID]uint64, found func(id chunk.ID, path string, at int64)) error
	// scans reports whether chunks reads all of the seed.
	scans() bool
}

// askHolders looks for the chunks that the plan fetches in the seeds that have
// chunks.
func (p *Plan) askHolders(ctx context.Context, space *Space, log *slog.Logger) error {
	var left map[chunk.ID]uint64
	all := make(map[chunk.ID]place)
	for i, s := range p.Seeds {
		h, ok := s.(holder)
		if !ok {
			continue
		}
		if left == nil {
			left = make(map[chunk.ID]uint64)
			for i := range p.Chunks {
				if c := &p.Chunks[i]; c.Origin == Fetched {
					left[c.ID] = c.Size
				}
			}
		}
		if len(left) == 0 {
			break
		}
		err := h.chunks(ctx, space, left, func(id chunk.ID, path string, at int64) {
			delete(left, id)
			all[id] = place{base{i, candidate{path: path}}, at}
		})
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			log.Warn("rest of a seed passed over", "seed", s, "reason", err)
		}
	}
	p.reseed([]map[chunk.ID]place{all})
	return nil
}

// storeSeed is a chunk store.
type storeSeed struct {
	store store.Store
	stat  store.Statter
}

// NewStore returns a chunk store on this device, which must be a
// [store.Statter], as a seed. It has chunks alone, which are found by their ids.
func NewStore(s store.Store) (Seed, error) {
	stat, ok := store.As[store.Statter](s)
	if !ok {
		return nil, fmt.Errorf("seed: %s: %w: it does not tell what it has", s, ErrUnknown)
	}
	return &storeSeed{s, stat}, nil
}

func (s *storeSeed) String() string { return s.store.String() }
func (s *storeSeed) scans() bool    { return false }

// look implements looker: there are no contents.
func (s *storeSeed) look(context.Context, *Wanted, func(Digest, string), func(int64)) (func(context.Context) error, error) {
	return func(context.Context) error { return nil }, nil
}

func (s *storeSeed) Find(context.Context, *Wanted, func(Digest, string)) error { return nil }

func (s *storeSeed) chunks(ctx context.Context, _ *Space, left map[chunk.ID]uint64, found func(chunk.ID, string, int64)) error {
	for id := range left {
		switch n, err := s.stat.StoredSize(ctx, id); {
		case err == nil && n > 0:
			found(id, id.String(), 0)
		case err != nil && !errors.Is(err, store.ErrNotFound):
			return err
		}
	}
	return nil
}

// Open gives the bytes of the chunk whose id is path, uncompressed.
func (s *storeSeed) Open(ctx context.Context, path string) (io.ReadCloser, error) {
	id, err := chunk.ParseID(path)
	if err != nil {
		return nil, err
	}
	n, err := s.stat.StoredSize(ctx, id)
	if err != nil {
		return nil, err
	}
	p, err := s.store.Get(ctx, id, min(n, store.MaxPacked(chunk.MaxSize)))
	if err != nil {
		return nil, err
	}
	b, err := store.Check(nil, p, id)
	if err != nil {
		return nil, err
	}
	return memoryFile{bytes.NewReader(b)}, nil
}

// memoryFile is a file in memory.
type memoryFile struct{ *bytes.Reader }

func (memoryFile) Close() error { return nil }

// blobSeed is a file, or a block device, in which chunks are looked for. As a
// whole it may also be a content.
type blobSeed struct {
	path   string
	memory Memory
	index  *caibx.Index // nil where there is none
}

// indexSuffix is the end of the name of a blob's index.
const indexSuffix = ".caibx"

// OpenBlob returns the regular file or block device at path as a seed: of the
// chunks that a plan would fetch those are taken that it has, at any place. Where
// path and ".caibx" is an index, that says which it has; so it does when path is
// the index itself, of the blob beside it. Otherwise the blob is read whole, and
// cut as the image was.
func OpenBlob(path string, opts DirOptions) (Seed, error) {
	blob := strings.TrimSuffix(path, indexSuffix)
	abs, err := filepath.Abs(blob)
	if err != nil {
		return nil, fmt.Errorf("seed: %w", err)
	}
	real, err := filepath.EvalSymlinks(abs)
	if err != nil {
		return nil, fmt.Errorf("seed: %w", err)
	}
	s := &blobSeed{path: real, memory: opts.Memory}
	if s.memory == nil {
		s.memory = noMemory{}
	}
	f, _, err := s.open()
	if err != nil {
		return nil, fmt.Errorf("seed: %w", err)
	}
	if err := f.Close(); err != nil {
		return nil, fmt.Errorf("seed: %w", err)
	}
	switch x, err := readIndex(abs + indexSuffix); {
	case err == nil:
		s.index = x
	case blob != path:
		return nil, fmt.Errorf("seed: %w", err)
	case !errors.Is(err, fs.ErrNotExist) && opts.Logger != nil:
		opts.Logger.Warn("index of a seed is of no use", "seed", abs, "reason", err)
	}
	return s, nil
}

func readIndex(path string) (*caibx.Index, error) {
	f, _, err := openRegular(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	x, err := caibx.Read(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return x, nil
}

// open opens the blob and tells its size.
func (s *blobSeed) open() (_ *os.File, size int64, err error) {
	f, err := os.OpenFile(s.path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, 0, err
	}
	fi, err := f.Stat()
	if err == nil {
		switch fi.Mode().Type() {
		case 0, fs.ModeDevice: // not a character device, which has a bit more
			// The length of a device is where its end is.
			if size, err = f.Seek(0, io.SeekEnd); err == nil {
				_, err = f.Seek(0, io.SeekStart)
			}
		default:
			err = fmt.Errorf("%s: %w: neither a file nor a block device", s.path, ErrUnknown)
		}
	}
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, size, nil
}

func (s *blobSeed) String() string { return s.path }
func (s *blobSeed) scans() bool    { return s.index == nil }

func (s *blobSeed) Open(context.Context, string) (io.ReadCloser, error) {
	f, _, err := s.open()
	return f, err
}

func (s *blobSeed) Find(ctx context.Context, want *Wanted, found func(Digest, string)) error {
	return lookThrough(ctx, s, want, found)
}

// look implements looker: the one content may be the whole file.
func (s *blobSeed) look(_ context.Context, want *Wanted, found func(Digest, string), unread func(int64)) (func(context.Context) error, error) {
	nothing := func(context.Context) error { return nil }
	fi, err := os.Stat(s.path)
	if err != nil {
		return nil, err
	}
	if size := fi.Size(); !fi.Mode().IsRegular() || !want.HasSize(size) {
		return nothing, nil
	}
	scan := s.memory.Scan(s.path)
	take := func(d Digest) {
		if want.Take(d, fi.Size()) {
			found(d, "")
		}
	}
	if d, ok := scan.Recall(s.path, fi); ok {
		take(d)
		return nothing, nil
	}
	unread(fi.Size())
	return func(ctx context.Context) error {
		if !want.HasSize(fi.Size()) {
			return nil
		}
		d, err := hashFile(ctx, scan, s.path, fi.Size(), sha256.New(), make([]byte, 256<<10))
		if err == nil {
			take(d)
		}
		return err
	}, nil
}

func (s *blobSeed) chunks(ctx context.Context, space *Space, left map[chunk.ID]uint64, found func(chunk.ID, string, int64)) error {
	f, size, err := s.open()
	if err != nil {
		return err
	}
	defer f.Close()
	if s.index == nil || s.index.Size() > uint64(size) || s.index.Algorithm() != space.Algorithm {
		return cutFile(ctx, f, 0, size, space, left, func(id chunk.ID, at int64) { found(id, "", at) })
	}
	for i, c := range s.index.Chunks {
		off, n := s.index.Span(i)
		if want, ok := left[c.ID]; ok && want == n {
			found(c.ID, "", int64(off))
		}
	}
	return nil
}
