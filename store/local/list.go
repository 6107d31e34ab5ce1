package local

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ociv2-sync/ociv2-sync/chunk"
)

// List returns the chunks of the store, in the order of their IDs. Files and
// directories that are none of a store's are passed over.
func (s *Store) List(ctx context.Context) iter.Seq2[chunk.ID, error] {
	return func(yield func(chunk.ID, error) bool) {
		dirs, err := s.names(".")
		if err != nil {
			yield(chunk.ID{}, err)
			return
		}
		for _, dir := range dirs {
			if len(dir) != 4 {
				continue
			}
			ids, err := s.listDir(ctx, dir)
			if err != nil {
				yield(chunk.ID{}, err)
				return
			}
			for _, id := range ids {
				if !yield(id, nil) {
					return
				}
			}
		}
	}
}

// listDir returns the chunks in one of the directories of a store.
func (s *Store) listDir(ctx context.Context, dir string) ([]chunk.ID, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	names, err := s.names(dir)
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var ids []chunk.ID
	for _, name := range names {
		id, err := chunk.ParseID(strings.TrimSuffix(name, suffix))
		if err != nil || !strings.HasPrefix(name, dir) || id.String() != strings.TrimSuffix(name, suffix) {
			continue
		}
		var st unix.Stat_t
		if err := unix.Fstatat(s.fd, dir+"/"+name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil || !isChunk(&st) {
			continue
		}
		ids = append(ids, id)
	}
	return slices.Compact(ids), nil // both forms of a chunk lie side by side
}

// names returns the sorted names in a directory of the store.
func (s *Store) names(dir string) ([]string, error) {
	fd, err := again(func() (int, error) {
		return unix.Openat(s.fd, dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return nil, s.fail("open", dir, err)
	}
	f := os.NewFile(uintptr(fd), dir)
	names, err := f.Readdirnames(-1)
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, s.fail("read", dir, err)
	}
	slices.Sort(names)
	return names, nil
}

// Prune removes the directories of the store that are empty and returns their
// number.
func (s *Store) Prune() (int, error) {
	dirs, err := s.names(".")
	if err != nil {
		return 0, err
	}
	n := 0
	for _, dir := range dirs {
		if _, err := chunk.ParseID(dir + strings.Repeat("0", 60)); err != nil {
			continue
		}
		err := unix.Unlinkat(s.fd, dir, unix.AT_REMOVEDIR)
		switch {
		case err == nil:
			n++
		case errors.Is(err, unix.ENOTEMPTY), errors.Is(err, unix.EEXIST), errors.Is(err, unix.ENOTDIR):
		default:
			return n, s.fail("remove", dir, err)
		}
	}
	return n, nil
}

// lockWait is how long Lock waits between two attempts.
const lockWait = 50 * time.Millisecond

// Lock keeps chunks where they are, or lets nobody else do so: who puts chunks
// for an index holds the lock, shared with others like it, until the index has
// its name, and who removes what no index has holds it alone. It is an flock of
// the directory; casync knows nothing of it. It waits until ctx ends. The
// function that it returns gives the lock up.
func (s *Store) Lock(ctx context.Context, alone bool) (unlock func() error, err error) {
	fd, err := again(func() (int, error) {
		return unix.Openat(s.fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return nil, s.fail("open", "", err)
	}
	how := unix.LOCK_SH
	if alone {
		how = unix.LOCK_EX
	}
	for {
		_, err := again(func() (int, error) { return 0, unix.Flock(fd, how|unix.LOCK_NB) })
		if err == nil {
			return func() error { return unix.Close(fd) }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errors.Join(s.fail("lock", "", err), unix.Close(fd))
		}
		select {
		case <-time.After(lockWait):
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("local: wait for the lock of %s: %w", s.dir, ctx.Err()), unix.Close(fd))
		}
	}
}
