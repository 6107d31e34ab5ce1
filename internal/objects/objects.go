// Package objects is the set of files that the trees of a root share: one inode for each
// content and its metadata, of which every tree that has such a file has a hard link
// (docs/format/root.md, section 5). So a file that several images have takes its space,
// and its place in the page cache, once.
//
// A program that writes to a file of one tree writes to all of them. Whoever takes an
// object out of the set therefore sees to it that it is what its key says: every byte is
// hashed, every attribute compared. Objects are linked inside the root alone.
package objects

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"github.com/ociv2-sync/ociv2-sync/internal/tree"
	"github.com/ociv2-sync/ociv2-sync/toc"
)

// Key names an object.
type Key [sha256.Size]byte

// KeyOf returns the key of the file of a node. again is how many files of the same content
// and metadata the image has before it, which are inodes of their own.
func KeyOf(n *toc.Node, again int) Key {
	b := make([]byte, 0, 128) // enough without xattrs: every file of an image has a key
	b = append(b, "ociv2-sync object 1\n"...)
	b = append(b, n.Digest[:]...)
	for _, v := range []uint32{n.Mode & 0o7777, n.UID, n.GID} {
		b = binary.BigEndian.AppendUint32(b, v)
	}
	b = binary.BigEndian.AppendUint64(b, uint64(n.Sec))
	b = binary.BigEndian.AppendUint32(b, uint32(n.Nsec))
	b = binary.BigEndian.AppendUint32(b, uint32(again))
	for _, x := range n.XAttrs {
		b = binary.BigEndian.AppendUint32(b, uint32(len(x.Name)))
		b = append(b, x.Name...)
		b = binary.BigEndian.AppendUint32(b, uint32(len(x.Value)))
		b = append(b, x.Value...)
	}
	return sha256.Sum256(b)
}

// place returns the directory and the name of an object.
func (k Key) place() (dir, name string) {
	name = hex.EncodeToString(k[:])
	return name[:2], name
}

// Set is a set of objects in a directory. Its methods may be called from several goroutines,
// but not with one key at a time.
type Set struct {
	log *slog.Logger

	mu   sync.Mutex
	dir  *tree.Dir
	dirs map[string]*tree.Dir // those below it that are open
}

// Open opens the set in a directory, which is made if it is not there. log is told of objects
// that are not what they should be; nil is silent.
func Open(path string, log *slog.Logger) (*Set, error) {
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("objects: %w", err)
	}
	dir, err := tree.OpenDir(path)
	if err != nil {
		return nil, err
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Set{log: log, dir: dir, dirs: make(map[string]*tree.Dir)}, nil
}

// Close closes the set.
func (s *Set) Close() error {
	err := s.dir.Close()
	for _, d := range s.dirs {
		err = errors.Join(err, d.Close())
	}
	return err
}

// open returns a directory of the set; if it is not there, and is not to be made, an error
// that is fs.ErrNotExist.
func (s *Set) open(name string, create bool) (*tree.Dir, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d, ok := s.dirs[name]; ok {
		return d, nil
	}
	d, err := s.dir.OpenDir(name)
	if create && errors.Is(err, fs.ErrNotExist) {
		d, err = s.dir.Mkdir(name)
	}
	if err == nil {
		s.dirs[name] = d
	}
	return d, err
}

// Has reports whether there is an object with the key in the set at a path, good or bad.
func Has(path string, k Key) bool {
	dir, name := k.place()
	_, err := os.Lstat(filepath.Join(path, dir, name))
	return err == nil
}

// Link gives the object with the key, which is that of node n, a name in the directory d.
// It says false if there is none that may have another. One that is damaged is taken out
// of the set.
func (s *Set) Link(ctx context.Context, d *tree.Dir, name string, k Key, n *toc.Node) (bool, error) {
	dir, object := k.place()
	from, err := s.open(dir, false)
	var f *os.File
	if err == nil {
		f, err = from.Open(object)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	defer f.Close()
	reason, err := s.check(ctx, from, object, f, n)
	if err != nil {
		return false, err
	}
	if reason == nil {
		if err := d.Link(name, from, object); err == nil {
			return true, nil
		} else if !tree.CannotLink(err) {
			return false, err
		}
		return false, nil
	}
	s.log.Warn("object is not what it was made, its other links are not either", "object", object, "file", n.Name, "reason", reason)
	return false, from.Remove(object)
}

// check returns why an object is not what node n says, nil if it is. Whether it changes
// meanwhile, its mtime and ctime tell.
func (s *Set) check(ctx context.Context, dir *tree.Dir, name string, f *os.File, n *toc.Node) (reason, err error) {
	before, err := dir.State(name)
	if err != nil {
		return nil, err
	}
	if !before.Is(n) || !before.Has(tree.MetaOf(n)) {
		return errors.New("its size or metadata changed"), nil
	}
	digest, err := tree.Hash(ctx, f, n.Size)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		return err, nil
	}
	after, err := dir.State(name)
	if err != nil {
		return nil, err
	}
	if digest != n.Digest || !after.Same(before) {
		return errors.New("its bytes changed"), nil
	}
	return nil, nil
}

// Add makes the complete file that d has under a name the object with the key, in place of
// what was. That the filesystem gives a file no other name, or no further one, is no error.
func (s *Set) Add(d *tree.Dir, name string, k Key) error {
	dir, object := k.place()
	to, err := s.open(dir, true)
	if err != nil {
		return err
	}
	err = to.Link(object, d, name)
	if errors.Is(err, fs.ErrExist) {
		if err := to.Remove(object); err != nil {
			return err
		}
		err = to.Link(object, d, name)
	}
	if tree.CannotLink(err) {
		return nil
	}
	return err
}
