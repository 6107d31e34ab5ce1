package archive

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ociv2-sync/ociv2-sync/caibx"
	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/internal/ingest"
	"github.com/ociv2-sync/ociv2-sync/internal/makecache"
	"github.com/ociv2-sync/ociv2-sync/internal/tree"
	"github.com/ociv2-sync/ociv2-sync/store"
	"github.com/ociv2-sync/ociv2-sync/store/local"
)

// racy is how near to now a file's last change may be for its chunks not to be
// remembered: a later one could bear the same time.
const racy = 2500 * time.Millisecond

// cacher makes the index of a directory, reading no file whose chunks it knows.
type cacher struct {
	opts   *MakeOptions
	src    *recording
	store  *local.Store
	old    map[makecache.Fingerprint]makecache.Chunk // by the fingerprint of their first bytes
	recent int64                                     // files changed since then, in nanoseconds, are not remembered

	mu     sync.Mutex
	fresh  map[makecache.Fingerprint]makecache.Chunk
	result ingest.Result
}

// makeCached makes the index of a directory with the cache in opts.Cache.
func makeCached(ctx context.Context, source string, st *local.Store, opts *MakeOptions) (_ *ingest.Result, err error) {
	if err := os.MkdirAll(opts.Cache, 0o700); err != nil {
		return nil, fmt.Errorf("archive: %w", err)
	}
	c := &cacher{opts: opts, store: st, fresh: make(map[makecache.Fingerprint]makecache.Chunk), recent: opts.now().Add(-racy).UnixNano()}
	name := filepath.Join(opts.Cache, makecache.FileName)
	if c.old, err = makecache.Read(name, c.header()); err != nil {
		return nil, err
	}
	if c.src, err = newRecording(source, opts.TempDir); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.src.Close()) }()
	c.src.skips, c.src.check = true, true
	enc := tree.EncodeOptions{Flags: opts.Flags, Shift: opts.Shift, Contents: c.src.add, Skip: true}
	if err := tree.Encode(ctx, source, enc, c.src); err != nil {
		return nil, err
	}
	if err := c.cut(ctx); err != nil {
		return nil, err
	}
	return &c.result, makecache.Write(name, c.header(), c.fresh)
}

// cut finds the chunks one after the other: by the cache where it has them, else
// by reading.
func (c *cacher) cut(ctx context.Context) error {
	cutter, err := chunk.NewCutter(c.opts.Params)
	if err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	x := &caibx.Index{FeatureFlags: uint64(c.opts.Flags), Params: c.opts.Params}
	c.result.Index = x
	if err := x.Validate(); err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(max(c.opts.Jobs, runtime.GOMAXPROCS(0)))
	packer := store.NewPacker(c.opts.Compression, c.opts.Params.Max)
	ids := make(map[int]chunk.ID) // of chunks that were read
	buf := make([]byte, 0, c.opts.Params.Max)
	err = func() error {
		for pos := uint64(0); pos < c.src.size; {
			known, ok, err := c.known(ctx, pos)
			if err != nil {
				return err
			}
			i, start, n := len(x.Chunks), pos, known.Size
			if !ok {
				want := min(c.opts.Params.Max, c.src.size-pos)
				if _, err := c.src.ReadAt(buf[:want], int64(pos)); err != nil {
					return err
				}
				k, cut := cutter.Next(buf[:want])
				if !cut {
					k = int(want)
				}
				data := bytes.Clone(buf[:k])
				n = uint64(k)
				g.Go(func() error { return c.put(ctx, packer, ids, i, start, data, !cut) })
			}
			pos += n
			x.Chunks = append(x.Chunks, caibx.Chunk{End: pos, ID: known.ID})
			if c.opts.Progress != nil {
				c.opts.Progress(int64(pos))
			}
		}
		return nil
	}()
	if failed := g.Wait(); failed != nil {
		return failed // which is why the loop ended, if it did
	}
	if err != nil {
		return err
	}
	for i, id := range ids {
		x.Chunks[i].ID = id
	}
	return nil
}

