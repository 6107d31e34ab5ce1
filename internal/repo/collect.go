package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ociv2-sync/ociv2-sync/caibx"
	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/store"
)

// CollectOptions say what a collection removes. The zero value removes no tag,
// and everything at once that no tag needs.
type CollectOptions struct {
	// Keep and KeepWithin, if one of them is set, have tags removed: all but
	// those of the Keep images of each name that were pushed last, and those
	// that were pushed within KeepWithin.
	Keep       int
	KeepWithin time.Duration
	// KeepDeltas is how long a delta stays, from when it was made, that begins at
	// a tree that no tag of the repository has any more: devices may have it.
	KeepDeltas time.Duration
	// Grace is how old, by the clock of the place, something must be to be
	// removed: a writer that is killed can go on from what it has left.
	Grace time.Duration
	// DryRun removes nothing. It takes no lock: a push beside it may make it
	// count too much.
	DryRun bool
	// Now is the clock.
	Now func() time.Time
	// Waiting, if set, is told whose pushes a collection waits for.
	Waiting func(owners []string)
	// Removing, if set, is told each file that goes, or would. Calls may overlap.
	Removing func(path string)
}

// Count is a number of files and their bytes.
type Count struct {
	Files int
	Bytes int64
}

func (c *Count) add(e store.Entry) {
	c.Files++
	c.Bytes += e.Size
}

// Collected is what a collection has removed, or would.
type Collected struct {
	// Tags are those that were removed, as NAME:TAG, sorted, and Deltas counts the
	// deltas that tags list no more.
	Tags   []string
	Deltas int
	// Blobs and Chunks were removed; Others are what killed writers have left.
	Blobs, Chunks, Others Count
	// KeptBlobs and KeptChunks remain.
	KeptBlobs, KeptChunks Count
}

// errBusy reports that somebody pushes.
var errBusy = errors.New("a push is under way")

// Collect removes from the repository in s the tags that the options say, and
// what no tag needs: docs/format/repository.md, section 7.2. It waits for pushes
// that are under way, and others wait for it. Everything that it goes by is read
// first: on an error there nothing has been removed.
func Collect(ctx context.Context, s Space, o CollectOptions) (*Collected, error) {
	if o.DryRun {
		c := &collection{space: s, opts: o, clock: o.Now()}
		return &c.done, c.run(ctx)
	}
	for {
		c := &collection{space: s, opts: o}
		var owners []string
		err := holding(ctx, s, collectName, o.Now, true, func(ctx context.Context, _ claim) (err error) {
			if owners, err = leases(ctx, s, o.Now()); err != nil {
				return err
			}
			if len(owners) > 0 {
				return errBusy
			}
			if c.clock, err = clockOf(ctx, s, o.Now()); err != nil {
				return err
			}
			return c.run(ctx)
		})
		if !errors.Is(err, errBusy) {
			return &c.done, err
		}
		if o.Waiting != nil {
			o.Waiting(owners)
		}
		if err := pause(ctx, s); err != nil {
			return nil, fmt.Errorf("repo: %s: wait for pushes: %w", s, err)
		}
	}
}

// clockOf returns the time by the clock of the place, which has just got a lock
// file.
func clockOf(ctx context.Context, s Space, now time.Time) (time.Time, error) {
	for e, err := range s.List(ctx, ".", false) {
		if err != nil {
			return now, fmt.Errorf("repo: %w", err)
		}
		if e.Path == collectName {
			return e.ModTime, nil
		}
	}
	return now, nil
}

// collection is a run of Collect.
type collection struct {
	space Space
	opts  CollectOptions
	clock time.Time
	names []*nameState

	mu     sync.Mutex
	chunks map[chunk.ID]struct{} // that are needed
	done   Collected
	dirs   map[string]bool // from which something was removed
}

// run collects. First everything is read.
func (c *collection) run(ctx context.Context) error {
	c.chunks, c.dirs = make(map[chunk.ID]struct{}), make(map[string]bool)
	if err := isRepository(ctx, c.space); err != nil {
		return err
	}
	err := walkNames(ctx, c.space, ".", func(name string) error {
		n, err := c.readName(ctx, name)
		if err == nil {
			c.names = append(c.names, n)
		}
		return err
	})
	if err != nil {
		return err
	}
	c.choose()
	for _, n := range c.names {
		if err := c.mark(ctx, n); err != nil {
			return err
		}
	}
	if err := c.markForeign(ctx, "."); err != nil {
		return err
	}
	if !c.opts.DryRun {
		if err := c.update(ctx); err != nil {
			return err
		}
	}
	return c.sweep(ctx)
}

// isRepository refuses a place that has nothing of a repository: whoever names
// the wrong directory loses nothing.
func isRepository(ctx context.Context, s Space) error {
	for e, err := range s.List(ctx, ".", false) {
		if err != nil {
			return fmt.Errorf("repo: %w", err)
		}
		if e.Path == catalogName || e.Path == StoreName && e.Dir {
			return nil
		}
	}
	return fmt.Errorf("repo: %s: %w: neither %s nor %s is there", s, store.ErrNotFound, catalogName, StoreName)
}

