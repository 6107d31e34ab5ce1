package transfer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/ociv2-sync/ociv2-sync/internal/assemble"
	"github.com/ociv2-sync/ociv2-sync/internal/bundle"
	"github.com/ociv2-sync/ociv2-sync/internal/durable"
	"github.com/ociv2-sync/ociv2-sync/internal/tree"
	"github.com/ociv2-sync/ociv2-sync/toc"
)

// check refuses options that contradict each other, and a destination that cannot be made.
func (o *PullOptions) check() error {
	switch {
	case o.InPlace && o.Replace:
		return fmt.Errorf("transfer: %w: a directory is changed in place or replaced, not both", ErrUsage)
	case o.InPlace && !o.Dest.tree():
		return fmt.Errorf("transfer: %w: only a directory (rootfs:DIR, bundle:DIR) is changed in place", ErrUsage)
	}
	if err := o.Dest.check(o.Replace || o.InPlace); err != nil {
		return err
	}
	if fi, err := os.Lstat(o.Dest.rootfs()); o.updates() && (err != nil || !fi.IsDir()) {
		return fmt.Errorf("transfer: %w: %s is not empty and no bundle: it has no directory rootfs", durable.ErrOccupied, o.Dest.Path)
	}
	return nil
}

// updates reports whether a directory with something in it is changed in place. One that is
// not there, or empty, is made as without InPlace.
func (o *PullOptions) updates() bool {
	if !o.InPlace || !o.Dest.tree() {
		return false
	}
	entries, err := os.ReadDir(o.Dest.Path)
	return err == nil && len(entries) > 0
}

// rootfs is where the filesystem of a tree is.
func (d Dest) rootfs() string {
	if d.Kind == Bundle {
		return filepath.Join(d.Path, "rootfs")
	}
	return d.Path
}

// update changes the destination in place.
func (p *Prepared) update(ctx context.Context, out *Pulled) error {
	dir := p.opts.Dest.rootfs()
	err := p.carryOut(ctx, dir, out, assemble.Update, assemble.Options{UIDShift: p.opts.UIDShift})
	if err != nil || p.opts.Dest.Kind != Bundle {
		return err
	}
	spec, err := bundle.Config(p.Image.Config, func(path string) ([]byte, error) { return readInTree(p.tree.TOC.Nodes, dir, path) })
	if err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(p.opts.Dest.Path, "config.json"), spec, 0o644)
}

// carryOut has run build the image in a directory.
func (p *Prepared) carryOut(ctx context.Context, dir string, out *Pulled,
	run func(context.Context, assemble.Job, *tree.Dir, assemble.Options) (*assemble.Stats, error), opts assemble.Options,
) (err error) {
	job, err := p.job()
	if err != nil {
		return err
	}
	dest, err := tree.OpenDir(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dest.Close()) }()
	opts.Jobs, opts.Logger, opts.Progress = p.opts.Jobs, p.opts.Logger, p.opts.Progress
	opts.NoClone = p.opts.Link == LinkCopy
	work := func(ctx context.Context) (err error) {
		out.Stats, err = run(ctx, job, dest, opts)
		return err
	}
	if opts.ContentsOnly { // they go when the image is made of them, and need not be on the disk
		err = work(ctx)
	} else {
		err = durable.SyncWhile(ctx, dir, work)
	}
	if err == nil && len(out.Stats.Unrestored) > 0 && !p.opts.Lenient {
		err = &UnrestoredError{out.Stats.Unrestored}
	}
	return err
}

// inPlace returns what of the tree's space is not needed because files that have the
// right size, and contents that a seed has, lie where they are to be.
func (p *Prepared) inPlace() int64 {
	nodes := p.tree.TOC.Nodes
	dir := p.opts.Dest.rootfs()
	var sum int64
	for i := range p.Plan.Contents {
		c := &p.Plan.Contents[i]
		if c.Seed < 0 {
			continue
		}
		for _, n := range c.Nodes {
			fi, err := os.Lstat(filepath.Join(dir, toc.Path(nodes, int(n))))
			if err == nil && fi.Mode().IsRegular() && fi.Size() == c.Size {
				sum += blocks(c.Size)
			}
		}
	}
	return sum
}
