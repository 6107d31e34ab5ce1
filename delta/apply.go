package delta

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/ociv2-sync/ociv2-sync/internal/deflate"
)

// Content is a content of a tree: an entry of its content table.
type Content struct {
	Digest Digest
	Size   int64
}

// Output takes one content.
type Output interface {
	io.Writer
	// Finish is called once, after the last Write. With nil the content is
	// complete and has its digest. Otherwise what was written is of no use, and
	// the error says why. An error of Finish ends Apply.
	Finish(err error) error
}

// Job is what Apply works on.
type Job struct {
	Head *Head
	// Contents is the content table of the new tree.
	Contents []Content
	// Base opens a base, given by its index in Head.Bases. A base that cannot
	// be had costs the contents that are made of it. Apply closes the base.
	Base func(ctx context.Context, base int) (BaseReader, error)
	// Output returns where the content of a record goes, nil if it is not
	// wanted.
	Output func(ctx context.Context, record int) (Output, error)
}

// BaseReader is an open base.
type BaseReader interface {
	io.ReaderAt
	io.Closer
}

// Apply reads a body from r, which begins after the head, and makes the
// contents that are wanted, in the order of the records.
//
// An error is ErrMalformed, or what reading r, Output, Finish or ctx gave: the
// records that had no Finish until then were not made. Anything that concerns
// one content alone goes to its Finish: ErrBase, ErrContent or what its Write
// gave.
func Apply(ctx context.Context, r io.Reader, job Job) error {
	groups, in := newSources(r)
	a := &applier{job: job, player: player{in: in, buf: make([]byte, 64<<10)}}
	for i := range job.Head.Records {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := a.record(ctx, i); err != nil {
			// What a decompressor makes of a broken read is no fault of the delta.
			if groups.err != nil && !errors.Is(groups.err, io.EOF) {
				return groups.err
			}
			return err
		}
	}
	return a.end(groups)
}

// end checks that nothing follows the last record.
func (a *applier) end(g *groupReader) error {
	for i := range a.in {
		if _, err := a.in[i].ReadByte(); err == nil {
			return malformed("something follows the last content")
		} else if !errors.Is(err, io.EOF) {
			if g.err != nil && !errors.Is(g.err, io.EOF) {
				return g.err
			}
			return malformed("%w", err)
		}
	}
	return nil
}

type applier struct {
	job  Job
	gzip deflate.FileWriter // of one record after the other
	zip  deflate.ZipWriter
	player
}

// record makes, or passes over, the content of one record.
func (a *applier) record(ctx context.Context, i int) error {
	rec := &a.job.Head.Records[i]
	if rec.Target >= len(a.job.Contents) {
		return malformed("record %d is for content %d of %d", i, rec.Target, len(a.job.Contents))
	}
	want := a.job.Contents[rec.Target]
	size := want.Size
	if rec.method != methodPlain {
		size = rec.size
	}
	var out Output
	if a.job.Head.Usable(i) {
		var err error
		if out, err = a.job.Output(ctx, i); err != nil {
			return err
		}
	}
	if out == nil {
		_, err := a.play(size, zeros{}, io.Discard)
		return err
	}
	old, closeBases, soft := a.bases(ctx, rec)
	fin, finErr := a.newFinisher(rec, want.Size, out)
	soft = errors.Join(soft, finErr)
	var w io.Writer = fin
	if soft != nil {
		old, w = zeros{}, io.Discard
	}
	playSoft, err := a.play(size, old, w)
	soft = errors.Join(soft, playSoft, closeBases())
	if soft == nil && err == nil {
		soft = fin.finish(want.Digest)
	}
	if ferr := out.Finish(errors.Join(soft, err)); err == nil {
		err = ferr
	}
	return err
}

// zeros is a base of any length, for contents that nobody wants.
type zeros struct{}

func (zeros) ReadAt(p []byte, _ int64) (int, error) { return len(p), nil }

// bases opens the bases of a record as one: their bytes follow each other.
func (a *applier) bases(ctx context.Context, rec *Record) (old io.ReaderAt, closeAll func() error, err error) {
	var parts joined
	closeAll = func() error {
		var err error
		for _, p := range parts {
			err = errors.Join(err, p.Close())
		}
		return err
	}
	end, room := int64(0), int64(maxExpanded)
	for _, b := range rec.Bases {
		r, size, err := a.openBase(ctx, b, room)
		if err != nil {
			return nil, closeAll, fmt.Errorf("%w: %w", ErrBase, err)
		}
		end += size
		if a.job.Head.Bases[b].filter != filterNone {
			room -= size
		}
		parts = append(parts, part{r, end})
	}
	return parts, closeAll, nil
}

// part is a base and where it ends among the joined ones.
type part struct {
	BaseReader
	end int64
}

// joined reads bases one after the other.
type joined []part

func (j joined) ReadAt(p []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, fmt.Errorf("%w: before its beginning", ErrBase)
	}
	start := int64(0)
	for _, b := range j {
		if n < len(p) && off < b.end {
			m := int(min(int64(len(p)-n), b.end-off))
			got, err := b.ReadAt(p[n:n+m], off-start)
			if got < m {
				return n + got, fmt.Errorf("%w: %w", ErrBase, unexpectedEnd(err))
			}
			n += m
			off += int64(m)
		}
		start = b.end
	}
	if n < len(p) {
		return n, fmt.Errorf("%w: beyond its end", ErrBase)
	}
	return n, nil
}

func unexpectedEnd(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
