package transfer

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/delta"
	"github.com/ociv2-sync/ociv2-sync/internal/durable"
	"github.com/ociv2-sync/ociv2-sync/internal/repo"
	"github.com/ociv2-sync/ociv2-sync/internal/stores"
	"github.com/ociv2-sync/ociv2-sync/seed"
	"github.com/ociv2-sync/ociv2-sync/store"
	"github.com/ociv2-sync/ociv2-sync/toc"
)

// published is an image whose contents can be cut out of its chunks.
type published struct {
	tree  *repo.Tree
	space *seed.Space
	store store.Store

	mu   sync.Mutex
	last map[uint64][]byte // by offset: some chunks used last, unpacked
	used []uint64          // their offsets, the oldest first
}

// keptChunks is how many unpacked chunks are kept: neighbouring contents share
// chunks.
const keptChunks = 64

// read returns size bytes of the content of a node. The chunks are verified, and what
// is read as a whole is compared with the table of contents.
func (p *published) read(ctx context.Context, node int, offset, size int64) ([]byte, error) {
	n := &p.tree.TOC.Nodes[node]
	from := uint64(p.tree.Layout.Offset[node]) + uint64(offset)
	to := from + uint64(size)
	b := make([]byte, 0, size)
	for _, c := range p.space.Chunks(from, uint64(size)) {
		data, err := p.chunk(ctx, &c)
		if err != nil {
			return nil, err
		}
		lo, hi := max(from, c.Offset)-c.Offset, min(to, c.Offset+c.Size)-c.Offset
		b = append(b, data[lo:hi]...)
	}
	if size == n.Size && sha256.Sum256(b) != n.Digest {
		return nil, fmt.Errorf("transfer: %w: %q", toc.ErrContent, toc.Path(p.tree.TOC.Nodes, node))
	}
	return b, nil
}

func (p *published) chunk(ctx context.Context, c *seed.Chunk) ([]byte, error) {
	p.mu.Lock()
	data, ok := p.last[c.Offset]
	p.mu.Unlock()
	if ok {
		return data, nil
	}
	packed, err := p.store.Get(ctx, c.ID, store.MaxPacked(c.Size))
	if err != nil {
		return nil, err
	}
	if data, err = store.Unpack(nil, packed, p.space.Algorithm, c.ID, c.Size); err != nil {
		return nil, fmt.Errorf("%s: %w", p.store, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.last == nil {
		p.last = make(map[uint64][]byte)
	}
	if _, ok := p.last[c.Offset]; !ok {
		p.last[c.Offset] = data
		p.used = append(p.used, c.Offset)
		if len(p.used) > keptChunks {
			delete(p.last, p.used[0])
			p.used = p.used[1:]
		}
	}
	return data, nil
}

func (p *published) side() *delta.Tree {
	if p == nil {
		return nil
	}
	return &delta.Tree{TOC: p.tree.TOC, Canonical: p.tree.Canonical, Read: p.read}
}

// openPublished reads an image that a delta is to begin or end at.
func openPublished(ctx context.Context, im *repo.Image, st store.Store) (*published, error) {
	p := &published{store: st}
	var err error
	if p.tree, err = im.Tree(ctx); err != nil {
		return nil, err
	}
	p.space, err = wholeSpace(ctx, im)
	return p, err
}

// wireOfChunks is what a device that has from's contents would fetch in chunks.
func wireOfChunks(ctx context.Context, from, to *published) (int64, error) {
	plan, err := seed.Match(ctx, to.tree.TOC.Nodes, nil, nil)
	if err != nil {
		return 0, err
	}
	if from != nil {
		have := make(map[delta.Digest]bool)
		for i := range from.tree.TOC.Nodes {
			have[from.tree.TOC.Nodes[i].Digest] = true
		}
		plan.Use(func(i int) int32 {
			if have[*plan.Contents[i].Digest] {
				return 0 // any: it need not be fetched
			}
			return seed.None
		}, nil)
	}
	if len(plan.Missing) == 0 {
		return 0, nil
	}
	err = plan.Cover(to.tree.TOC.Nodes, to.tree.Layout, to.space, func(chunk.ID) bool { return false })
	return plan.PerOrigin(seed.Fetched).Wire, err
}

// DeltaOptions are the options of making deltas. The zero value works.
type DeltaOptions struct {
	// Memory bounds what contents and their indexes take at a time, in bytes; 0
	// means the default of delta.MakeOptions.
	Memory int64
	// Full says how well a delta from nothing is compressed.
	Full Full
	// Jobs is the number of contents worked on at a time; 0 means GOMAXPROCS.
	Jobs int
	// TempDir is where a delta waits until it is complete; "" means /var/tmp.
	TempDir string
	// Progress, if not nil, is called with the bytes of contents done, and how
	// many there are.
	Progress func(done, total int64)
}

// Full says whether there is to be a delta from nothing, and how well it is
// compressed: all of an image takes its time.
type Full uint8

// The ways.
const (
	// FullNone makes none.
	FullNone Full = iota
	// FullGood compresses well, some 2 MB per second.
	FullGood
	// FullBest compresses a tenth better, a fourth as fast.
	FullBest
)

// quality is that of brotli for a delta that begins at from, nil for nothing.
func (f Full) quality(from *published) int {
	switch {
	case from != nil:
		return 11
	case f == FullBest:
		return 10
	}
	return 9
}

// MadeDelta is a delta that was made.
type MadeDelta struct {
	delta.Made
	// Blob is its digest, From that of the table of contents that it starts
	// from; "" for nothing.
	Blob digest.Digest
	From digest.Digest
	// Chunks is what the chunks that it replaces take, in bytes; unless it is
	// larger, the delta is Useless and not published.
	Chunks  int64
	Useless bool
}

// makeDelta makes a delta in a temporary file, which the caller closes.
func makeDelta(ctx context.Context, from, to *published, opts DeltaOptions) (_ *os.File, _ *MadeDelta, err error) {
	spool, err := tempFile(opts.TempDir)
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, spool.Close()) }()
	out, err := tempFile(opts.TempDir)
	if err != nil {
		return nil, nil, err
	}
	sum := sha256.New()
	made, err := delta.Make(ctx, io.MultiWriter(out, sum), spool, from.side(), to.side(), delta.MakeOptions{
		Jobs: opts.Jobs, Quality: opts.Full.quality(from), Memory: opts.Memory, Progress: opts.Progress,
	})
	if err == nil {
		_, err = out.Seek(0, io.SeekStart)
	}
	if err != nil {
		return nil, nil, errors.Join(err, out.Close())
	}
	m := &MadeDelta{Made: *made, Blob: digest.NewDigestFromBytes(digest.SHA256, sum.Sum(nil))}
	if from != nil {
		m.From = digestOf(sha256.Sum256(from.tree.Canonical))
	}
	if m.Chunks, err = wireOfChunks(ctx, from, to); err != nil {
		return nil, nil, errors.Join(err, out.Close())
	}
	// A device that has all contents still saves the table of contents.
	m.Useless = m.Chunks > 0 && m.Size >= m.Chunks
	return out, m, nil
}

