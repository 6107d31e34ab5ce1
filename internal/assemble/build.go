package assemble

import (
	"context"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"

	"github.com/ociv2-sync/ociv2-sync/internal/tree"
	"github.com/ociv2-sync/ociv2-sync/seed"
	"github.com/ociv2-sync/ociv2-sync/toc"
)

// builder is one run.
type builder struct {
	job    Job
	opts   Options
	dest   *tree.Dir
	parent []int32 // by node: its directory
	bare   bool    // dest hands no xattrs down to what is made in it

	fetched, fetchedBytes atomic.Int64
	copied, copiedBytes   atomic.Int64
	made, madeBytes       atomic.Int64
	linked, linkedBytes   atomic.Int64
	kept, keptBytes       atomic.Int64
	changed, removed      atomic.Int64

	absent map[int32]bool // nodes that could not be made; one goroutine at a time uses it
	apart  map[int32]bool // groups that part was called for, as absent

	mu         sync.Mutex
	unrestored []tree.Unrestored
	lost       map[Loss]int
}

// lose counts pieces that were not where the plan said, and reports whether they are the
// first.
func (b *builder) lose(why Loss, n int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	first := b.lost == nil
	if first {
		b.lost = make(map[Loss]int)
	}
	b.lost[why] += n
	return first
}

// missed counts a piece that a seed does not have after all. Of what may be thousands the
// first is a warning; Stats has their number.
func (b *builder) missed(ctx context.Context, what string, from int, file string, err error) {
	level := slog.LevelInfo
	if b.lose(lossOf(err), 1) {
		level = slog.LevelWarn
	}
	b.opts.Logger.Log(ctx, level, what, "seed", b.job.Plan.Seeds[from], "file", file, "reason", err)
}

func (b *builder) received(n int64) {
	b.fetched.Add(1)
	b.fetchedBytes.Add(n)
	b.opts.Progress(n, 0)
}

func (b *builder) result() *Stats {
	return &Stats{
		Copied:       int(b.copied.Load()),
		CopiedBytes:  b.copiedBytes.Load(),
		Linked:       int(b.linked.Load()),
		LinkedBytes:  b.linkedBytes.Load(),
		Lost:         b.lost,
		Fetched:      int(b.fetched.Load()),
		FetchedBytes: b.fetchedBytes.Load(),
		Made:         int(b.made.Load()),
		MadeBytes:    b.madeBytes.Load(),
		Kept:         int(b.kept.Load()),
		KeptBytes:    b.keptBytes.Load(),
		Changed:      int(b.changed.Load()),
		Removed:      int(b.removed.Load()),
		Unrestored:   b.unrestored,
	}
}

// add counts what another run did.
func (b *builder) add(s *Stats) {
	b.copied.Add(int64(s.Copied))
	b.copiedBytes.Add(s.CopiedBytes)
	for why, n := range s.Lost {
		b.lose(why, n)
	}
	b.fetched.Add(int64(s.Fetched))
	b.fetchedBytes.Add(s.FetchedBytes)
	b.made.Add(int64(s.Made))
	b.madeBytes.Add(s.MadeBytes)
	b.unrestored = append(b.unrestored, s.Unrestored...)
}

// note keeps what could not be restored of node i.
func (b *builder) note(i int32, un []tree.Unrestored) {
	if len(un) == 0 {
		return
	}
	path := toc.Path(b.job.Nodes, int(i))
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, u := range un {
		u.Path = path
		b.unrestored = append(b.unrestored, u)
	}
}

// lack notes that node i could not be made at all.
func (b *builder) lack(i int32, err error) {
	b.absent[i] = true
	b.note(i, []tree.Unrestored{{What: "node", Err: err}})
}

// meta returns what the disk is to say of node i.
func (b *builder) meta(i int32) tree.Meta {
	m := tree.MetaOf(&b.job.Nodes[i])
	m.UID += b.opts.UIDShift
	m.GID += b.opts.UIDShift
	m.NoXAttrs = b.bare && i > 0
	return m
}

// walk calls enter for every node below the root with the directory it lies
// in, and leave for every directory, the root included, after everything in
// it. Either may be nil.
func (b *builder) walk(ctx context.Context, open func(parent *tree.Dir, name string) (*tree.Dir, error), enter func(d *tree.Dir, i int32) error, leave func(d *tree.Dir, i int32) error) (err error) {
	type level struct {
		dir  *tree.Dir
		node int32
	}
	stack := []level{{b.dest, 0}}
	pop := func() error {
		top := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		var err error
		if leave != nil {
			err = leave(top.dir, top.node)
		}
		if top.node != 0 {
			top.dir.Close()
		}
		if err != nil {
			return b.at(top.node, err)
		}
		return nil
	}
	defer func() {
		for _, l := range stack[min(1, len(stack)):] {
			l.dir.Close()
		}
	}()
	for k := 1; k < len(b.job.Nodes); k++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		i, n := int32(k), &b.job.Nodes[k]
		for len(stack) > n.Depth {
			if err := pop(); err != nil {
				return err
			}
		}
		dir := stack[len(stack)-1].dir
		if enter != nil {
			if err := enter(dir, i); err != nil {
				return b.at(i, err)
			}
		}
		if n.IsDir() {
			sub, err := open(dir, n.Name)
			if err != nil {
				return b.at(i, err)
			}
			stack = append(stack, level{sub, i})
		}
	}
	for len(stack) > 0 {
		if err := pop(); err != nil {
			return err
		}
	}
	return nil
}

