package delta

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"path"
	"runtime"
	"slices"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"github.com/ociv2-sync/ociv2-sync/internal/deflate"
	"github.com/ociv2-sync/ociv2-sync/toc"
)

// Tree is one side of a delta.
type Tree struct {
	TOC *toc.TOC
	// Canonical is the TOC's canonical bytes.
	Canonical []byte
	// Read returns size bytes of the content of a node, a regular file, from an
	// offset on. It is called by several goroutines at once.
	Read func(ctx context.Context, node int, offset, size int64) ([]byte, error)
}

// MakeOptions are the options of Make. The zero value works.
type MakeOptions struct {
	// Jobs is the number of contents worked on at a time; 0 means GOMAXPROCS.
	Jobs int
	// Quality is that of brotli, 2 to 11; 0 means 11.
	Quality int
	// Memory bounds what contents and their indexes take at a time, in bytes; 0
	// means 512 MiB. A large content is matched piece by piece, and one that does
	// not fit at all, alone or with its base, is read so as well.
	Memory int64
	// Progress, if not nil, is called with the bytes of contents done, and how
	// many there are.
	Progress func(done, total int64)
}

// Made says what Make has made.
type Made struct {
	// Size is that of the delta, Head that of its head, in bytes.
	Size, Head int64
	// Contents and Bytes count the contents that it makes, Based those of them
	// that are made of others.
	Contents, Based int
	Bytes           int64
}

// Make writes the delta from one tree to another to w. From is nil for a delta
// that needs no base. The body is kept in spool, which is empty, until the head
// is known.
func Make(ctx context.Context, w io.Writer, spool io.ReadWriteSeeker, from, to *Tree, opts MakeOptions) (*Made, error) {
	opts.Jobs = cmp.Or(max(opts.Jobs, 0), runtime.GOMAXPROCS(0))
	opts.Quality = cmp.Or(opts.Quality, 11)
	opts.Memory = cmp.Or(max(opts.Memory, 0), 512<<20)
	if opts.Progress == nil {
		opts.Progress = func(int64, int64) {}
	}
	m := &maker{from: from, to: to, opts: opts, baseAt: make(map[filtered]int), marks: make(map[int]*landmarks), made: &Made{}}
	m.head.To = sha256.Sum256(to.Canonical)
	m.head.TOCSize = int64(len(to.Canonical))
	if from != nil {
		m.head.From = sha256.Sum256(from.Canonical)
		m.head.patch.build(from.Canonical, to.Canonical, opts.Memory)
	} else {
		m.head.patch.build(nil, to.Canonical, opts.Memory)
	}
	if err := m.choose(ctx); err != nil {
		return nil, err
	}
	if err := m.body(ctx, spool); err != nil {
		return nil, err
	}
	head, err := m.head.encode()
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(head); err != nil {
		return nil, fmt.Errorf("delta: %w", err)
	}
	if _, err := spool.Seek(0, io.SeekStart); err != nil {
		return nil, fmt.Errorf("delta: %w", err)
	}
	n, err := io.Copy(w, spool)
	if err != nil {
		return nil, fmt.Errorf("delta: %w", err)
	}
	m.made.Head, m.made.Size = int64(len(head)), int64(len(head))+n
	return m.made, nil
}

// maker is one Make.
type maker struct {
	from, to *Tree
	opts     MakeOptions
	old      []entry
	jobs     []job
	baseAt   map[filtered]int   // its index in head.Bases
	marks    map[int]*landmarks // by old content, of large ones
	head     Head
	made     *Made
	done     int64
}

// filtered is an old content and how it is looked at.
type filtered struct {
	old    int
	filter uint64
}

// job is a content to be made.
type job struct {
	entry
	target int
	bases  []int  // old contents
	part   *piece // nil for the whole content
	done   chan struct{}
	cost   int64

	script  script
	filters []uint64 // of the bases
	method  uint64
	params  []byte
	size    int64 // of what the script makes
}

// choose lists the new contents in the order in which they are best
// compressed, and finds their bases.
func (m *maker) choose(ctx context.Context) error {
	var sel *selector
	have := make(map[Digest]bool)
	if m.from != nil {
		m.old = entries(m.from.TOC.Nodes)
		for _, e := range m.old {
			have[e.Digest] = true
		}
		sel = newSelector(m.from.TOC.Nodes, m.old)
	}
	for i, e := range entries(m.to.TOC.Nodes) {
		if have[e.Digest] {
			continue
		}
		j := job{entry: e, target: i, done: make(chan struct{})}
		if sel != nil {
			if err := m.bases(ctx, sel, &j); err != nil {
				return err
			}
		}
		m.made.Contents++
		m.made.Bytes += e.Size
		if m.large(e.Size) || len(j.bases) == 1 && e.Size+m.old[j.bases[0]].Size > m.opts.Memory {
			m.addParts(j)
		} else {
			m.jobs = append(m.jobs, j)
		}
	}
	slices.SortStableFunc(m.jobs, func(a, b job) int {
		return cmp.Compare(path.Ext(a.path), path.Ext(b.path))
	})
	return nil
}