// known returns the chunk at an offset if the cache has it and the store too.
func (c *cacher) known(ctx context.Context, pos uint64) (makecache.Chunk, bool, error) {
	key, ok, err := c.fingerprintOf(pos, min(keySpan, c.src.size-pos))
	if err != nil || !ok {
		return makecache.Chunk{}, false, err
	}
	k, ok := c.old[key]
	if !ok || k.Size > c.src.size-pos || k.Last && k.Size != c.src.size-pos {
		return makecache.Chunk{}, false, nil
	}
	if all, ok, err := c.fingerprintOf(pos, k.Size); err != nil || !ok || all != k.All {
		return makecache.Chunk{}, false, err
	}
	if missing, err := c.store.Missing(ctx, []chunk.ID{k.ID}); err != nil || len(missing) > 0 {
		return makecache.Chunk{}, false, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fresh[key] = k
	c.result.Reused.Chunks++
	c.result.Reused.Bytes += int64(k.Size)
	return k, true, nil
}

// put gives the store a chunk that was read, and remembers it.
func (c *cacher) put(ctx context.Context, packer *store.Packer, ids map[int]chunk.ID, i int, pos uint64, data []byte, last bool) error {
	id := algorithm(c.opts.Flags).Sum(data)
	missing, err := c.store.Missing(ctx, []chunk.ID{id})
	if err != nil {
		return err
	}
	var packed store.Packed
	if len(missing) > 0 {
		packed = packer.Pack(nil, data)
		if err := c.store.Put(ctx, id, packed); err != nil {
			return err
		}
	}
	size := uint64(len(data))
	key, ok, err := c.fingerprintOf(pos, min(keySpan, c.src.size-pos))
	if err != nil {
		return err
	}
	all, whole, err := c.fingerprintOf(pos, size)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	ids[i] = id
	if ok && whole {
		c.fresh[key] = makecache.Chunk{Size: size, Last: last, All: all, ID: id}
	}
	count := &c.result.Reused
	if len(missing) > 0 {
		count = &c.result.New
		c.result.Packed += int64(len(packed.Data))
	}
	count.Chunks++
	count.Bytes += int64(size)
	return nil
}

// keySpan is how many bytes of an archive the key of a chunk stands for.
const keySpan = 4096

// fingerprintOf returns the fingerprint of a part of the archive, false if a file in it has
// changed too recently to be told from a later state.
func (c *cacher) fingerprintOf(pos, n uint64) (p makecache.Fingerprint, ok bool, err error) {
	h := sha256.New()
	var buf []byte
	for end := pos + n; pos < end; {
		k, f := c.src.span(pos, end-pos)
		var head [8 * 8]byte
		put := func(i int, v uint64) { binary.LittleEndian.PutUint64(head[8*i:], v) }
		put(0, k)
		if f == nil {
			buf = append(buf[:0], make([]byte, k)...)
			if err := c.src.read(buf, pos, nil); err != nil {
				return p, false, err
			}
			h.Write(head[:])
			h.Write(buf)
		} else {
			if f.state.ctime > c.recent {
				return p, false, nil
			}
			put(1, 1)
			put(2, pos-f.Contents)
			for i, v := range []uint64{f.state.dev, f.state.ino, uint64(f.state.size), uint64(f.state.mtime), uint64(f.state.ctime)} {
				put(3+i, v)
			}
			h.Write(head[:])
		}
		pos += k
	}
	return makecache.Fingerprint(h.Sum(nil)), true, nil
}

// header is what the cache file of these options begins with.
func (c *cacher) header() []byte {
	b := []byte("ociv2-sync make cache 1\n")
	for _, v := range []uint64{uint64(c.opts.Flags), c.opts.Params.Min, c.opts.Params.Avg, c.opts.Params.Max} {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return b
}
