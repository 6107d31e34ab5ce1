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
// nearest directory above it that exists, has less than need bytes for us.
func checkSpace(dir string, need int64) error {
	free, err := freeSpace(dir)
	if err != nil {
		return err
	}
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
