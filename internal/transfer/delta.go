package transfer

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/opencontainers/go-digest"

	"github.com/ociv2-sync/ociv2-sync/delta"
	"github.com/ociv2-sync/ociv2-sync/internal/assemble"
	"github.com/ociv2-sync/ociv2-sync/internal/repo"
	"github.com/ociv2-sync/ociv2-sync/internal/root"
	"github.com/ociv2-sync/ociv2-sync/store"
)

// DeltaPolicy says what a pull does with deltas.
type DeltaPolicy uint8

// The policies.
const (
	// DeltaAuto uses a delta where that takes fewer bytes.
	DeltaAuto DeltaPolicy = iota
	// DeltaOnly fetches no chunks: what no delta makes is an error.
	DeltaOnly
	// DeltaNever uses none.
	DeltaNever
)

// ErrNoDelta means that no delta makes what the device lacks, and that nothing
// else is allowed.
var ErrNoDelta = errors.New("no delta makes what is missing")

const (
	// chunksAtBest is how much smaller than their contents the chunks of an
	// image are at the very best: a delta that is smaller still is taken without
	// a look at the chunks, which costs their index.
	chunksAtBest = 8
	// maxHeads is how many heads are fetched to choose among deltas.
	maxHeads = 3
)

// deltaFile is a delta of the image whose head has been read.
type deltaFile struct {
	repo.Delta
	head *delta.Head
	// headData is the head as it was fetched; nil if the cache has it.
	headData []byte
	kept     int64 // bytes of it that the root's cache has
	// cache is where they are and others go; if empty, nowhere.
	cache string
}

// forget removes what is kept of a delta that breaks the format.
func (d *deltaFile) forget() {
	if d.cache != "" {
		_ = os.Remove(d.cache) // it goes with the whole cache otherwise
	}
}

// rest returns what of the delta is still to be fetched.
func (d *deltaFile) rest() int64 { return d.Size - max(d.kept, d.head.Size) }

// openDelta reads the head of a delta: from the cache if that has it.
func (p *Prepared) openDelta(ctx context.Context, r *root.Root, d repo.Delta) (*deltaFile, error) {
	f := &deltaFile{Delta: d}
	limit := p.Image.Manifest.TOCSize
	if d.To != "" { // an earlier one is about as large
		limit = 2*limit + 1<<20
	}
	if r != nil {
		f.cache = filepath.Join(r.ChunkCache(), "delta-"+d.Blob.Encoded())
		if err := f.readKept(limit); err == nil {
			return f, nil
		} else if !errors.Is(err, fs.ErrNotExist) {
			p.opts.Logger.Warn("what is kept of a delta is of no use", "reason", err)
			f.kept = 0
		}
	}
	if p.noParts {
		return nil, store.ErrNoParts
	}
	body, err := p.Image.OpenDelta(ctx, d, 0, d.Head)
	if err != nil {
		return nil, damaged(err)
	}
	f.headData, err = io.ReadAll(body) // grows with what arrives
	if err := errors.Join(err, body.Close()); err != nil {
		return nil, damaged(err)
	}
	if f.head, err = delta.ReadHead(bytes.NewReader(f.headData), limit); err != nil {
		return nil, err
	}
	return f, f.check(cmp.Or(d.To, p.Image.Manifest.TOCDigest))
}

// readKept reads the head of what an earlier pull has kept of the delta, which
// ends at a table of contents of toc bytes.
func (f *deltaFile) readKept(toc int64) (err error) {
	file, err := os.Open(f.cache)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	st, err := file.Stat()
	if err != nil {
		return err
	}
	if f.head, err = delta.ReadHead(file, toc); err != nil {
		return err
	}
	if f.kept = st.Size(); f.kept > f.Size {
		return fmt.Errorf("%w: %d bytes of %d", delta.ErrMalformed, f.kept, f.Size)
	}
	return f.check(digestOf(f.head.To))
}

// check compares a head with what the tag says of the delta, which must end at
// the table of contents given.
func (f *deltaFile) check(to digest.Digest) error {
	if f.head.Size != f.Head || f.From != digestOf(f.head.From) || digestOf(f.head.To) != to {
		return fmt.Errorf("%w: it is not what the tag says", delta.ErrMalformed)
	}
	return nil
}

// digestOf is the digest of a table of contents, "" for none.
func digestOf(d delta.Digest) digest.Digest {
	if d == (delta.Digest{}) {
		return ""
	}
	return digest.NewDigestFromBytes(digest.SHA256, d[:])
}

// treeByDelta makes the table of contents from one that the root has, if a
// delta starts there. It returns nil if none does.
func (p *Prepared) treeByDelta(ctx context.Context, r *root.Root) (*repo.Tree, error) {
	for _, d := range p.Image.Deltas {
		var old []byte
		if d.From != "" {
			var err error
			if r == nil {
				continue
			}
			if old, err = r.Blob(d.From); err != nil {
				continue
			}
		} else if r != nil && p.hasTrees(r) {
			continue // a seed makes it more than is needed, most likely
		}
		f, err := p.openDelta(ctx, r, d)
		if err == nil {
			var b []byte
			if f.head.TOCSize != p.Image.Manifest.TOCSize {
				err = delta.ErrMalformed
			} else if b, err = f.head.PatchTOC(old); err == nil {
				p.heads = append(p.heads, f)
				return p.Image.ParseTree(b)
			}
		}
		if !p.passOver(d, err) {
			return nil, err
		}
	}
	return nil, nil
}

