package catalogue

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ociv2-sync/ociv2-sync/internal/durable"
	"github.com/ociv2-sync/ociv2-sync/seed"
)

const (
	fileName = "digests"
	lockName = "lock"

	// maxFile is the largest catalogue that is read, in bytes.
	maxFile = 1 << 30
	// racy is how near to now a change of a file may be when its hashing
	// begins. A filesystem's clock may tick only every two seconds, and a
	// later change within the same tick would not show.
	racy = 2500 * time.Millisecond
	// keepDays is for how many days an entry that nobody used is kept.
	keepDays = 60
	// touchDays is how old the note of an entry's last use gets before the
	// file is written for it alone.
	touchDays = 7
	// lockWait is how long Close waits for another process to finish its own.
	lockWait = 5 * time.Second
)

// Options are the options of Open. The zero value works.
type Options struct {
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// Logger is told of a catalogue that cannot be used; nil is silent.
	Logger *slog.Logger
}

// Catalogue is a [seed.Memory] in a directory of its own. It is safe for
// concurrent use, and any number of processes may use one directory.
type Catalogue struct {
	dir  string
	now  func() time.Time
	boot string
	old  table

	mu    sync.Mutex
	seen  []uint64 // bit set: the old entry's file was met, and looked as it did
	done  map[uint32]bool
	fresh *fresh
	fses  map[uint64]uint64      // by device number; 0: it cannot be identified
	lists map[seed.Digest][]byte // that are to be written, by their digests
	// closed says that nothing is known or learned any more.
	closed bool
}

// Open reads the catalogue in dir, which Close makes if need be. One that is
// corrupt is as good as none: what it knew is found out again.
func Open(dir string, o Options) (*Catalogue, error) {
	c := &Catalogue{
		dir: dir, now: o.Now, boot: bootID(),
		done: make(map[uint32]bool), fresh: newFresh(), fses: make(map[uint64]uint64),
		lists: make(map[seed.Digest][]byte),
	}
	if c.now == nil {
		c.now = time.Now
	}
	var err error
	c.old, err = read(filepath.Join(dir, fileName))
	if errors.Is(err, ErrCorrupt) {
		if o.Logger != nil {
			o.Logger.Warn("the catalogue of seed files is begun anew", "reason", err)
		}
		err = nil
	}
	if err != nil {
		return nil, fmt.Errorf("catalogue: %w", err)
	}
	c.seen = make([]uint64, (c.old.len()+63)/64)
	return c, nil
}

// openFile opens a catalogue file.
func openFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	fi, err := f.Stat()
	if err == nil && (!fi.Mode().IsRegular() || fi.Size() > maxFile) {
		err = fmt.Errorf("%w: %s is no file of a size that it may have", ErrCorrupt, path)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// read reads a catalogue file. That there is none is no error.
func read(path string) (table, error) {
	f, err := openFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	data := make([]byte, fi.Size())
	if _, err := io.ReadFull(f, data); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return parse(data)
}

// Scan implements [seed.Memory].
func (c *Catalogue) Scan(dir string) seed.Scan {
	return &scan{c: c, tree: crc32.Checksum([]byte(dir), castagnoli)}
}

// day returns the day that it is, counted from 1970.
func (c *Catalogue) day() uint32 { return uint32(max(0, c.now().Unix()/86400)) }

// filesystem returns what stands for the filesystem with this device number
// that the file at path is on.
func (c *Catalogue) filesystem(path string, dev uint64) (uint64, bool) {
	if id, ok := c.fses[dev]; ok {
		return id, id != 0
	}
	id, err := identify(path, dev, c.boot)
	if err != nil {
		return 0, false // another file of it may tell
	}
	c.fses[dev] = id
	return id, id != 0
}

// scan is one walk.
type scan struct {
	c    *Catalogue
	tree uint32
}

// lookOf returns what a file shows of its changes, and its place.
func lookOf(fi os.FileInfo) (l look, dev, inode uint64, ok bool) {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return look{}, 0, 0, false
	}
	return look{size: st.Size, mtime: st.Mtim.Nano(), ctime: st.Ctim.Nano()}, st.Dev, st.Ino, true
}

func (s *scan) Recall(path string, fi os.FileInfo) (seed.Digest, bool) {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	return s.recall(path, fi, 0)
}

// recall looks a record up: one of the file itself, or, with listBit, of the list
// of what is in it.
func (s *scan) recall(path string, fi os.FileInfo, kind uint64) (seed.Digest, bool) {
	l, dev, inode, ok := lookOf(fi)
	if !ok {
		return seed.Digest{}, false
	}
	c := s.c
	fsID, ok := c.filesystem(path, dev)
	if !ok {
		return seed.Digest{}, false
	}
	fsID ^= kind
	key := fileKey{fsID, inode}
	if e := c.fresh.find(key); e != nil && e.look == l {
		return e.sum, true
	}
	i, ok := c.old.find(key)
	if !ok {
		return seed.Digest{}, false
	}
	e := c.old.at(i)
	if e.look != l {
		return seed.Digest{}, false
	}
	c.seen[i/64] |= 1 << (i % 64)
	return e.sum, true
}

func (s *scan) Learn(path string, before, after os.FileInfo, started time.Time, d seed.Digest) {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	s.learn(path, before, after, started, d, 0)
}

