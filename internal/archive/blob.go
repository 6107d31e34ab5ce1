package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/ociv2-sync/ociv2-sync/caibx"
	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/internal/assemble"
	"github.com/ociv2-sync/ociv2-sync/internal/durable"
	"github.com/ociv2-sync/ociv2-sync/internal/ingest"
	"github.com/ociv2-sync/ociv2-sync/internal/tree"
)

// BlobOptions say how a blob is written.
type BlobOptions struct {
	// Seeds are files and block devices that may have chunks of the blob. What
	// has an index beside it, its name with .caibx, is not read as a whole.
	Seeds []string
	// SeedOutput also takes chunks from the file that is written over.
	SeedOutput bool
	// PunchHoles leaves blocks of zeros out of the file.
	PunchHoles bool
	// Reflink shares blocks with the seeds where the filesystem can and the
	// bytes lie alike.
	Reflink bool
	// DryRun writes and fetches nothing; what it says is where the chunks would
	// come from.
	DryRun bool
	// Jobs is the number of chunks requested at a time.
	Jobs int
}

// Extracted says where the chunks of a blob came from.
type Extracted struct {
	InPlace int // were there already
	Seeded  int // were in seeds, or elsewhere in the output
	Fetched int // came from the store
}

// ExtractBlob writes the blob that an index describes to dest. A file that is
// not there appears when it is complete. A file or block device that is there
// is changed in place: chunks that are in their place stay, others that it has
// are moved, and it gets the blob's length. An error in the middle of that
// leaves some chunks of the old and some of the new, and is a *[tree.PartialError].
func ExtractBlob(ctx context.Context, in *Input, dest string, opts BlobOptions) (_ *Extracted, err error) {
	w := &blobWriter{ctx: ctx, in: in, x: in.Index, opts: opts, places: make(map[chunk.ID][]int)}
	for i, c := range w.x.Chunks {
		w.places[c.ID] = append(w.places[c.ID], i)
	}
	defer func() { err = errors.Join(err, w.close()) }()
	mode := os.O_RDWR
	if opts.DryRun {
		mode = os.O_RDONLY
	}
	f, err := os.OpenFile(dest, mode, 0)
	switch {
	case err == nil:
		w.out = f
		defer func() { err = errors.Join(err, f.Close()) }()
		if err = w.inPlace(); err != nil && w.changed {
			err = &tree.PartialError{Changed: []string{dest}, Err: err}
		}
	case errors.Is(err, fs.ErrNotExist) && opts.DryRun:
		var from []blobSeed
		if from, err = w.open(&caibx.Index{}); err == nil {
			err = w.fill(from)
		}
	case errors.Is(err, fs.ErrNotExist):
		err = w.anew(dest)
	default:
		err = fmt.Errorf("archive: %w", err)
	}
	return &w.done, err
}

// blobWriter writes one blob.
type blobWriter struct {
	ctx    context.Context //nolint:containedctx // of one call of ExtractBlob
	in     *Input
	x      *caibx.Index
	opts   BlobOptions
	places map[chunk.ID][]int // still to be written

	out     *os.File
	fresh   bool // out has only zeros
	changed bool // out is not what it was
	files   []*os.File
	links   []link
	done    Extracted
}

func (w *blobWriter) close() error {
	var err error
	for _, f := range w.files {
		err = errors.Join(err, f.Close())
	}
	return err
}

// anew writes a file that appears when it is complete.
func (w *blobWriter) anew(dest string) error {
	from, err := w.open(&caibx.Index{})
	if err != nil {
		return err
	}
	t, err := durable.Create(dest, 0o644)
	if err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	defer t.Close()
	w.out, w.fresh = t.File, true
	if err := w.fill(from); err != nil {
		return err
	}
	if err := w.out.Truncate(int64(w.x.Size())); err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	if err := t.Commit(); err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	return nil
}

// inPlace changes what is there.
func (w *blobWriter) inPlace() error {
	fi, err := w.out.Stat()
	if err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	device := fi.Mode()&(fs.ModeDevice|fs.ModeCharDevice) == fs.ModeDevice
	if !device && !fi.Mode().IsRegular() {
		return fmt.Errorf("archive: %w: %s is neither a file nor a block device", ErrUsage, w.out.Name())
	}
	room, err := w.out.Seek(0, io.SeekEnd)
	if err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	if device && uint64(room) < w.x.Size() {
		return fmt.Errorf("archive: %s has %d bytes, the blob %d: %w", w.out.Name(), room, w.x.Size(), unix.ENOSPC)
	}
	had := &caibx.Index{}
	if w.opts.SeedOutput {
		if had, err = w.scan(w.out); err != nil {
			return err
		}
	}
	from, err := w.open(had)
	if err != nil {
		return err
	}
	if err := w.reuse(had); err != nil {
		return err
	}
	if err := w.fill(from); err != nil || w.opts.DryRun {
		return err
	}
	if !device {
		if err := w.out.Truncate(int64(w.x.Size())); err != nil {
			return fmt.Errorf("archive: %w", err)
		}
	}
	if err := w.out.Sync(); err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	return nil
}