// markForeign keeps the chunks of the indexes in a directory that are no image's:
// what casync's users put there.
func (c *collection) markForeign(ctx context.Context, dir string, ours ...string) error {
	for e, err := range c.space.List(ctx, dir, false) {
		if err != nil {
			return fmt.Errorf("repo: %w", err)
		}
		base := path.Base(e.Path)
		if e.Dir || !strings.HasSuffix(base, ".caidx") && !strings.HasSuffix(base, ".caibx") || strings.HasPrefix(base, ".") ||
			slices.Contains(ours, base) {
			continue
		}
		b, err := c.space.ReadFile(ctx, e.Path, e.Size)
		if err != nil {
			return fmt.Errorf("repo: %w", err)
		}
		x, err := caibx.Read(bytes.NewReader(b))
		if err != nil {
			return objectError(c.space, e.Path, err)
		}
		c.need(x)
	}
	return nil
}

func (c *collection) need(x *caibx.Index) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, k := range x.Chunks {
		c.chunks[k.ID] = struct{}{}
	}
}

// update takes the tags and deltas that go out of what readers begin with.
func (c *collection) update(ctx context.Context) error {
	changed := slices.ContainsFunc(c.names, func(n *nameState) bool { return len(n.drop)+len(n.deadDeltas) > 0 })
	if !changed {
		return nil
	}
	return updating(ctx, c.space, c.opts.Now, func(ctx context.Context, u *updater) error {
		for _, n := range c.names {
			if err := c.updateName(ctx, u, n); err != nil {
				return err
			}
		}
		return u.update(ctx, catalogName, maxCatalog, func([]byte) ([]byte, error) { return u.makeCatalog(ctx) })
	})
}

// removals is how many files are removed at a time.
const removals = 32

// sweep removes what was not marked and is old enough.
func (c *collection) sweep(ctx context.Context) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(removals)
	if err := errors.Join(c.sweepDirs(gctx, g), g.Wait()); err != nil {
		return err
	}
	return c.tidy(ctx)
}

// sweepDirs goes through all directories in which there is something to remove.
func (c *collection) sweepDirs(ctx context.Context, g *errgroup.Group) error {
	if err := c.sweepDir(ctx, g, ".", nil); err != nil {
		return err
	}
	for _, n := range c.names {
		if n.other {
			continue
		}
		if err := c.sweepDir(ctx, g, n.name, nil); err != nil {
			return err
		}
		err := c.sweepDir(ctx, g, n.name+"/blobs/sha256", func(e store.Entry, base string) {
			c.decide(ctx, g, e, n.blobs[base], &c.done.Blobs, &c.done.KeptBlobs)
		})
		if err != nil {
			return err
		}
	}
	return c.sweepDir(ctx, g, StoreName, func(e store.Entry, base string) {
		// Whatever else lies there stays.
		if id, err := chunk.ParseID(strings.TrimSuffix(base, ".cacnk")); err == nil {
			_, needed := c.chunks[id]
			c.decide(ctx, g, e, needed, &c.done.Chunks, &c.done.KeptChunks)
		}
	})
}

// sweepDir removes what killed writers have left in a directory. The other files in
// it and below it are for decide to decide on; nil leaves them, and does not go below.
func (c *collection) sweepDir(ctx context.Context, g *errgroup.Group, dir string, decide func(e store.Entry, base string)) error {
	for e, err := range c.space.List(ctx, dir, decide != nil) {
		if err != nil {
			return fmt.Errorf("repo: %w", err)
		}
		base := path.Base(e.Path)
		switch {
		case e.Dir:
		case strings.HasSuffix(base, ".tmp"):
			// Somebody may be writing it, under a lock alone.
			if c.clock.Sub(e.ModTime) >= max(c.opts.Grace, lockTime) {
				c.remove(ctx, g, e, &c.done.Others)
			}
		case decide != nil:
			decide(e, base)
		}
	}
	return nil
}

// decide removes a file, or counts it among those that are kept.
func (c *collection) decide(ctx context.Context, g *errgroup.Group, e store.Entry, needed bool, gone, kept *Count) {
	if needed || c.clock.Sub(e.ModTime) < c.opts.Grace {
		kept.add(e)
		return
	}
	c.remove(ctx, g, e, gone)
}

// remove has a file removed by g, unless nothing is to be.
func (c *collection) remove(ctx context.Context, g *errgroup.Group, e store.Entry, gone *Count) {
	gone.add(e)
	if c.opts.Removing != nil {
		c.opts.Removing(e.Path)
	}
	if c.opts.DryRun {
		return
	}
	c.dirs[path.Dir(e.Path)] = true
	g.Go(func() error {
		if err := c.space.Remove(ctx, e.Path); err != nil {
			return fmt.Errorf("repo: %w", err)
		}
		return nil
	})
}

// tidy removes directories in which nothing is left.
func (c *collection) tidy(ctx context.Context) error {
	t, ok := c.space.(Tidier)
	if !ok || c.opts.DryRun {
		return nil
	}
	var dirs []string
	for dir := range c.dirs {
		if strings.HasPrefix(dir, StoreName+"/") {
			dirs = append(dirs, dir)
		}
	}
	for _, n := range c.names {
		if len(n.images) > 0 || n.other {
			continue
		}
		top, _, _ := strings.Cut(n.name, "/") // with what is above the name
		if !slices.Contains(dirs, top) {
			dirs = append(dirs, top)
		}
	}
	if len(dirs) == 0 {
		return nil
	}
	if err := t.Tidy(ctx, dirs...); err != nil {
		return fmt.Errorf("repo: %w", err)
	}
	return nil
}
