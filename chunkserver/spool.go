package chunkserver

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"syscall"
	"time"
)

// spooled is an object in a file of the cache that is written, or at least read, while it
// is there under another name, or none.
type spooled struct {
	*os.File
	cache *cache
	tmp   string
	left  int64 // bytes to come
}

// spool makes the file of an object of size bytes; keep follows.
func (c *cache) spool(name string, size int64) (*spooled, error) {
	if size > c.most {
		return nil, fmt.Errorf("the cache is for %d bytes", c.most)
	}
	if err := c.root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return nil, err
	}
	tmp := path.Join(path.Dir(name), "."+rand.Text()+tempSuffix)
	f, err := c.root.Create(tmp)
	if err != nil {
		return nil, err
	}
	return &spooled{f, c, tmp, size}, nil
}

// Write writes what the disk takes. What was used least recently gives way.
func (s *spooled) Write(b []byte) (n int, err error) {
	n, err = s.File.Write(b)
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		s.cache.mu.Lock()
		s.cache.evict(s.cache.size - s.left)
		s.cache.mu.Unlock()
		more := 0
		more, err = s.File.Write(b[n:])
		n += more
	}
	s.left -= int64(n)
	return n, err
}

// keep makes what was spooled, whole, the object; or removes it.
func (s *spooled) keep(name, tag string, size int64, whole bool) error {
	c := s.cache
	c.mu.Lock()
	defer c.mu.Unlock()
	if !whole {
		return c.root.Remove(s.tmp)
	}
	return c.place(s.tmp, &cached{name, size, time.Now(), tag})
}

// adoptLarge opens a blob that another process has left, if it is one that is streamed: it
// is verified, and removed if it is something else. It returns nil if there is none.
func (c *cache) adoptLarge(name string) (f *spooled, size int64, err error) {
	c.mu.Lock()
	e, ok := c.items[name]
	c.mu.Unlock()
	if !ok || e.Value.(*cached).size < streamed {
		return nil, 0, nil
	}
	defer func() {
		if err != nil {
			c.remove(name)
		}
	}()
	file, err := c.root.Open(name)
	if err != nil {
		return nil, 0, err
	}
	sum := sha256.New()
	size, err = io.Copy(sum, file)
	if err == nil && (size == 0 || hex.EncodeToString(sum.Sum(nil)) != path.Base(name)) {
		err = fmt.Errorf("chunkserver: %s: %d bytes of something else", name, size)
	}
	if err != nil {
		return nil, 0, errors.Join(err, file.Close())
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	x := e.Value.(*cached)
	x.when, x.tag = time.Now(), contentTag(name, size)
	return &spooled{File: file}, size, nil
}