// scan returns the chunks of a file, as the index would have cut it.
func (w *blobWriter) scan(f *os.File) (*caibx.Index, error) {
	from, err := streamOf(f)
	if err != nil {
		return nil, err
	}
	r, err := ingest.Stream(w.ctx, from, ingest.Options{Params: w.x.Params, FeatureFlags: w.x.FeatureFlags})
	if err != nil {
		return nil, err
	}
	return r.Index, nil
}

// reuse leaves what is in its place, and keeps a copy of what the output had
// elsewhere, since that may be written over before it is needed.
func (w *blobWriter) reuse(had *caibx.Index) error {
	at := make(map[uint64]chunk.ID)
	for i, c := range had.Chunks {
		off, _ := had.Span(i)
		at[off] = c.ID
	}
	for id, places := range w.places {
		left := places[:0]
		for _, i := range places {
			if off, _ := w.x.Span(i); at[off] == id {
				w.done.InPlace++
			} else {
				left = append(left, i)
			}
		}
		if w.places[id] = left; len(left) == 0 {
			delete(w.places, id)
		}
	}
	spool, err := tempFile(w.in.tempDir)
	if err != nil {
		return err
	}
	w.files = append(w.files, spool)
	var moved caibx.Index
	for i, c := range had.Chunks {
		if _, wanted := w.places[c.ID]; !wanted {
			continue
		}
		off, size := had.Span(i)
		if _, err := io.Copy(spool, io.NewSectionReader(w.out, int64(off), int64(size))); err != nil {
			return fmt.Errorf("archive: %w", err)
		}
		moved.Chunks = append(moved.Chunks, caibx.Chunk{End: moved.Size() + size, ID: c.ID})
	}
	return w.take(blobSeed{spool, &moved}, false)
}

// fill writes all that is still to be written.
func (w *blobWriter) fill(from []blobSeed) error {
	for _, s := range from {
		if err := w.take(s, w.opts.Reflink); err != nil {
			return err
		}
	}
	var list []int
	if w.opts.DryRun {
		for _, p := range w.places {
			w.done.Fetched += len(p)
		}
		return nil
	}
	for i, c := range w.x.Chunks {
		if p := w.places[c.ID]; len(p) > 0 && p[0] == i {
			list = append(list, i)
		}
	}
	err := assemble.Each(w.ctx, w.x, list, w.in.store, w.opts.Jobs, w.in.near, func(i int, data []byte) error {
		id := w.x.Chunks[i].ID
		w.done.Fetched += len(w.places[id])
		return w.put(id, data)
	})
	if err != nil {
		return err
	}
	return w.share()
}

// put writes a chunk wherever it has to be.
func (w *blobWriter) put(id chunk.ID, data []byte) error {
	if w.opts.DryRun {
		delete(w.places, id)
		return nil
	}
	zero := chunk.IsZero(data)
	w.changed = true
	for _, i := range w.places[id] {
		off, size := w.x.Span(i)
		if zero && w.opts.PunchHoles && w.hole(int64(off), int64(size)) {
			continue
		}
		if err := w.write(data, int64(off)); err != nil {
			return fmt.Errorf("archive: %w", err)
		}
	}
	delete(w.places, id)
	return nil
}

// write writes a part of the output, in a new file without its blocks of zeros.
func (w *blobWriter) write(data []byte, off int64) error {
	for len(data) > 0 {
		n := len(data)
		if w.fresh && w.opts.PunchHoles {
			// Up to the next whole block of zeros, and over it.
			for n = 0; n < len(data); {
				step := min(len(data)-n, holeSize-int(off+int64(n))%holeSize)
				if step == holeSize && chunk.IsZero(data[n:n+step]) {
					break
				}
				n += step
			}
		}
		if _, err := w.out.WriteAt(data[:n], off); err != nil {
			return err
		}
		if n < len(data) {
			n += holeSize
		}
		data, off = data[n:], off+int64(n)
	}
	return nil
}

// holeSize is the size and alignment of the blocks of zeros that are left out.
const holeSize = 4096

// hole makes a part of the file read as zeros without blocks, if it can.
func (w *blobWriter) hole(off, size int64) bool {
	if w.fresh {
		return true
	}
	const how = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
	end, err := w.out.Seek(0, io.SeekEnd)
	return err == nil && off+size <= end && unix.Fallocate(int(w.out.Fd()), how, off, size) == nil
}