// passOver notes that a delta is of no use, if err says no more than that.
func (p *Prepared) passOver(d repo.Delta, err error) bool {
	if !useless(err) {
		return false
	}
	if !p.noParts { // which is said once
		p.opts.Logger.Warn("a delta is of no use", "delta", d.Blob, "reason", err)
	}
	p.spoiled = err
	p.noParts = p.noParts || errors.Is(err, store.ErrNoParts)
	return true
}

// noDelta is the error of a plan that may not use chunks and would have to. It is
// that of a damaged delta, if there is one.
func (p *Prepared) noDelta() error {
	err := fmt.Errorf("transfer: %w: %d contents, %d bytes", ErrNoDelta, len(p.Plan.Missing), p.missingBytes())
	if p.spoiled != nil {
		return fmt.Errorf("%w: %w", err, p.spoiled)
	}
	return err
}

// useless reports whether an error says that there is something wrong with a delta alone,
// that it is not there, as in a mirror of a part, or that its head cannot be had alone.
func useless(err error) bool {
	return errors.Is(err, delta.ErrMalformed) || errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrNoParts)
}

// hasTrees reports whether there is anything that contents may be found in.
func (p *Prepared) hasTrees(r *root.Root) bool {
	if r == nil || len(p.opts.Seeds) > 0 {
		return len(p.opts.Seeds) > 0
	}
	trees, _ := r.Trees() // damaged ones are reported elsewhere
	return len(trees) > 0
}

// deltaJob says how the plan's delta is read; nil for a plan without one.
func (p *Prepared) deltaJob() *assemble.Delta {
	if p.delta == nil {
		return nil
	}
	return &assemble.Delta{
		Head:   p.delta.head,
		Only:   p.opts.Deltas == DeltaOnly,
		Body:   func(ctx context.Context) (io.ReadCloser, error) { return p.openBody(ctx, p.delta) },
		Broken: p.delta.forget,
	}
}

// openBody opens what follows the head of a delta: what an earlier
// pull has kept, and then the rest from the repository, which is kept as it
// arrives.
func (p *Prepared) openBody(ctx context.Context, d *deltaFile) (io.ReadCloser, error) {
	b := &body{p: p, delta: d}
	if d.cache == "" {
		return b, b.fetch(ctx, d.head.Size)
	}
	f, err := os.OpenFile(d.cache, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("transfer: %w", err)
	}
	b.file = f
	if d.kept == 0 { // the head alone was fetched, to memory
		if _, err := f.Write(d.headData); err != nil {
			return nil, errors.Join(fmt.Errorf("transfer: %w", err), f.Close())
		}
		d.kept = d.head.Size
	}
	b.kept = io.NewSectionReader(f, d.head.Size, d.kept-d.head.Size)
	if _, err := f.Seek(d.kept, io.SeekStart); err != nil {
		return nil, errors.Join(fmt.Errorf("transfer: %w", err), f.Close())
	}
	if d.kept == d.Size {
		return b, nil
	}
	if err := b.fetch(ctx, d.kept); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return b, nil
}

// body reads the body of a delta.
type body struct {
	p     *Prepared
	delta *deltaFile
	kept  io.Reader     // nil for nothing
	file  *os.File      // takes what arrives; nil for nothing
	net   io.ReadCloser // nil when all is kept
}

func (b *body) fetch(ctx context.Context, at int64) (err error) {
	b.net, err = b.p.Image.OpenDelta(ctx, b.delta.Delta, at, b.delta.Size-at)
	if errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrNoParts) { // its head was there
		err = fmt.Errorf("%w: %w", delta.ErrMalformed, err)
	}
	return damaged(err)
}

// damaged says of the error of a file that is shorter than the tag says, and not
// only cut on its way, that the delta is malformed.
func damaged(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, store.ErrNetwork) {
		return fmt.Errorf("%w: %w", delta.ErrMalformed, err)
	}
	return err
}

func (b *body) Read(p []byte) (int, error) {
	if b.kept != nil {
		n, err := b.kept.Read(p)
		if n > 0 || err != io.EOF {
			return n, err
		}
		b.kept = nil
	}
	if b.net == nil {
		return 0, io.EOF
	}
	n, err := b.net.Read(p)
	if n > 0 {
		if b.file != nil {
			if _, werr := b.file.Write(p[:n]); werr != nil {
				return n, fmt.Errorf("transfer: %w", werr)
			}
		}
		if b.p.opts.Progress != nil {
			b.p.opts.Progress(int64(n), 0)
		}
	}
	return n, damaged(err)
}

func (b *body) Close() error {
	var err error
	if b.net != nil {
		err = b.net.Close()
	}
	if b.file != nil {
		err = errors.Join(err, b.file.Close())
	}
	return err
}

// OpenAt implements repo.Files.
func (f *countingFiles) OpenAt(ctx context.Context, path string, offset, size int64) (io.ReadCloser, error) {
	r, err := f.Files.OpenAt(ctx, path, offset, size)
	f.requests.Add(1)
	if err != nil {
		return nil, err
	}
	return &countingReader{r, &f.bytes}, nil
}

type countingReader struct {
	io.ReadCloser
	n *atomic.Int64
}

func (r *countingReader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	r.n.Add(int64(n))
	return n, err
}
