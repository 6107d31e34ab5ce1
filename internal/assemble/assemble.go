package assemble

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"runtime"

	"golang.org/x/sync/errgroup"

	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/internal/objects"
	"github.com/ociv2-sync/ociv2-sync/internal/tree"
	"github.com/ociv2-sync/ociv2-sync/seed"
	"github.com/ociv2-sync/ociv2-sync/store"
	"github.com/ociv2-sync/ociv2-sync/toc"
)

// ErrContent means that chunks with the right ids did not make a content with
// the right SHA-256: the chunk index and the table of contents of the image
// contradict each other.
var ErrContent = errors.New("content does not match the table of contents")

// ErrDelta means that a delta is damaged, or forged, or that its bases have
// changed, and that contents may come from nowhere else.
var ErrDelta = errors.New("the delta does not make the image")

// Cache keeps fetched chunks until the image is complete.
type Cache interface {
	store.Store
	store.Writer
	store.Deleter
}

// Job is what Run builds and from what.
type Job struct {
	// Nodes describe the image.
	Nodes []toc.Node
	// Plan says where its contents come from.
	Plan *seed.Plan
	// Space returns the chunks of the image. It is called only when a seed
	// lost a content that the plan counted on.
	Space func(context.Context) (*seed.Space, error)
	// Algorithm makes the chunk ids of the plan.
	Algorithm chunk.Algorithm
	// Store has the chunks that the plan fetches.
	Store store.Store
	// Near says that Store answers at once, as a directory does: asking for many
	// chunks at a time then gains nothing, verifying several together does.
	Near bool
	// Delta is the delta of the plan; nil for a plan without one.
	Delta *Delta
	// Cache receives every chunk that was fetched, and has those that the
	// plan calls cached.
	Cache Cache
}

// Options are the options of Run. The zero value works.
type Options struct {
	// Jobs is the number of chunks requested at a time; 0 means 16.
	Jobs int
	// Copies is the number of contents copied from seeds at a time; 0 means
	// GOMAXPROCS.
	Copies int
	// Logger is told of seeds that changed; nil is silent.
	Logger *slog.Logger
	// Progress, if not nil, is called from several goroutines with the bytes
	// received and the bytes of contents completed since the last call.
	Progress func(received, completed int64)
	// UIDShift is added to every owner and group.
	UIDShift uint32
	// Objects, if not nil, are the files that dest shares with the trees beside it; what
	// is new becomes one of them.
	Objects *objects.Set
	// NoClone copies bytes also where the filesystem could share blocks.
	NoClone bool
	// ContentsOnly makes no tree but a file for each content, in dest itself,
	// called what ContentName says.
	ContentsOnly bool
}

// Stats is what a run did.
type Stats struct {
	// Copied and CopiedBytes count contents taken from seeds.
	Copied      int
	CopiedBytes int64
	// Linked and LinkedBytes count files that are objects; they are not in Copied.
	Linked      int
	LinkedBytes int64
	// Lost counts contents, and chunks of others, that a seed no longer had or a
	// delta did not make, and that were fetched, by what was the matter; nil if
	// there were none.
	Lost map[Loss]int
	// Fetched and FetchedBytes count chunks received and their stored bytes.
	Fetched      int
	FetchedBytes int64
	// Made and MadeBytes count contents made by a delta.
	Made      int
	MadeBytes int64
	// Kept and KeptBytes count the files that an update found in place, Changed the nodes
	// that it made or gave other metadata, Removed the names that it removed, each
	// directory once.
	Kept      int
	KeptBytes int64
	Changed   int
	Removed   int
	// Unrestored are the attributes that this process may not set or the
	// filesystem cannot hold.
	Unrestored []tree.Unrestored
}

