package transfer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/ociv2-sync/ociv2-sync/seed"
	"github.com/ociv2-sync/ociv2-sync/toc"
)

// blockSize is the unit in which filesystems are taken to give out space.
const blockSize = 4096

// footprint returns what the image will take on the disk beside what is there now, in bytes.
func (p *Prepared) footprint(ctx context.Context) int64 {
	const (
		inode   = 512     // what a node takes beside its contents
		records = 1 << 16 // manifest, config, the tag
	)
	sum := treeSpace(p.tree.TOC.Nodes) + inode*int64(len(p.tree.TOC.Nodes)) + records + blocks(p.Image.Manifest.TOCSize)
	if p.opts.updates() {
		return sum - p.inPlace()
	}
	if p.opts.Dest.Kind == "" || p.opts.Dest.tree() {
		sum -= p.shared(ctx)
	}
	return sum
}

// least returns what the image will take on the disk at least, whatever is found in
// seeds that have not been read yet.
func (p *Prepared) least(ctx context.Context) int64 {
	if p.opts.updates() || p.sharesBlocks() {
		return 0
	}
	return p.footprint(ctx)
}

// measure says what the pull takes on the disk at its peak, as far as the plan is
// known, if the image takes the given number of bytes.
func (p *Prepared) measure(image int64) {
	p.inRoot, p.held = p.spooled()
	p.inRoot += p.made() + p.wire()
	for i := range p.Plan.Chunks {
		c := &p.Plan.Chunks[i]
		if c.Origin == seed.Fetched || c.Origin == seed.Early {
			p.inRoot += blocks(c.Stored) - c.Stored
		}
		if c.Origin == seed.Early {
			p.held += blocks(c.Stored)
		}
	}
	p.Disk = image + p.inRoot
}

// spooled returns how many bytes of contents of archives wait in the root to be
// copied, or will, and how many of them are there now.
func (p *Prepared) spooled() (found, kept int64) {
	for _, a := range p.archived {
		f, k := a.Spooled()
		found, kept = found+blocks(f), kept+k
	}
	return found, kept
}

// leaveSpace refuses a pull that the disk cannot hold by what is known before seeds
// are read: from then on contents of archives wait in the root. While they are
// read, the image, which takes least, is left its space.
func (p *Prepared) leaveSpace(least int64) error {
	p.inRoot, p.held = p.spooled()
	p.Disk = least + p.inRoot
	if err := p.checkDisk(); err != nil {
		return err
	}
	if p.apart() {
		least = 0
	}
	for _, a := range p.archived {
		a.Leave(least)
	}
	return nil
}

// apart reports whether the image goes to another filesystem than the root's.
func (p *Prepared) apart() bool {
	return p.opts.Dest.tree() && !sameFilesystem(p.opts.Dest.Path, p.opts.Root)
}

// checkDisk fails with ErrSpace if the disk cannot hold what was measured.
func (p *Prepared) checkDisk() error {
	if !p.apart() {
		return checkSpace(p.destDir(), p.Disk, p.held)
	}
	if err := checkSpace(p.opts.Root, p.inRoot, p.held); err != nil {
		return err
	}
	return checkSpace(p.destDir(), p.Disk-p.inRoot, 0)
}

// treeSpace returns what the files and directories of a tree take on a disk
// where nothing is shared, in bytes.
func treeSpace(nodes []toc.Node) int64 {
	var sum int64
	for i := range nodes {
		n := &nodes[i]
		switch {
		case n.Link >= 0:
		case n.IsDir():
			sum += blockSize
		default:
			sum += blocks(n.Size)
		}
	}
	return sum
}

func blocks(size int64) int64 { return (size + blockSize - 1) / blockSize * blockSize }

// layerSize returns about what a layer of the nodes has, in bytes.
func layerSize(nodes []toc.Node) int64 {
	const block = 512
	var sum int64
	for i := range nodes {
		if sum += block; nodes[i].Link < 0 {
			sum += (nodes[i].Size + block - 1) / block * block
		}
	}
	return sum
}

// contentSize returns the bytes of all files of a tree.
func contentSize(nodes []toc.Node) int64 {
	var sum int64
	for i := range nodes {
		if nodes[i].Link < 0 {
			sum += nodes[i].Size
		}
	}
	return sum
}

// checkSpace fails with ErrSpace if the filesystem that holds dir, or the
// nearest directory above it that exists, has less than need bytes for us. kept
// are those of need that it holds already.
func checkSpace(dir string, need, kept int64) error {
	free, err := freeSpace(dir)
	if err != nil {
		return err
	}
	free += kept
	if free < need {
		return fmt.Errorf("transfer: %w: %s has %d bytes free, the image needs %d", ErrSpace, dir, free, need)
	}
	return nil
}

func freeSpace(dir string) (int64, error) {
	dir = existing(dir)
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("transfer: %w", &fs.PathError{Op: "statfs", Path: dir, Err: err})
	}
	return int64(min(st.Bavail, 1<<62/uint64(st.Bsize))) * st.Bsize, nil
}

// existing returns a path or, if nothing is there, the nearest directory above it that is.
func existing(path string) string {
	for {
		_, err := os.Stat(path)
		up := filepath.Dir(path)
		if !errors.Is(err, fs.ErrNotExist) || up == path {
			return path
		}
		path = up
	}
}

// sameFilesystem reports whether two paths, or the directories above them that
// exist, lie on one filesystem.
func sameFilesystem(a, b string) bool {
	fa, errA := os.Stat(existing(a))
	fb, errB := os.Stat(existing(b))
	if errA != nil || errB != nil {
		return false
	}
	sa, okA := fa.Sys().(*syscall.Stat_t)
	sb, okB := fb.Sys().(*syscall.Stat_t)
	return okA && okB && sa.Dev == sb.Dev
}
