package assemble

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/ociv2-sync/ociv2-sync/delta"
	"github.com/ociv2-sync/ociv2-sync/seed"
)

// Delta is the delta of a plan.
type Delta struct {
	Head *delta.Head
	// Body opens what follows the head.
	Body func(context.Context) (io.ReadCloser, error)
	// Broken, if not nil, is called when the body breaks the format: what was
	// kept of it is of no use.
	Broken func()
	// Only says that what the delta does not make may not come from chunks.
	Only bool
}

// applyDelta makes the contents that the plan leaves to the delta and returns
// those that it did not make.
func (b *builder) applyDelta(ctx context.Context) (lost []int32, err error) {
	if b.job.Delta == nil {
		return nil, nil
	}
	byRecord := make(map[int]int32)
	table := make([]delta.Content, len(b.job.Plan.Contents))
	for i := range b.job.Plan.Contents {
		c := &b.job.Plan.Contents[i]
		table[i] = delta.Content{Digest: *c.Digest, Size: c.Size}
		if c.Seed == seed.None && c.Record != seed.None {
			byRecord[int(c.Record)] = int32(i)
		}
	}
	if len(byRecord) == 0 {
		return nil, nil
	}
	err = b.readDelta(ctx, table, byRecord, &lost)
	if errors.Is(err, delta.ErrMalformed) {
		b.opts.Logger.Warn("the delta is damaged, fetching what it does not make", "reason", err)
		if b.job.Delta.Broken != nil {
			b.job.Delta.Broken()
		}
		err = nil
	}
	for _, i := range byRecord { // those after the end of a damaged delta
		lost = append(lost, i)
		b.lose(NotMade, 1)
	}
	return lost, err
}

// readDelta reads the delta of the plan, and takes from byRecord what it has made
// or lost.
func (b *builder) readDelta(ctx context.Context, table []delta.Content, byRecord map[int]int32, lost *[]int32) (err error) {
	body, err := b.job.Delta.Body(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, body.Close()) }()
	at := b.cursor()
	defer at.close()
	return delta.Apply(ctx, body, delta.Job{
		Head:     b.job.Delta.Head,
		Contents: table,
		Base: func(ctx context.Context, i int) (delta.BaseReader, error) {
			return OpenBase(ctx, b.job.Plan.Bases[i], b.job.Delta.Head.Bases[i].Size)
		},
		Output: func(ctx context.Context, i int) (delta.Output, error) {
			c, ok := byRecord[i]
			if !ok {
				return nil, nil
			}
			delete(byRecord, i)
			f, err := at.create(b.job.Plan.Contents[c].Nodes[0])
			if err != nil {
				return nil, err
			}
			return &deltaFile{File: f, ctx: ctx, b: b, at: at, index: c, lost: lost}, nil
		},
	})
}

// deltaFile is the first file of a content that a delta makes.
type deltaFile struct {
	*os.File
	ctx   context.Context //nolint:containedctx // that of applyDelta, which this does not outlive
	b     *builder
	at    *cursor
	index int32
	lost  *[]int32
}

// Finish implements delta.Output.
func (f *deltaFile) Finish(err error) error {
	c := &f.b.job.Plan.Contents[f.index]
	if err == nil {
		f.b.made.Add(1)
		f.b.madeBytes.Add(c.Size)
		return f.b.complete(f.ctx, f.at, c, f.b.places(c), f.File)
	}
	if cerr := f.Close(); cerr != nil {
		return f.b.at(c.Nodes[0], cerr)
	}
	// Only the disk fails for good; the rest costs this content's chunks.
	if _, disk := errors.AsType[*os.PathError](err); disk && !errors.Is(err, delta.ErrBase) {
		return f.b.at(c.Nodes[0], err)
	}
	f.b.opts.Logger.Warn("the delta does not make a content, fetching it instead", "content", fmt.Sprintf("%x", *c.Digest), "reason", err)
	f.b.lose(NotMade, 1)
	*f.lost = append(*f.lost, f.index)
	return f.at.remove(c.Nodes[0])
}

// maxBaseInMemory bounds the bases that are read as a whole, because their
// seed cannot be read at any place.
const maxBaseInMemory = 16 << 20

// OpenBase opens a base of size bytes where a seed has it.
func OpenBase(ctx context.Context, p seed.Place, size int64) (delta.BaseReader, error) {
	r, err := p.Open(ctx)
	if err != nil {
		return nil, err
	}
	if f, ok := r.(delta.BaseReader); ok {
		return f, nil
	}
	defer r.Close()
	if size > maxBaseInMemory {
		return nil, fmt.Errorf("a base of %d bytes that can only be read from its beginning", size)
	}
	b, err := io.ReadAll(io.LimitReader(r, size))
	if err != nil {
		return nil, err
	}
	return memoryBase{bytes.NewReader(b)}, nil
}

// memoryBase is a base that was read as a whole.
type memoryBase struct{ *bytes.Reader }

func (memoryBase) Close() error { return nil }
