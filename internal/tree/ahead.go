package tree

import (
	"context"
	"io"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/ociv2-sync/ociv2-sync/catar"
)

const (
	// aheadFrom is the number of names from which a directory is read ahead.
	aheadFrom = 8
	// maxAhead is how many batches there are. A directory takes two of them; with
	// several such directories inside each other the innermost go without.
	maxAhead = 8
)

// ahead is a batch of names of one directory whose small files are read before
// their turn, by several goroutines: asking the kernel for the attributes and the
// few bytes of a small file takes far longer than writing them.
type ahead struct {
	by   []inspector // one for each goroutine
	skip bool        // contents are not needed

	names []string
	files []aheadFile
	data  []byte
	used  atomic.Int64 // of data
	next  atomic.Int64 // of names

	wg sync.WaitGroup
}

// aheadFile is a file that was read; ent is nil for all else, which is read in its
// turn. Files that are left out, or cannot be read, are among that: whoever has the
// turn says so.
type aheadFile struct {
	ent  *catar.Entry
	st   unix.Stat_t
	data []byte
}

func newAhead(opts EncodeOptions, jobs int) *ahead {
	a := &ahead{skip: opts.Skip, by: make([]inspector, jobs), files: make([]aheadFile, crewFiles)}
	for i := range a.by {
		a.by[i] = newInspector(opts)
	}
	return a
}

// children encodes what is in d.
func (e *encoder) children(ctx context.Context, d *Dir, all []string, depth int, rules []rule) error {
	now, next := e.takeAhead(len(all))
	if next == nil {
		for _, n := range all {
			if err := e.child(ctx, d, n, depth, rules); err != nil {
				return err
			}
		}
		return nil
	}
	defer func() { // whatever happens, nobody uses d any more
		for _, a := range []*ahead{now, next} {
			a.wg.Wait()
			e.ahead <- a
		}
	}()
	all = now.start(ctx, d, all, rules)
	for len(now.names) > 0 {
		all = next.start(ctx, d, all, rules)
		now.wg.Wait()
		for i, n := range now.names {
			if err := e.readChild(ctx, d, n, &now.files[i], depth, rules); err != nil {
				return err
			}
		}
		now, next = next, now
	}
	return nil
}

// takeAhead returns two batches for a directory of n names, if it is worth it and
// there are two.
func (e *encoder) takeAhead(n int) (now, next *ahead) {
	if n < aheadFrom || len(e.ahead) < 2 {
		return nil, nil
	}
	return <-e.ahead, <-e.ahead
}

// readChild encodes a node in d, which may have been read ahead.
func (e *encoder) readChild(ctx context.Context, d *Dir, name string, f *aheadFile, depth int, rules []rule) error {
	if f.ent == nil {
		return e.child(ctx, d, name, depth, rules)
	}
	f.ent.Depth = depth
	return e.regular(d, f.ent, &f.st, func() error {
		_, err := e.w.Write(f.data)
		return err
	})
}

// start has the goroutines read files in d until a.wg says that they are done. It
// returns the names that are left for other batches.
func (a *ahead) start(ctx context.Context, d *Dir, names []string, rules []rule) []string {
	n := min(len(names), len(a.files))
	a.names = names[:n]
	a.used.Store(0)
	a.next.Store(0)
	if n > 0 && a.data == nil && !a.skip {
		a.data = make([]byte, crewBytes)
	}
	for i := range min(n, len(a.by)) {
		a.wg.Go(func() {
			for {
				k := int(a.next.Add(1)) - 1
				if k >= n {
					return
				}
				a.files[k] = aheadFile{}
				a.read(ctx, d, &a.by[i], k, rules)
			}
		})
	}
	return names[n:]
}

// read reads file number k in d, unless it is to wait for its turn.
func (a *ahead) read(ctx context.Context, d *Dir, by *inspector, k int, rules []rule) {
	name, f := a.names[k], &a.files[k]
	st, err := d.lstat(name)
	if err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size > smallFile || !by.flags.Stores(st.Mode) {
		return
	}
	if excluded, _ := match(rules, name, false); excluded {
		return
	}
	fd, st, err := d.open(name)
	if err != nil {
		return
	}
	c := newContents(ctx, d, name, fd, &st)
	ent, ok := a.inspect(d, by, c, &st)
	if ok && ent.Size > 0 && !a.skip {
		f.data, ok = a.contents(c, int64(ent.Size))
	}
	if c.Close() == nil && ok {
		f.ent, f.st = ent, st
	}
}

// inspect returns the entry of an open file, unless the file is left out.
func (a *ahead) inspect(d *Dir, by *inspector, c *contents, st *unix.Stat_t) (*catar.Entry, bool) {
	flags, skip, err := by.fileFlags(d, c.fd, st)
	if err != nil || skip {
		return nil, false
	}
	ent, err := by.entry(c.fd, st, flags)
	if err != nil {
		return nil, false
	}
	ent.Name = c.name
	return ent, true
}

// contents reads size bytes, the last of c, if there is room for them.
func (a *ahead) contents(c *contents, size int64) ([]byte, bool) {
	end := a.used.Add(size)
	if end > int64(len(a.data)) {
		return nil, false
	}
	c.left = size
	data := a.data[end-size : end : end]
	if _, err := io.ReadFull(c, data); err != nil {
		return nil, false
	}
	n, err := c.Read(nil)                // says whether the file changed
	return data, n == 0 && err == io.EOF //nolint:errorlint // the bare value alone is the end
}