// skeleton makes every directory, with no more than the modes needed to fill
// it, and every node without content that is not a further name of another.
func (b *builder) skeleton(ctx context.Context) error {
	return b.walk(ctx, (*tree.Dir).Mkdir, func(d *tree.Dir, i int32) error {
		n := &b.job.Nodes[i]
		if n.Link >= 0 {
			return nil
		}
		var err error
		switch n.Type() {
		case toc.TypeDir:
			return nil
		case toc.TypeRegular:
			if n.Size > 0 {
				return nil
			}
			f, err := d.Create(n.Name)
			if err != nil {
				return err
			}
			_, err = b.seal(i, f)
			return err
		case toc.TypeSymlink:
			err = d.Symlink(n.Target, n.Name)
		default:
			err = d.Mknod(n.Name, n.Mode, n.Major, n.Minor)
		}
		if err != nil && tree.MayLack(err) {
			b.lack(i, err)
			return nil
		}
		if err != nil {
			return err
		}
		un, err := d.SetMeta(n.Name, b.meta(i))
		b.note(i, un)
		return err
	}, nil)
}

// finish makes the further names of hard-link groups, then gives each
// directory its metadata, the deepest first: nothing changes in it any more.
func (b *builder) finish(ctx context.Context) error {
	at := b.cursor()
	defer at.close()
	return b.walk(ctx, (*tree.Dir).OpenDir, func(d *tree.Dir, i int32) error {
		n := &b.job.Nodes[i]
		if n.Link < 0 {
			return nil
		}
		_, err := b.further(ctx, d, n.Name, i, at)
		return err
	}, func(d *tree.Dir, i int32) error {
		un, err := d.SetSelf(b.meta(i))
		b.note(i, un)
		return err
	})
}

// seal gives a completely written file its metadata and closes it. It reports whether all of
// them could be restored.
func (b *builder) seal(i int32, f *os.File) (bool, error) {
	un, err := tree.SetFileMeta(f, b.meta(i))
	b.note(i, un)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return len(un) == 0, err
}

// complete turns a verified content, written to the new file f of the first of the
// places, into files for all of them.
func (b *builder) complete(ctx context.Context, at *cursor, c *seed.Content, to []place, f *os.File) error {
	if b.opts.ContentsOnly {
		b.opts.Progress(0, c.Size*int64(len(c.Nodes)))
		return f.Close()
	}
	for _, p := range to[1:] {
		g, err := at.create(p.node)
		if err != nil {
			f.Close()
			return err
		}
		err = b.duplicate(ctx, g, f, c.Size)
		if err != nil {
			g.Close()
		} else {
			err = b.finishFile(at, p, g)
		}
		if err != nil {
			f.Close()
			return b.at(p.node, err)
		}
		b.opts.Progress(0, c.Size)
	}
	if err := b.finishFile(at, to[0], f); err != nil {
		return b.at(to[0].node, err)
	}
	b.opts.Progress(0, c.Size)
	return nil
}

// finishFile completes the file f of a place.
func (b *builder) finishFile(at *cursor, p place, f *os.File) error {
	whole, err := b.seal(p.node, f)
	if err != nil || !whole || b.opts.Objects == nil {
		return err
	}
	d, err := at.dir(p.node)
	if err != nil {
		return err
	}
	return b.opts.Objects.Add(d, b.job.Nodes[p.node].Name, p.key)
}

// duplicate makes the contents of f, which is empty, those of a file that we made.
func (b *builder) duplicate(ctx context.Context, f, from *os.File, size int64) error {
	if b.opts.NoClone {
		return tree.Copy(ctx, f, from, 0, size, true)
	}
	return tree.CloneOrCopy(ctx, f, from, size)
}

// cursor opens the directories of nodes, keeping the last one open: nodes are
// mostly visited directory by directory. It is for one goroutine.
type cursor struct {
	b    *builder
	node int32 // the open directory; 0 is the root, which the cursor never closes
	open *tree.Dir
}

func (b *builder) cursor() *cursor { return &cursor{b: b, open: b.dest} }

func (c *cursor) close() {
	if c.node != 0 {
		c.open.Close()
	}
	c.node, c.open = 0, c.b.dest
}

// dir returns the directory that node i lies in, valid until the next call.
func (c *cursor) dir(i int32) (*tree.Dir, error) {
	want := c.b.parent[i]
	if want == c.node {
		return c.open, nil
	}
	c.close()
	var chain []int32
	for n := want; n > 0; n = c.b.parent[n] {
		chain = append(chain, n)
	}
	for k := len(chain) - 1; k >= 0; k-- {
		n := chain[k]
		d, err := c.open.OpenDir(c.b.job.Nodes[n].Name)
		if err != nil {
			return nil, c.b.at(n, err)
		}
		c.close()
		c.node, c.open = n, d
	}
	return c.open, nil
}

// place returns the directory and the name of the file of node i.
func (c *cursor) place(i int32) (*tree.Dir, string, error) {
	n := &c.b.job.Nodes[i]
	if c.b.opts.ContentsOnly {
		return c.b.dest, ContentName(n.Digest), nil
	}
	d, err := c.dir(i)
	return d, n.Name, err
}

// create makes the file of node i, empty and private.
func (c *cursor) create(i int32) (*os.File, error) {
	d, name, err := c.place(i)
	if err != nil {
		return nil, err
	}
	f, err := d.Create(name)
	if err != nil {
		return nil, c.b.at(i, err)
	}
	return f, nil
}

// remove takes back what create made.
func (c *cursor) remove(i int32) error {
	d, name, err := c.place(i)
	if err != nil {
		return err
	}
	if err := d.Remove(name); err != nil {
		return c.b.at(i, err)
	}
	return nil
}
