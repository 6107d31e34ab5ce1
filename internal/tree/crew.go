package tree

import (
	"context"
	"errors"
	"io"
	"path"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/ociv2-sync/ociv2-sync/catar"
)

const (
	// smallFile is the size in bytes up to which a file is left to the crew.
	smallFile = 64 << 10
	// crewFiles and crewBytes are what one batch for the crew holds at most: so
	// much that waking somebody up for it hardly counts.
	crewFiles = 32
	crewBytes = 4 * smallFile
	// maxCrew is how many write at the same time at most: they wait for each other
	// inside the kernel where their files are in one directory.
	maxCrew = 4
)

// crew writes small files while the archive is read on. Making, describing and
// closing a file takes the kernel far longer than reading its few bytes takes us.
type crew struct {
	x    *extractor
	work chan *crewBatch
	free chan *crewBatch
	now  *crewBatch // being filled
}

// crewBatch is some files to be written.
type crewBatch struct {
	files []smallOne
	data  []byte // of all of them
}

type smallOne struct {
	dir  *filling
	name string
	meta Meta
	size int
}

// filling is a directory that is done when the archive has no more for it and
// nobody is writing a file in it any more.
type filling struct {
	dir  *Dir
	left atomic.Int32
	done func() error // set before the archive's own turn ends
}

func newFilling(d *Dir) *filling {
	f := &filling{dir: d}
	f.left.Store(1)
	return f
}

func (f *filling) end() error {
	if f.left.Add(-1) > 0 {
		return nil
	}
	return f.done()
}

// start has the crew work until wait is called, which returns when all is done.
// After a failure, which ends ctx, the crew does no more than to end the
// directories of what it is given.
func (c *crew) start(ctx context.Context, cancel context.CancelCauseFunc) (wait func()) {
	n := min(runtime.GOMAXPROCS(0), maxCrew)
	c.work, c.free = make(chan *crewBatch), make(chan *crewBatch, n+2)
	for range n + 2 {
		c.free <- &crewBatch{}
	}
	var all sync.WaitGroup
	for range n {
		all.Go(func() {
			for b := range c.work {
				data := b.data
				for i := range b.files {
					f := &b.files[i]
					if err := c.one(ctx, f, data[:f.size]); err != nil {
						cancel(err)
					}
					data = data[f.size:]
				}
				c.free <- b
			}
		})
	}
	return func() {
		c.flush()
		close(c.work)
		all.Wait()
	}
}

func (c *crew) one(ctx context.Context, f *smallOne, data []byte) error {
	err := ctx.Err()
	if err == nil {
		err = c.x.small(f, data)
	}
	return errors.Join(err, f.dir.end())
}

// takes reports whether a file is one for the crew: in a new tree, small, and
// nothing special.
func (c *crew) takes(e *catar.Entry) bool {
	o := &c.x.opts
	return o.New && o.Filled == nil && o.Twin == nil && e.IsRegular() && e.Size <= smallFile && e.FileFlags&c.x.flags == 0
}

// write reads a file and hands it to the crew.
func (c *crew) write(l *level, e *catar.Entry, m Meta) error {
	if c.now == nil {
		c.now = <-c.free
		c.now.files, c.now.data = c.now.files[:0], c.now.data[:0]
	}
	b, n := c.now, int(e.Size)
	if cap(b.data) == 0 {
		b.data = make([]byte, 0, crewBytes)
	}
	if _, err := io.ReadFull(c.x.r, b.data[len(b.data):len(b.data)+n]); err != nil {
		return err
	}
	b.data = b.data[:len(b.data)+n]
	l.filling.left.Add(1)
	b.files = append(b.files, smallOne{dir: l.filling, name: e.Name, meta: m, size: n})
	if len(b.files) == crewFiles || len(b.data) > crewBytes-smallFile {
		c.flush()
	}
	return nil
}

func (c *crew) flush() {
	if c.now != nil {
		c.work <- c.now
		c.now = nil
	}
}

// small makes a small file.
func (x *extractor) small(s *smallOne, data []byte) error {
	d := s.dir.dir
	fd, err := d.openat(s.name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	f := &rawFile{fd: fd, dir: d.path, name: s.name}
	if x.opts.PunchHoles {
		w := NewSparseWriter(f)
		if _, err = w.Write(data); err == nil {
			err = w.End()
		}
	} else if len(data) > 0 {
		_, err = f.WriteAt(data, 0)
	}
	if err == nil {
		var notes []Unrestored
		notes, err = SetFileMeta(f, s.meta)
		err = x.noted(notes, err)
	}
	return errors.Join(err, d.error("close", s.name, unix.Close(fd)))
}

// rawFile is what is needed of an os.File to write a file, without the system
// calls that opening one as such takes.
type rawFile struct {
	fd        int
	dir, name string
}

func (f *rawFile) Fd() uintptr  { return uintptr(f.fd) }
func (f *rawFile) Name() string { return path.Join(f.dir, f.name) }

func (f *rawFile) WriteAt(p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) {
		err := retry(func() error {
			n, err := unix.Pwrite(f.fd, p[done:], off+int64(done))
			done += max(n, 0)
			return err
		})
		if err != nil {
			return done, pathError("write", f.Name(), err)
		}
	}
	return done, nil
}

func (f *rawFile) Truncate(size int64) error {
	return pathError("truncate", f.Name(), retry(func() error { return unix.Ftruncate(f.fd, size) }))
}