// tempFile makes an unnamed file.
func tempFile(dir string) (*os.File, error) {
	f, err := os.CreateTemp(cmp.Or(dir, "/var/tmp"), "ociv2-sync-delta-")
	if err != nil {
		return nil, fmt.Errorf("transfer: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(fmt.Errorf("transfer: %w", err), f.Close())
	}
	return f, nil
}

// entry is the delta as a repository lists it.
func (m *MadeDelta) entry(data io.ReaderAt) repo.NewDelta {
	return repo.NewDelta{Data: data, Delta: repo.Delta{Blob: m.Blob, Size: m.Size, Head: m.Head, From: m.From}}
}

// openImage opens the files and the image of a reference.
func openImage(ctx context.Context, ref repo.Ref, clients stores.Clients) (*repo.Image, io.Closer, error) {
	files, closer, err := clients.OpenRepo(ref.Repo)
	if err != nil {
		return nil, nil, err
	}
	im, err := repo.Open(ctx, files, ref)
	if err != nil {
		return nil, nil, errors.Join(err, closer.Close())
	}
	return im, closer, nil
}

// closers are what images are read from, until they are not any more.
type closers []io.Closer

func (c closers) close() (err error) {
	for _, o := range c {
		err = errors.Join(err, o.Close())
	}
	return err
}

// image opens a published image to read its contents.
func (c *closers) image(ctx context.Context, ref repo.Ref, clients stores.Clients) (*repo.Image, *published, error) {
	im, files, err := openImage(ctx, ref, clients)
	if err != nil {
		return nil, nil, err
	}
	*c = append(*c, files)
	at, err := im.Store(false)
	if err != nil {
		return nil, nil, err
	}
	st, files, err := clients.OpenChunks(im.Files(), ref.Repo, at, nil)
	if err != nil {
		return nil, nil, err
	}
	*c = append(*c, files)
	p, err := openPublished(ctx, im, st)
	return im, p, err
}

// DeltaMake makes the delta from one published image to another and lists it
// under the latter's tag; with output not "" it writes
// it to that file instead. A zero from is none: the delta is from nothing.
func DeltaMake(ctx context.Context, from, to repo.Ref, output string, clients stores.Clients, opts DeltaOptions) (_ *MadeDelta, err error) {
	if output == "" && to.Digest != "" {
		return nil, fmt.Errorf("transfer: %w: %s: a delta is published under a tag", ErrUsage, to)
	}
	var opened closers
	defer func() { err = errors.Join(err, opened.close()) }()
	var space repo.Space
	if output == "" {
		s, closer, err := clients.OpenSpace(to.Repo, false)
		if err != nil {
			return nil, err
		}
		space, opened = s, append(opened, closer)
	}
	var a *published
	if from != (repo.Ref{}) {
		if _, a, err = opened.image(ctx, from, clients); err != nil {
			return nil, err
		}
	}
	im, b, err := opened.image(ctx, to, clients)
	if err != nil {
		return nil, err
	}
	f, made, err := makeDelta(ctx, a, b, opts)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if output != "" {
		return made, writeOut(output, f)
	}
	if made.Useless {
		return made, nil
	}
	return made, repo.Reserve(ctx, space, time.Now, func(ctx context.Context) error {
		return repo.AddDeltas(ctx, space, to, im.Digest, im.Manifest.TOCDigest, []repo.NewDelta{made.entry(f)}, time.Now)
	})
}

// writeOut writes a delta to a file of its own.
func writeOut(path string, r io.Reader) (err error) {
	f, err := durable.Create(path, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := io.Copy(f, r); err != nil {
		return fmt.Errorf("transfer: %w", err)
	}
	return f.Commit()
}

// predecessors returns the images that the tags of ref's name have now, the
// latest push first, at most n, each tree once and none with the given TOC; none
// at all where the tag has that tree already.
func predecessors(ctx context.Context, files repo.Files, ref repo.Ref, n int, except digest.Digest) ([]*repo.Image, error) {
	names, err := repo.Catalog(ctx, files)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil // the first push
	}
	if err != nil {
		return nil, err
	}
	var images []*repo.Image
	for _, name := range names {
		if name.Name != ref.Name {
			continue
		}
		for _, tag := range name.Tags {
			im, err := repo.Open(ctx, files, repo.Ref{Repo: ref.Repo, Name: ref.Name, Tag: tag, Platform: ref.Platform})
			if errors.Is(err, store.ErrNotFound) {
				continue // the tag has nothing for this platform
			}
			if err != nil {
				return nil, err
			}
			if tag == ref.Tag && im.Manifest.TOCDigest == except {
				return nil, nil // nothing new: it has its deltas
			}
			images = append(images, im)
		}
	}
	slices.SortStableFunc(images, func(a, b *repo.Image) int { return cmp.Compare(b.Serial, a.Serial) })
	seen := map[digest.Digest]bool{except: true}
	images = slices.DeleteFunc(images, func(im *repo.Image) bool {
		dup := seen[im.Manifest.TOCDigest]
		seen[im.Manifest.TOCDigest] = true
		return dup
	})
	return images[:min(n, len(images))], nil
}

// pushDeltas makes the deltas of a push: from the last n tags of the name, from
// the images that are named, and from nothing if opts says so. The files are
// the caller's to close.
//
// Links lead to where the first of these deltas starts.
func pushDeltas(ctx context.Context, files repo.Files, ref repo.Ref, st store.Store, to *published, opts PushOptions) (made []*MadeDelta, spools []*os.File, links []repo.Delta, err error) {
	if opts.Deltas == 0 && len(opts.DeltaFrom) == 0 && opts.Full == FullNone {
		return nil, nil, nil, nil
	}
	var opened closers
	defer func() { err = errors.Join(err, opened.close()) }()
	self := digestOf(sha256.Sum256(to.tree.Canonical))
	bases, err := predecessors(ctx, files, ref, opts.Deltas, self)
	if err != nil {
		return nil, nil, nil, err
	}
	o := DeltaOptions{Memory: opts.DeltaMemory, Full: opts.Full, Jobs: opts.Jobs, TempDir: opts.TempDir, Progress: opts.DeltaProgress}
	done := map[digest.Digest]bool{self: true}
	make := func(from *published) error {
		f, m, err := makeDelta(ctx, from, to, o)
		if err != nil {
			return err
		}
		done[m.From] = true
		made, spools = append(made, m), append(spools, f)
		return nil
	}
	for _, im := range bases {
		from, err := openPublished(ctx, im, st)
		if err != nil {
			return made, spools, nil, err
		}
		if err := make(from); err != nil {
			return made, spools, nil, err
		}
	}
	if len(bases) > 0 && !made[0].Useless {
		links = chainLinks(bases[0], done)
	}
	for _, ref := range opts.DeltaFrom {
		im, from, err := opened.image(ctx, ref, opts.Clients)
		if err != nil {
			return made, spools, nil, err
		}
		if !done[im.Manifest.TOCDigest] {
			if err := make(from); err != nil {
				return made, spools, nil, err
			}
		}
	}
	if opts.Full != FullNone {
		err = make(nil)
	}
	return made, spools, links, err
}
