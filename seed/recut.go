package seed

import (
	"cmp"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/toc"
)

// baseLimit is how many files of seeds are read in search of one content's
// chunks.
const baseLimit = 3

// bigSize is the size from which a file can be expected to have a chunk all
// to itself, in bytes: that of casync's smallest chunks.
const bigSize = 16 << 10

// bigFiles are the files of a seed in which chunks may be found, as its Find
// met them.
type bigFiles struct {
	mu    sync.Mutex
	files []candidate
}

func (b *bigFiles) reset() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.files = nil
}

func (b *bigFiles) add(c candidate) {
	if c.size < bigSize {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.files = append(b.files, c)
}

func (b *bigFiles) big() []candidate {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.files
}

// base is a file of a seed that may share chunks with a content.
type base struct {
	seed int
	candidate
}

// Recut looks for chunks that the plan fetches inside files of the seeds, and
// makes those that it finds Seeded. It is called after Cover.
//
// Where a content is missing, an older version of it is often there: in the
// same place or another, under the same name but for digits. Such files are
// cut into chunks as the image was, beginning where the image has its first
// cut in the content. From there the cuts are the same up to the first
// difference, and soon again after it, so neither the index nor the table of
// contents of what the file belongs to is needed; and it may be any file. Only
// chunks of the sizes looked for are hashed. Of each content's kin the nearest
// few are read.
//
// A chunk that holds more than one content's bytes is not looked for: the
// metadata between them, with the times of the changed one, makes it new.
//
// Seeds that have chunks rather than files, as chunk stores do, are asked first,
// for all chunks.
func (p *Plan) Recut(ctx context.Context, nodes []toc.Node, space *Space, log *slog.Logger) error {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if err := p.askHolders(ctx, space, log); err != nil {
		return err
	}
	var kin map[string][]base
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	wanted := make(map[chunk.ID]bool)
	for i := range p.Chunks {
		if p.Chunks[i].Origin == Fetched {
			wanted[p.Chunks[i].ID] = true
		}
	}
	var lost passed
	var told sync.Map
	defer lost.report(log, "wanted for", "parts of other files")
	found := make([]map[chunk.ID]place, len(p.Missing))
	at := 0
	for k, m := range p.Missing {
		c := &p.Contents[m]
		var inside []int
		inside, at = p.inside(c, at, wanted)
		first := at
		if len(inside) == 0 {
			continue
		}
		if kin == nil {
			kin = p.kin()
		}
		bases := nearest(kin, toc.Path(nodes, int(c.Nodes[0])), c.Size)
		if len(bases) == 0 {
			continue
		}
		g.Go(func() error {
			f := finder{plan: p, space: space, log: log, lost: &lost, told: &told, left: make(map[chunk.ID]uint64), found: make(map[chunk.ID]place)}
			for _, i := range inside {
				f.left[p.Chunks[i].ID] = p.Chunks[i].Size
			}
			found[k] = f.found
			// From the first cut in the content, also if that chunk is at hand: where
			// the search begins must not depend on what was fetched before.
			return f.search(ctx, bases, int64(p.Chunks[first].Offset-c.At))
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	p.reseed(found)
	return nil
}

// place is where a seed has a chunk.
type place struct {
	base
	at int64
}

// reseed gives every chunk that was found its place.
func (p *Plan) reseed(found []map[chunk.ID]place) {
	all := make(map[chunk.ID]place)
	for _, f := range found {
		for id, at := range f {
			if _, ok := all[id]; !ok {
				all[id] = at
			}
		}
	}
	for i := range p.Chunks {
		c := &p.Chunks[i]
		if f, ok := all[c.ID]; ok {
			c.Origin, c.Seed, c.Path, c.At = Seeded, f.seed, f.path, f.at
		}
	}
}

// inside returns the chunks that are wanted and lie within a content. from is
// what the call for the content before it in Missing returned.
func (p *Plan) inside(c *Content, from int, wanted map[chunk.ID]bool) (chunks []int, next int) {
	for from < len(p.Chunks) && p.Chunks[from].Offset < c.At {
		from++
	}
	for next = from; next < len(p.Chunks); next++ {
		k := &p.Chunks[next]
		if k.Offset+k.Size > c.At+uint64(c.Size) {
			break
		}
		if wanted[k.ID] {
			chunks = append(chunks, next)
		}
	}
	return chunks, from
}

// kin returns the big files of all seeds by their kinship.
func (p *Plan) kin() map[string][]base {
	all := make(map[string][]base)
	for i, s := range p.Seeds {
		b, ok := s.(interface{ big() []candidate })
		if !ok {
			continue
		}
		for _, c := range b.big() {
			k := kinship(c.path)
			all[k] = append(all[k], base{i, c})
		}
	}
	return all
}

// kinship returns what versions of one file have in common in their paths: the
// last component, without regard to digits and to what else separates the
// parts of version numbers.
func kinship(p string) string {
	name := path.Base(p)
	var b strings.Builder
	skipped := false
	for _, r := range name {
		if strings.ContainsRune("0123456789.-_+~", r) {
			skipped = true
			continue
		}
		if skipped && b.Len() > 0 {
			b.WriteByte('.')
		}
		skipped = false
		b.WriteRune(r)
	}
	if b.Len() == 0 {
		return name
	}
	return b.String()
}

// nearest returns the few files that are most likely an older version of the
// file at path: first those at the same path, then those of the same name,
// then those of the nearest size.
func nearest(kin map[string][]base, at string, size int64) []base {
	bases := slices.Clone(kin[kinship(at)])
	rank := func(b base) int {
		switch {
		case b.path == at:
			return 0
		case path.Base(b.path) == path.Base(at):
			return 1
		}
		return 2
	}
	slices.SortStableFunc(bases, func(a, b base) int {
		if c := cmp.Compare(rank(a), rank(b)); c != 0 {
			return c
		}
		return cmp.Compare(max(a.size-size, size-a.size), max(b.size-size, size-b.size))
	})
	return bases[:min(len(bases), baseLimit)]
}

// finder looks for the chunks of one content.
type finder struct {
	plan  *Plan
	space *Space
	log   *slog.Logger
	lost  *passed             // files that could not be read
	told  *sync.Map           // which these are
	left  map[chunk.ID]uint64 // not found yet; their sizes
	found map[chunk.ID]place
}

// search reads files one after the other until everything is found.
func (f *finder) search(ctx context.Context, bases []base, first int64) error {
	for _, b := range bases {
		if len(f.left) == 0 {
			return nil
		}
		err := f.cut(ctx, b, first)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			f.log.Info("seed file passed over", "seed", f.plan.Seeds[b.seed], "file", b.path, "reason", err)
			if _, told := f.told.LoadOrStore(b, nil); !told {
				f.lost.add(b.path, err)
			}
		}
	}
	return nil
}

// cut cuts a file into chunks from the offset first on.
func (f *finder) cut(ctx context.Context, b base, first int64) error {
	r, err := f.plan.Seeds[b.seed].Open(ctx, b.path)
	if err != nil {
		return err
	}
	defer r.Close()
	file, ok := r.(*os.File)
	if !ok {
		return nil // parts of it cannot be read
	}
	if first >= b.size {
		first = 0
	}
	return cutFile(ctx, file, first, b.size, f.space, f.left, func(id chunk.ID, at int64) { f.found[id] = place{b, at} })
}

// cutFile cuts a file of size bytes into chunks from the offset first on, and
// calls found with those of left, which it takes out of it: their sizes by their
// ids.
func cutFile(ctx context.Context, file io.ReaderAt, first, size int64, space *Space, left map[chunk.ID]uint64, found func(chunk.ID, int64)) error {
	sizes := make(map[uint64]struct{}, len(left))
	for _, size := range left {
		sizes[size] = struct{}{}
	}
	ch, err := chunk.NewChunker(io.NewSectionReader(file, first, size-first), space.Params)
	if err != nil {
		return err
	}
	for at := first; len(left) > 0; {
		if err := ctx.Err(); err != nil {
			return err
		}
		data, err := ch.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if _, ok := sizes[uint64(len(data))]; ok {
			id := space.Algorithm.Sum(data)
			if _, ok := left[id]; ok {
				delete(left, id)
				found(id, at)
			}
		}
		at += int64(len(data))
	}
	return nil
}
