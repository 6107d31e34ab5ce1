package catalogue

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ociv2-sync/ociv2-sync/internal/durable"
	"github.com/ociv2-sync/ociv2-sync/seed"
)

const (
	// listBit tells the record of a list from that of the file, which has the
	// same inode.
	listBit = 1 << 63
	// listsName is the directory of the lists.
	listsName = "lists"
	// maxList is the longest list that is read, in bytes.
	maxList = 256 << 20
)

// RecallList implements [seed.Scan].
func (s *scan) RecallList(path string, fi os.FileInfo) ([]byte, bool) {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	d, ok := s.recall(path, fi, listBit)
	if !ok {
		return nil, false
	}
	if b, ok := c.lists[d]; ok {
		return b, true
	}
	b, err := readList(c.list(d))
	// One that is damaged is learned again.
	return b, err == nil && sha256.Sum256(b) == d
}

// LearnList implements [seed.Scan].
func (s *scan) LearnList(path string, before, after os.FileInfo, started time.Time, list []byte) {
	d := seed.Digest(sha256.Sum256(list))
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	if len(list) <= maxList && s.learn(path, before, after, started, d, listBit) {
		s.c.lists[d] = list
	}
}

func (c *Catalogue) list(d seed.Digest) string {
	return filepath.Join(c.dir, listsName, hex.EncodeToString(d[:]))
}

func readList(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxList))
}

// writeLists writes the lists that were learned, under the lock.
func (c *Catalogue) writeLists() error {
	if len(c.lists) == 0 {
		return nil
	}
	if err := os.Mkdir(filepath.Join(c.dir, listsName), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("catalogue: %w", err)
	}
	for d, b := range c.lists {
		if err := durable.WriteFile(c.list(d), b, 0o600); err != nil {
			return fmt.Errorf("catalogue: %w", err)
		}
	}
	return nil
}

// listNames returns the names of the lists that there are, under the lock.
func (c *Catalogue) listNames() (map[string]bool, error) {
	entries, err := os.ReadDir(filepath.Join(c.dir, listsName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("catalogue: %w", err)
	}
	names := make(map[string]bool, len(entries))
	for _, e := range entries {
		names[e.Name()] = true
	}
	return names, nil
}

// removeLists removes lists, under the lock.
func (c *Catalogue) removeLists(names map[string]bool) error {
	for name := range names {
		err := os.Remove(filepath.Join(c.dir, listsName, name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("catalogue: %w", err)
		}
	}
	return nil
}
