package transfer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/ociv2-sync/ociv2-sync/internal/assemble"
	"github.com/ociv2-sync/ociv2-sync/internal/objects"
	"github.com/ociv2-sync/ociv2-sync/internal/root"
	"github.com/ociv2-sync/ociv2-sync/internal/tree"
	"github.com/ociv2-sync/ociv2-sync/seed"
)

// LinkPolicy says how files get what is on the device already.
type LinkPolicy uint8

// The policies.
const (
	// LinkAuto shares blocks where the filesystem can. Where it cannot, images in the root
	// share whole files, as with LinkHard.
	LinkAuto LinkPolicy = iota
	// LinkHard has images in the root share files that do not differ, metadata included,
	// as hard links.
	LinkHard
	// LinkReflink shares blocks where the filesystem can, and copies elsewhere.
	LinkReflink
	// LinkCopy copies every byte.
	LinkCopy
)

// sharesFiles reports whether the image will share files with other images of a root.
func (p *Prepared) sharesFiles() bool {
	if p.opts.Dest.Kind != "" {
		return false // an object has no name outside the root
	}
	return p.opts.Link == LinkHard || p.opts.Link == LinkAuto && !p.sharesBlocks()
}

// sharesBlocks reports whether the image will share blocks with other files where it is made.
func (p *Prepared) sharesBlocks() bool {
	if p.opts.Link == LinkHard || p.opts.Link == LinkCopy {
		return false
	}
	return tree.CanClone(existing(p.destDir()))
}

// destDir is where the filesystem is made.
func (p *Prepared) destDir() string {
	if p.opts.Dest.tree() {
		return p.opts.Dest.Path
	}
	return p.opts.Root // contents of an image wait there for their place in it
}

// intoTree builds the tree of the image in a directory of the root.
func (p *Prepared) intoTree(ctx context.Context, r *root.Root, dir string, out *Pulled) (err error) {
	var opts assemble.Options
	if p.sharesFiles() {
		if opts.Objects, err = objects.Open(r.Objects(), p.opts.Logger); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, opts.Objects.Close()) }()
	}
	return p.carryOut(ctx, dir, out, assemble.Run, opts)
}

// shared returns what of the tree's space is not needed because the files share blocks, or
// are shared, with what is there.
func (p *Prepared) shared(ctx context.Context) int64 {
	switch {
	case p.sharesFiles():
		return p.sharedFiles()
	case p.sharesBlocks():
		return p.sharedBlocks(ctx)
	}
	return 0
}

// sharedFiles is shared for files that are objects of the root already.
func (p *Prepared) sharedFiles() int64 {
	path := root.ObjectsOf(p.opts.Root)
	if _, err := os.Lstat(path); err != nil {
		return 0
	}
	var sum int64
	for i := range p.Plan.Contents {
		c := &p.Plan.Contents[i]
		if c.Seed == seed.None {
			continue
		}
		for _, n := range c.Nodes {
			if objects.Has(path, objects.KeyOf(&p.tree.TOC.Nodes[n], 0)) {
				sum += blocks(c.Size)
			}
		}
	}
	return sum
}

// sharedBlocks is shared for files that are made of the blocks of seeds on the same
// filesystem, and of each other's.
func (p *Prepared) sharedBlocks(ctx context.Context) int64 {
	var sum int64
	near := make(map[int32]bool) // by seed
	for i := range p.Plan.Contents {
		c := &p.Plan.Contents[i]
		sum += blocks(c.Size) * int64(len(c.Nodes)-1) // with each other
		if c.Seed == seed.None {
			continue
		}
		is, known := near[c.Seed]
		if !known {
			is = sameDevice(ctx, p.Plan.Seeds[c.Seed], c.Path, existing(p.destDir()))
			near[c.Seed] = is
		}
		if is {
			sum += blocks(c.Size)
		}
	}
	return sum
}

// sameDevice reports whether the file of a seed lies on the filesystem of a directory.
func sameDevice(ctx context.Context, s seed.Seed, path, dir string) bool {
	r, err := s.Open(ctx, path)
	if err != nil {
		return false
	}
	defer r.Close()
	f, ok := r.(*os.File)
	if !ok {
		return false
	}
	a, errA := f.Stat()
	b, errB := os.Stat(dir)
	if errA != nil || errB != nil {
		return false
	}
	sa, okA := a.Sys().(*syscall.Stat_t)
	sb, okB := b.Sys().(*syscall.Stat_t)
	return okA && okB && sa.Dev == sb.Dev
}

var errLink = fmt.Errorf("transfer: %w: hard links are made between images of the root, not in a directory of their own", ErrUsage)
