package chunkserver

import (
	"container/list"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// cache keeps objects in files of a directory, under their names, up to a number
// of bytes. A file appears by a rename, whole. What is named by its content is not
// synced, as it can be fetched again: what an earlier process has left is verified when
// it is first asked for. What may change is synced: it is for when upstream is gone.
type cache struct {
	root *dir
	most int64

	mu    sync.Mutex
	size  int64
	used  *list.List // of *cached, the one used last in front
	items map[string]*list.Element
}

type cached struct {
	name string
	size int64
	when time.Time // of the fetch; zero if another process made it
	tag  string    // entity tag
}

// openCache opens the cache in dir, which is made if it is not there, with what it holds;
// unfinished files of another process are removed.
func openCache(dir string, most int64) (*cache, error) {
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("chunkserver: cache: %w", err)
	}
	root, err := openDir(dir)
	if err != nil {
		return nil, fmt.Errorf("chunkserver: %w", err)
	}
	if err := claim(root.Root); err != nil {
		return nil, errors.Join(fmt.Errorf("chunkserver: cache %s: %w", dir, err), root.Close())
	}
	c := &cache{root: root, most: most, used: list.New(), items: make(map[string]*list.Element)}
	var found []*cached
	err = fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || name == marker {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		if kindOf(name) == nil || fi.Size() == 0 {
			if strings.HasSuffix(name, tempSuffix) || fi.Size() == 0 {
				return root.Remove(name)
			}
			return nil // somebody else's
		}
		found = append(found, &cached{name: name, size: fi.Size(), when: fi.ModTime()})
		return nil
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("chunkserver: cache %s: %w", dir, err), root.Close())
	}
	slices.SortFunc(found, func(a, b *cached) int { return b.when.Compare(a.when) })
	for _, x := range found {
		x.when = time.Time{}
		c.items[x.name] = c.used.PushBack(x)
		c.size += x.size
	}
	c.evict(c.most)
	return c, nil
}

const (
	tempSuffix = ".tmp"
	marker     = ".ociv2-sync-cache" // in every directory that is a cache
)

// claim makes an empty directory a cache. One that has something in it must be
// one: what is in a cache gets deleted.
func claim(root *os.Root) error {
	if _, err := root.Lstat(marker); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if found, err := fs.ReadDir(root.FS(), "."); err != nil || len(found) > 0 {
		return errors.Join(err, errors.New("it is not empty, and not a cache"))
	}
	return root.WriteFile(marker, []byte("What ociv2-sync serve has fetched. It may be deleted while no server runs.\n"), 0o644)
}

func (c *cache) close() error { return c.root.Close() }

// open opens an object that this process has fetched, or verified, at the time since
// or later, and returns what is known of it.
func (c *cache) open(name string, since time.Time) (*os.File, cached, error) {
	c.mu.Lock()
	e, ok := c.items[name]
	if !ok || e.Value.(*cached).when.IsZero() || e.Value.(*cached).when.Before(since) {
		c.mu.Unlock()
		return nil, cached{}, fs.ErrNotExist
	}
	c.used.MoveToFront(e)
	x := *e.Value.(*cached)
	c.mu.Unlock()
	f, fi, err := c.root.open(name)
	if err == nil && fi.Size() != x.size {
		err = errors.Join(fmt.Errorf("%s has %d bytes, not %d", name, fi.Size(), x.size), f.Close())
	}
	if err != nil {
		c.remove(name)
		return nil, cached{}, err
	}
	return f, x, nil
}

// read returns an object, however old.
func (c *cache) read(name string) ([]byte, error) { return c.root.ReadFile(name) }

// adopt returns an object that another process has left, if verify finds nothing
// wrong with it; it is removed otherwise.
func (c *cache) adopt(name string, tag func(string, []byte) string, verify func([]byte) error) ([]byte, error) {
	c.mu.Lock()
	e, ok := c.items[name]
	c.mu.Unlock()
	if !ok {
		return nil, fs.ErrNotExist
	}
	data, err := c.read(name)
	if err == nil {
		err = verify(data)
	}
	if err != nil {
		c.remove(name)
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	x := e.Value.(*cached)
	x.when, x.tag = time.Now(), tag(name, data)
	return data, nil
}

// put keeps an object, in place of another of its name. A disk that is full is a
// limit like the one of bytes.
func (c *cache) put(name string, data []byte, tag string, sync bool) error {
	size := int64(len(data))
	if size > c.most || size == 0 {
		return nil
	}
	tmp := path.Join(path.Dir(name), "."+rand.Text()+tempSuffix)
	err := c.write(tmp, data, sync)
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		c.mu.Lock()
		c.evict(c.size - 4*size)
		c.mu.Unlock()
		err = c.write(tmp, data, sync)
	}
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.place(tmp, &cached{name, size, time.Now(), tag})
}

// place gives the file tmp the name of an object. The lock is held.
func (c *cache) place(tmp string, x *cached) error {
	if err := c.root.Rename(tmp, x.name); err != nil {
		return errors.Join(err, c.root.Remove(tmp))
	}
	c.forget(x.name)
	c.items[x.name] = c.used.PushFront(x)
	c.size += x.size
	c.evict(c.most)
	return nil
}

// write makes a file, or leaves none.
func (c *cache) write(name string, data []byte, sync bool) error {
	if err := c.root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return err
	}
	f, err := c.root.Create(name)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil && sync {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, c.root.Remove(name))
	}
	return nil
}

// evict removes what was used least recently until no more than most bytes are left.
// The lock is held.
func (c *cache) evict(most int64) {
	for c.size > most && c.used.Len() > 0 {
		name := c.used.Back().Value.(*cached).name
		c.forget(name)
		_ = c.root.Remove(name) // or it has gone before
	}
}

// forget takes an object off the list. The lock is held.
func (c *cache) forget(name string) {
	if e, ok := c.items[name]; ok {
		c.size -= e.Value.(*cached).size
		c.used.Remove(e)
		delete(c.items, name)
	}
}

// remove removes an object, if it is there.
func (c *cache) remove(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.items[name]; ok {
		c.forget(name)
		_ = c.root.Remove(name) // or it has gone before
	}
}
