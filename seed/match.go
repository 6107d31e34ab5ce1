package seed

import (
	"context"
	"log/slog"
	"slices"
	"sync"

	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/toc"
)

// Match asks the seeds, in their order, for the contents of the tree and
// returns a plan in which every content that was found has its source.
//
// A seed that cannot be used is passed over; log is told, unless it is nil.
func Match(ctx context.Context, nodes []toc.Node, seeds []Seed, log *slog.Logger) (*Plan, error) {
	s, err := Look(ctx, nodes, seeds, log)
	if err != nil {
		return nil, err
	}
	return s.Find(ctx)
}

// looker is a seed that knows what it has to read before it reads it.
type looker interface {
	// look reports what the seed is known to hold, as Find does, and calls
	// unread with the size of every file that may hold more, with anySize where
	// that is not known, and with 0 if read has to do something else. read reads those
	// files and reports the rest.
	look(ctx context.Context, want *Wanted, found func(Digest, string), unread func(size int64)) (read func(context.Context) error, err error)
}

// lookThrough is Find of a seed that is a looker.
func lookThrough(ctx context.Context, s looker, want *Wanted, found func(Digest, string)) error {
	read, err := s.look(ctx, want, found, func(int64) {})
	if err != nil {
		return err
	}
	return read(ctx)
}

// Search is a look through seeds that has not read any file yet.
type Search struct {
	plan *Plan
	want Wanted // whose numbers of contents are the plan's
	log  *slog.Logger
	mu   sync.Mutex // guards the contents of plan

	reads []read
	sizes map[int64]struct{} // of the files that are to be read
	blind bool               // there is a seed that cannot tell their sizes
}

// read is what is left to do for a seed.
type read struct {
	seed Seed
	find func(context.Context) error
}

// Look asks the seeds what they are known to hold. Find then reads what has to
// be read to know more.
func Look(ctx context.Context, nodes []toc.Node, seeds []Seed, log *slog.Logger) (*Search, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	contents, index := distinct(nodes)
	p := &Plan{Seeds: seeds, Contents: contents}
	s := &Search{plan: p, log: log, sizes: make(map[int64]struct{})}
	if len(seeds) > 0 {
		s.want.setIndexed(contents, index)
		for i := range contents {
			c := &contents[i]
			s.want.name(c.Size, nodes[c.Nodes[0]].Name)
		}
	}
	for i, sd := range seeds {
		if s.want.Left() == 0 {
			break
		}
		found := func(d Digest, path string) {
			s.mu.Lock()
			defer s.mu.Unlock()
			c := s.content(d)
			c.Seed, c.Path = int32(i), path
		}
		if h, ok := sd.(holder); ok && h.scans() {
			s.blind = true
		}
		l, ok := sd.(looker)
		if !ok {
			s.blind = true
			s.reads = append(s.reads, read{sd, func(ctx context.Context) error { return sd.Find(ctx, &s.want, found) }})
			continue
		}
		find, err := l.look(ctx, &s.want, found, func(size int64) {
			s.blind = s.blind || size == anySize
			s.sizes[size] = struct{}{}
		})
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			log.Warn("seed passed over", "seed", sd, "reason", err)
			continue
		}
		s.reads = append(s.reads, read{sd, find})
	}
	return s, nil
}

// content returns the content with a digest that is one of the plan's.
func (s *Search) content(d Digest) *Content {
	i, _ := s.want.index.Find(&d)
	return &s.plan.Contents[i]
}

// Reads reports whether Find has files to read.
func (s *Search) Reads() bool { return s.blind || len(s.sizes) > 0 }

// Known returns the plan as far as it is known: what is read yet may add sources to its contents.
// Nothing may be done with it while Find runs.
func (s *Search) Known() *Plan { return s.plan }

// Certain returns a plan of contents that are missing whatever Find finds, for
// Cover and Recut, so that their chunks can be fetched while seeds are read.
// The plan that Find returns has all these chunks: a content whose chunks can
// be chosen is certain only where the byte space has it once.
func (s *Search) Certain(nodes []toc.Node, layout *toc.Layout) *Plan {
	early := &Plan{Seeds: s.plan.Seeds}
	if s.blind {
		return early
	}
	for _, c := range s.plan.Contents {
		if _, unread := s.sizes[c.Size]; c.Seed == None && !unread {
			early.Contents = append(early.Contents, c)
		}
	}
	early.miss()
	places := early.places(nodes, layout) // Missing is all
	single := early.Contents[:0]
	for i, c := range early.Contents {
		if len(places.of(i)) == 1 {
			single = append(single, c)
		}
	}
	early.Contents = single
	early.miss()
	return early
}

// Sure leaves in the plan, which Certain made and Recut is done with, only the
// chunks that the space has once. Of another, a seed may turn out to have a
// further place.
func (p *Plan) Sure(space *Space) {
	count := make(map[chunk.ID]int, len(p.Chunks))
	for i := range p.Chunks {
		count[p.Chunks[i].ID] = 0
	}
	for i := range space.spans {
		if n, ok := count[space.spans[i].ID]; ok {
			count[space.spans[i].ID] = n + 1
		}
	}
	p.Chunks = slices.DeleteFunc(p.Chunks, func(c Chunk) bool { return count[c.ID] > 1 })
}

// Find reads the seeds, each only for what the others are not known to have,
// and returns the plan.
func (s *Search) Find(ctx context.Context) (*Plan, error) {
	// Also where nothing is wanted any more: what was found may have to be got out
	// of archives.
	for _, r := range s.reads {
		err := r.find(ctx)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			s.log.Warn("seed passed over", "seed", r.seed, "reason", err)
		}
	}
	s.plan.miss()
	return s.plan, nil
}
