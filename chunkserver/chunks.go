package chunkserver

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/store"
)

// Chunks returns the [Upstream] of a proxy for a chunk store that has no files, such as
// one that casync's protocol reaches: the names of chunks, compressed or not, in the
// directories of casync's layout (docs/format/chunks.md, section 4), at the top and in the
// directory dir, as which casync looks for them beside an index. Other names are those of
// indexes, .caidx and .caibx, which index returns: its errors, and limit, are those of
// [Upstream].
func Chunks(from store.Store, dir string, index func(ctx context.Context, name string, limit int64) ([]byte, error)) Upstream {
	return &chunks{
		from:   from,
		dir:    dir + "/",
		index:  index,
		packer: sync.OnceValue(func() *store.Packer { return store.NewPacker(store.Zstd, largest) }),
		absent: make(map[chunk.ID]time.Time),
	}
}

const (
	largest    = 256 << 10       // bytes, of casync's chunks as it makes them by default
	absentFor  = 2 * time.Second // that a chunk is taken for absent without asking
	absentMost = 4096            // chunks that are
)

type chunks struct {
	from   store.Store
	dir    string // with a slash
	index  func(ctx context.Context, name string, limit int64) ([]byte, error)
	packer func() *store.Packer

	mu sync.Mutex
	// absent has the chunks that the store had not, and when: who does not get a chunk
	// compressed asks for it uncompressed, and casync's protocol answers each question
	// once in a connection.
	absent map[chunk.ID]time.Time
}

// ReadFile implements [Upstream].
func (c *chunks) ReadFile(ctx context.Context, name string, limit int64) ([]byte, error) {
	if ext := path.Ext(name); ext == ".caidx" || ext == ".caibx" {
		return c.index(ctx, name, limit)
	}
	name = strings.TrimPrefix(name, c.dir)
	base, packed := strings.CutSuffix(path.Base(name), ".cacnk")
	id, err := chunk.ParseID(base)
	if err != nil || path.Dir(name) != base[:4] || base != id.String() {
		return nil, fmt.Errorf("chunkserver: %s: %s: %w", c.from, name, store.ErrNotFound)
	}
	if c.isAbsent(id) {
		return nil, store.NotFound(c.from.String(), id)
	}
	p, err := c.from.Get(ctx, id, limit)
	switch {
	case errors.Is(err, store.ErrNotFound):
		c.noteAbsent(id)
		return nil, err
	case err != nil:
		return nil, err
	case packed == (p.Form == store.Compressed):
		return p.Data, nil
	case packed:
		return c.packer().Pack(nil, p.Data).Data, nil
	}
	return store.Check(nil, p, id)
}

func (c *chunks) isAbsent(id chunk.ID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	when, ok := c.absent[id]
	return ok && time.Since(when) < absentFor
}

func (c *chunks) noteAbsent(id chunk.ID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.absent) >= absentMost {
		clear(c.absent)
	}
	c.absent[id] = time.Now()
}
