// Package durable writes files and directories that are there whole or not at
// all, also after a crash.
//
// A file is written as
//
//	openat(DIR/.NAME.RANDOM.tmp, O_CREAT|O_EXCL)   temporary, in the same directory
//	write …
//	fsync                                          its bytes are on the disk
//	close
//	rename(DIR/.NAME.RANDOM.tmp, DIR/NAME)         readers see the old file or the new one
//	fsync(DIR)                                     the new name is on the disk
//
// Temporary names begin with a dot and end in ".tmp", so that what serves or
// lists a directory can tell them. A crash may leave one behind; the file under
// the final name is intact.
package durable

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// WriteFile replaces the file at path by one with the given contents and the
// permissions perm, before umask. On error the file at path is what it was.
func WriteFile(path string, data []byte, perm fs.FileMode) error {
	f, err := Create(path, perm)
	if err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		return errors.Join(err, f.Close())
	}
	return f.Commit()
}

// File is a new version of a file. It is written to as any file is and replaces
// the file at its path at [File.Commit].
type File struct {
	*os.File // temporary; its Close is hidden by ours
	path     string
	done     bool
}

// Create returns a new version of the file at path, to have the permissions
// perm before umask. Call [File.Close] on every way out.
func Create(path string, perm fs.FileMode) (*File, error) {
	dir, base := filepath.Split(path)
	if len(base) > 200 { // with what is added it must remain a file name
		base = base[:200]
	}
	tmp := dir + "." + base + "." + rand.Text()[:16] + ".tmp"
	f, err := os.OpenFile(tmp, os.O_RDWR|os.O_CREATE|os.O_EXCL, perm)
	if err != nil {
		return nil, fmt.Errorf("durable: %w", err)
	}
	return &File{File: f, path: path}, nil
}

// Commit gives the file its name, as the package comment says. On error nothing
// is left, and the file at the path is what it was; only if the directory cannot
// be synced is the new file in place all the same.
func (f *File) Commit() error { return f.CommitAs(f.path) }

// CommitAs is Commit under another path on the same file system, for a file whose
// name follows from its content.
func (f *File) CommitAs(path string) error {
	if err := f.Sync(); err != nil {
		return errors.Join(fmt.Errorf("durable: %w", err), f.Close())
	}
	f.done = true
	tmp := f.Name()
	err := f.File.Close()
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("durable: %w", err), os.Remove(tmp))
	}
	return SyncDir(filepath.Dir(path))
}

// Close discards the file unless it has been committed; then it does nothing.
func (f *File) Close() error {
	if f.done {
		return nil
	}
	f.done = true
	return errors.Join(f.File.Close(), os.Remove(f.Name()))
}

// CheckFile refuses with ErrOccupied to make a file at path where there is
// something already, unless replace says that a regular file there may be replaced.
func CheckFile(path string, replace bool) error {
	fi, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("durable: %w", err)
	case !fi.Mode().IsRegular():
		return fmt.Errorf("durable: %w: %s is not a regular file", ErrOccupied, path)
	case !replace:
		return fmt.Errorf("durable: %w: %s exists", ErrOccupied, path)
	}
	return nil
}

// SyncDir returns once the names in the directory at path are on the disk.
func SyncDir(path string) (err error) {
	d, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("durable: %w", err)
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	// Some file systems cannot sync a directory and say so.
	if err := d.Sync(); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOTSUP) {
		return fmt.Errorf("durable: %w", err)
	}
	return nil
}

// SyncFS returns once everything written before to the file system that holds
// path is on the disk. It is cheaper than to sync thousands of files one by one.
func SyncFS(path string) (err error) {
	d, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("durable: %w", err)
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return fmt.Errorf("durable: %w", &os.PathError{Op: "syncfs", Path: path, Err: err})
	}
	return nil
}