// Run builds the image in dest, which is empty and stays open. When it fails,
// dest holds a part of the image and is of no use.
//
// Errors match store.ErrNotFound for a chunk the repository lacks,
// store.ErrCorrupt for one whose bytes are wrong, and ErrContent.
func Run(ctx context.Context, job Job, dest *tree.Dir, opts Options) (*Stats, error) {
	b := newBuilder(job, dest, opts)
	if !opts.ContentsOnly {
		if err := b.skeleton(ctx); err != nil {
			return nil, err
		}
	}
	lost, err := b.contents(ctx)
	if err != nil {
		return nil, err
	}
	if len(lost) > 0 {
		if job.Delta != nil && job.Delta.Only {
			return nil, fmt.Errorf("%d contents cannot be made: %w", len(lost), ErrDelta)
		}
		if err := b.recover(ctx, lost); err != nil {
			return nil, err
		}
	}
	if !opts.ContentsOnly {
		if err := b.finish(ctx); err != nil {
			return nil, err
		}
	}
	return b.result(), nil
}

// newBuilder returns a builder with the defaults of opts filled in.
func newBuilder(job Job, dest *tree.Dir, opts Options) *builder {
	if opts.Jobs <= 0 {
		opts.Jobs = 16
	}
	if opts.Copies <= 0 {
		opts.Copies = runtime.GOMAXPROCS(0)
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.Progress == nil {
		opts.Progress = func(int64, int64) {}
	}
	return &builder{job: job, opts: opts, dest: dest, parent: parents(job.Nodes), absent: make(map[int32]bool), apart: make(map[int32]bool), bare: !dest.Inherits()}
}

// ContentName is the name of the file that has the content with the SHA-256
// digest where Options.ContentsOnly is set.
func ContentName(digest [32]byte) string { return hex.EncodeToString(digest[:]) }

// contents runs all parts of the plan side by side and returns the contents
// that their seeds or the delta did not have after all.
func (b *builder) contents(ctx context.Context) (lost []int32, err error) {
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return b.fetch(gctx) })
	g.Go(func() error {
		var err error
		lost, err = b.copySeeds(gctx)
		return err
	})
	var unmade []int32
	g.Go(func() error {
		var err error
		unmade, err = b.applyDelta(gctx)
		return err
	})
	err = g.Wait()
	return append(lost, unmade...), err
}

// recover fetches what seeds lost since the plan was made.
func (b *builder) recover(ctx context.Context, lost []int32) error {
	space, err := b.job.Space(ctx)
	if err != nil {
		return err
	}
	b.job.Algorithm = space.Algorithm
	// What the first round fetched is complete already; only the lost
	// contents are missing from a plan of their own.
	again := &seed.Plan{}
	for _, i := range lost {
		c := b.job.Plan.Contents[i]
		c.Seed, c.Path, c.Record = seed.None, "", seed.None
		again.Contents = append(again.Contents, c)
	}
	fetched := make(map[chunk.ID]bool, len(b.job.Plan.Chunks))
	for i := range b.job.Plan.Chunks {
		if c := &b.job.Plan.Chunks[i]; c.Origin != seed.Seeded {
			fetched[c.ID] = true
		}
	}
	layout, err := toc.NewLayout(b.job.Nodes) // rather than to keep one
	if err != nil {
		return err
	}
	err = again.Cover(b.job.Nodes, layout, space, func(id chunk.ID) bool { return fetched[id] })
	if err != nil {
		return err
	}
	b.job.Plan = again
	return b.fetch(ctx)
}

// parents returns the index of each node's directory, -1 for the root.
func parents(nodes []toc.Node) []int32 {
	parent := make([]int32, len(nodes))
	var dirs []int32
	for i := range nodes {
		d := nodes[i].Depth
		parent[i] = -1
		if d > 0 {
			parent[i] = dirs[d-1]
		}
		dirs = append(dirs[:d], int32(i))
	}
	return parent
}

// bySeed returns the contents that seeds have, grouped by the directory of
// their first node: one group needs its directory opened once.
func (b *builder) bySeed() [][]int32 {
	var groups [][]int32
	at := make(map[int32]int)
	for i := range b.job.Plan.Contents {
		c := &b.job.Plan.Contents[i]
		if c.Seed == seed.None {
			continue
		}
		dir := b.parent[c.Nodes[0]]
		k, ok := at[dir]
		if !ok {
			k = len(groups)
			at[dir] = k
			groups = append(groups, nil)
		}
		groups[k] = append(groups[k], int32(i))
	}
	return groups
}

// at wraps an error with the path of the node it concerns.
func (b *builder) at(i int32, err error) error {
	return fmt.Errorf("%q: %w", toc.Path(b.job.Nodes, int(i)), err)
}
