package durable

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrOccupied means that a directory was to be made where there is something
// that was not to be replaced, or cannot be.
var ErrOccupied = errors.New("destination is occupied")

// tempMark is between the name of a directory and the random end of the name
// under which it is built beside it.
const tempMark = ".ociv2-sync-"

// CheckDir refuses with ErrOccupied a path that [Dir] would refuse.
func CheckDir(path string, replace bool) error {
	fi, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("durable: %w", err)
	}
	if !fi.IsDir() {
		return fmt.Errorf("durable: %w: %s is not a directory", ErrOccupied, path)
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return fmt.Errorf("durable: %w", err)
	}
	if len(entries) > 0 && !replace {
		return fmt.Errorf("durable: %w: %s is not empty", ErrOccupied, path)
	}
	return nil
}

// Dir makes the directory at path, whole or not at all. build fills a new
// directory beside it, at the path that it is given, which then gets the name:
//
//	mkdir PARENT/.NAME.ociv2-sync-RANDOM, flock, build
//	syncfs
//	rename, or renameat2(RENAME_EXCHANGE) with what is to be replaced
//	fsync PARENT
//	remove what was replaced
//
// An empty directory at path is replaced; one that is not only if replace says
// so. On error path is as it was. What a killed build left beside path, known
// by its missing lock, is removed by the next one.
func Dir(ctx context.Context, path string, replace bool, build func(temp string) error) (err error) {
	path, err = filepath.Abs(path)
	if err != nil {
		return fmt.Errorf("durable: %w", err)
	}
	if err := CheckDir(path, replace); err != nil {
		return err
	}
	parent, name := filepath.Split(path)
	if name == "" {
		return fmt.Errorf("durable: %w: %s cannot be replaced", ErrOccupied, path)
	}
	prefix := "." + name + tempMark
	if err := removeStale(parent, prefix); err != nil {
		return err
	}
	temp, err := os.MkdirTemp(parent, prefix)
	if err != nil {
		return fmt.Errorf("durable: %w", err)
	}
	// What is there in the end is the failed new tree, the replaced old one, or
	// nothing. The lock ends only when it is gone.
	unlock, err := lock(temp)
	if err != nil {
		return errors.Join(err, os.RemoveAll(temp))
	}
	defer func() { err = errors.Join(err, os.RemoveAll(temp), unlock()) }()
	if err := build(temp); err != nil {
		return err
	}
	if err := SyncFS(temp); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := rename(temp, path, replace); err != nil {
		return fmt.Errorf("durable: %w", err)
	}
	return SyncDir(parent)
}

// rename gives temp the name path. An empty directory of that name goes; one
// that is not empty ends up under the name temp if it is to be replaced.
func rename(temp, path string, replace bool) error {
	// Not os.Rename, which refuses any directory in the way.
	err := unix.Rename(temp, path)
	if replace && (errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EEXIST)) {
		err = unix.Renameat2(unix.AT_FDCWD, temp, unix.AT_FDCWD, path, unix.RENAME_EXCHANGE)
	}
	if err != nil {
		return &os.LinkError{Op: "rename", Old: temp, New: path, Err: err}
	}
	return nil
}

// removeStale removes what builds of the same directory that were killed have
// left. Those that are at work hold a lock.
func removeStale(parent, prefix string) error {
	entries, err := os.ReadDir(parent)
	if err != nil {
		return fmt.Errorf("durable: %w", err)
	}
	for _, e := range entries {
		if !e.IsDir() || !strings.HasPrefix(e.Name(), prefix) {
			continue
		}
		stale := filepath.Join(parent, e.Name())
		unlock, err := lock(stale)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.EWOULDBLOCK) {
			continue
		}
		if err != nil {
			return err
		}
		if err := errors.Join(os.RemoveAll(stale), unlock()); err != nil {
			return fmt.Errorf("durable: %w", err)
		}
	}
	return nil
}

// lock locks a directory, or fails with EWOULDBLOCK if somebody has.
func lock(path string) (unlock func() error, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("durable: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("durable: %w", &os.PathError{Op: "lock", Path: path, Err: err}), f.Close())
	}
	// Closing alone would leave the lock, for a moment, to a child that is being started.
	return func() error { return errors.Join(unix.Flock(int(f.Fd()), unix.LOCK_UN), f.Close()) }, nil
}