// learn makes a record, and reports whether it may.
func (s *scan) learn(path string, before, after os.FileInfo, started time.Time, d seed.Digest, kind uint64) bool {
	l, dev, inode, ok := lookOf(before)
	if !ok {
		return false
	}
	if now, dev2, inode2, ok := lookOf(after); !ok || now != l || dev2 != dev || inode2 != inode {
		return false
	}
	// Only nearness matters: a change that comes shows another time than one
	// that is far away from now, be it in the past or, after the clock was set
	// back, in the future.
	for _, t := range []int64{l.mtime, l.ctime} {
		if started.Sub(time.Unix(0, t)).Abs() < racy {
			return false
		}
	}
	c := s.c
	if c.closed {
		return false
	}
	fsID, ok := c.filesystem(path, dev)
	if !ok {
		return false
	}
	fsID ^= kind
	c.fresh.set(entry{fileKey: fileKey{fsID, inode}, look: l, tree: s.tree, used: c.day(), sum: d})
	return true
}

func (s *scan) Done() {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	s.c.done[s.tree] = true
}

// Close writes what was learned, and leaves out what is gone or was not used
// for long. It writes nothing if that is nothing. What other processes have
// saved since Open stays. Then the catalogue knows nothing any more, also for those who
// still have scans of it, and learns nothing.
func (c *Catalogue) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil
	}
	err := c.save()
	c.closed, c.old, c.seen, c.fresh, c.lists = true, nil, nil, newFresh(), nil
	return err
}

// save does what Close says, under the lock.
func (c *Catalogue) save() (err error) {
	if !c.changed() {
		return nil
	}
	if err := os.Mkdir(c.dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("catalogue: %w", err)
	}
	unlock, err := c.lock()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	path := filepath.Join(c.dir, fileName)
	if err := c.writeLists(); err != nil {
		return err
	}
	// Whether another process has written meanwhile cannot be told from the
	// file's inode and times, which it may have in common with its predecessor.
	unused, err := c.replace(path, true)
	if errors.Is(err, ErrCorrupt) {
		unused, err = c.replace(path, false)
	}
	if err != nil {
		return err
	}
	return c.removeLists(unused)
}

// replace writes the file at path anew, with what it has now unless it is to be begun
// anew, and returns the names of lists that it has no record of.
func (c *Catalogue) replace(path string, merge bool) (unused map[string]bool, err error) {
	var old io.Reader
	if merge {
		current, err := openFile(path)
		if err == nil {
			defer current.Close()
			old = bufio.NewReaderSize(current, 1<<16)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("catalogue: %w", err)
		}
	}
	if unused, err = c.listNames(); err != nil {
		return nil, err
	}
	f, err := durable.Create(path, 0o600)
	if err != nil {
		return nil, fmt.Errorf("catalogue: %w", err)
	}
	w := newWriter(f)
	err = c.merged(old, func(e *entry) error {
		if len(unused) > 0 {
			delete(unused, hex.EncodeToString(e.sum[:]))
		}
		return w.add(e)
	})
	if err == nil {
		err = w.end()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("catalogue: %w", err), f.Close())
	}
	return unused, f.Commit()
}

// merged calls write with the records of the file old (nil for none) that are kept, and with
// the fresh ones, which take the place of the old ones of the same files, in order.
func (c *Catalogue) merged(old io.Reader, write func(*entry) error) error {
	order := c.fresh.sorted()
	learned := func(before func(fileKey) bool) error {
		for len(order) > 0 && before(c.fresh.at(order[0]).fileKey) {
			if err := write(c.fresh.at(order[0])); err != nil {
				return err
			}
			order = order[1:]
		}
		return nil
	}
	if old != nil {
		err := records(old, func(e entry) error {
			if err := learned(func(k fileKey) bool { return k.compare(e.fileKey) < 0 }); err != nil {
				return err
			}
			if len(order) > 0 && c.fresh.at(order[0]).fileKey == e.fileKey || !c.keep(&e) {
				return nil
			}
			return write(&e)
		})
		if err != nil {
			return err
		}
	}
	return learned(func(fileKey) bool { return true })
}

// state says what became of the entry i of the old table.
func (c *Catalogue) state(i int, e *entry) (gone, touch bool) {
	today := c.day()
	if c.seen[i/64]&(1<<(i%64)) != 0 {
		return false, e.used+touchDays <= today || e.used > today
	}
	return c.done[e.tree] || e.used+keepDays < today, false
}

// changed reports whether there is something to write.
func (c *Catalogue) changed() bool {
	if c.fresh.n > 0 {
		return true
	}
	for i := range c.old.len() {
		e := c.old.at(i)
		if gone, touch := c.state(i, &e); gone || touch {
			return true
		}
	}
	return false
}

// keep decides on an entry of the file as it is now.
func (c *Catalogue) keep(e *entry) bool {
	i, ok := c.old.find(e.fileKey)
	if !ok {
		return true // another process has just written it
	}
	if old := c.old.at(i); old.look != e.look {
		return true // likewise
	}
	gone, touch := c.state(i, e)
	if touch {
		e.used = c.day()
	}
	return !gone
}

// lock takes the lock of those who write.
func (c *Catalogue) lock() (unlock func() error, err error) {
	f, err := os.OpenFile(filepath.Join(c.dir, lockName), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("catalogue: %w", err)
	}
	for waited := time.Duration(0); ; waited += 20 * time.Millisecond {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return f.Close, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) || waited >= lockWait {
			return nil, errors.Join(fmt.Errorf("catalogue: lock: %w", err), f.Close())
		}
		time.Sleep(20 * time.Millisecond)
	}
}