// bases finds the bases of one content; several only if all of them fit into the
// memory.
func (m *maker) bases(ctx context.Context, sel *selector, j *job) error {
	add := func(at int) {
		size := j.Size
		for _, b := range append(j.bases, at) {
			size += m.old[b].Size
		}
		if len(j.bases) == 0 || !m.large(j.Size) && size <= m.opts.Memory && !slices.Contains(j.bases, at) {
			j.bases = append(j.bases, at)
		}
	}
	if at := sel.byName(j.entry); at >= 0 {
		add(at)
	}
	if len(j.bases) == 0 {
		if sel.sketch == nil {
			err := sel.index(func(e entry) ([]uint64, error) { return m.sketch(ctx, m.from, e) })
			if err != nil {
				return err
			}
		}
		features, err := m.sketch(ctx, m.to, j.entry)
		if err != nil {
			return err
		}
		for _, at := range sel.bySimilarity(features) {
			add(at)
		}
	}
	return nil
}

// body makes the contents, several at a time, and writes their instructions in
// order.
func (m *maker) body(ctx context.Context, w io.Writer) error {
	g, ctx := errgroup.WithContext(ctx)
	mem := semaphore.NewWeighted(m.opts.Memory)
	todo := make(chan *job)
	queue := make(chan *job, len(m.jobs))
	g.Go(func() error {
		defer close(todo)
		defer close(queue)
		for i := range m.jobs {
			j := &m.jobs[i]
			j.cost = m.cost(j)
			if err := mem.Acquire(ctx, j.cost); err != nil {
				return err
			}
			queue <- j
			select {
			case todo <- j:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	for range m.opts.Jobs {
		g.Go(func() error {
			for j := range todo {
				if err := m.match(ctx, j); err != nil {
					return err
				}
				close(j.done)
			}
			return nil
		})
	}
	g.Go(func() error { return m.write(ctx, w, queue, mem) })
	return g.Wait()
}

// write writes the instructions of the contents in queue, each when it is made, and gives
// back the memory that it took.
func (m *maker) write(ctx context.Context, w io.Writer, queue <-chan *job, mem *semaphore.Weighted) error {
	out := newGroupWriter(w, m.opts.Quality)
	end := int64(0) // where in the base the last copy of a large content ended
	for j := range queue {
		select {
		case <-j.done:
		case <-ctx.Done():
			return ctx.Err()
		}
		size, last := j.Size, true
		if j.part != nil {
			end = j.follow(end)
			size, last = j.part.size, j.part.last
		}
		if err := out.add(&j.script); err != nil {
			return err
		}
		if last {
			m.record(j)
		}
		j.script = script{}
		mem.Release(j.cost)
		m.done += size
		m.opts.Progress(m.done, m.made.Bytes)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return out.flush(true)
}

// cost is the memory that a content takes while it is made: itself, its
// instructions, its bases and their index.
func (m *maker) cost(j *job) int64 {
	if j.part != nil {
		return min(2*j.part.size+indexCost*m.window(), m.opts.Memory)
	}
	grow := int64(1)
	switch path.Ext(j.path) {
	case ".gz", ".tgz", ".jar", ".war", ".whl", ".zip":
		grow = 8 // its data; a guess
	}
	c := 2 * grow * j.Size
	for _, b := range j.bases {
		c += indexCost * grow * m.old[b].Size
	}
	return min(c, m.opts.Memory)
}

// maxHeader is the length of the longest header of a gzip file that is worth its
// place in the head.
const maxHeader = 512

// match makes the instructions for one content.
func (m *maker) match(ctx context.Context, j *job) error {
	if j.part != nil {
		return m.matchPart(ctx, j)
	}
	b, err := m.to.Read(ctx, j.node, 0, j.Size)
	if err != nil {
		return err
	}
	if int64(len(b)) != j.Size {
		return errors.New("delta: a content has another size than its table of contents says")
	}
	if g, ok := deflate.Open(b); ok && len(g.Header) <= maxHeader {
		j.method, j.params, j.size = methodGzip, gzipParams(g), int64(len(g.Data))
		b = g.Data
	} else if form, e, ok := deflate.OpenZip(b); ok {
		j.method, j.params, j.size = methodZip, []byte{byte(e)}, int64(len(form))
		b = form
	}
	var old []byte
	room := maxExpanded
	for _, at := range j.bases {
		o, err := m.from.Read(ctx, m.old[at].node, 0, m.old[at].Size)
		if err != nil {
			return err
		}
		filter := uint64(filterNone)
		if j.method != methodPlain {
			if o, filter = view(o, room); filter != filterNone {
				room -= len(o)
			}
		}
		j.filters = append(j.filters, filter)
		old = append(old, o...)
	}
	j.script.build(old, b, m.opts.Memory)
	return nil
}

// record writes what the head says of a content.
func (m *maker) record(j *job) {
	r := Record{Target: j.target, method: j.method, params: j.params, size: j.size}
	for k, at := range j.bases {
		key := filtered{at, j.filters[k]}
		i, ok := m.baseAt[key]
		if !ok {
			i = len(m.head.Bases)
			m.baseAt[key] = i
			m.head.Bases = append(m.head.Bases, Base{Prefix: Prefix(m.old[at].Digest[:]), Size: m.old[at].Size, filter: key.filter})
		}
		r.Bases = append(r.Bases, i)
	}
	if len(r.Bases) > 0 {
		m.made.Based++
	}
	m.head.Records = append(m.head.Records, r)
}
