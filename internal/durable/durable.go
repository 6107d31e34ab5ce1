// Package durable writes files and directories that are there whole or not at
// all, also after a crash.
//
// A file is written as
//
//	openat(DIR, O_TMPFILE)                         no name: a kill leaves nothing
//	write …
//	fsync                                          its bytes are on the disk
//	linkat(/proc/self/fd/…, DIR/.NAME.RANDOM.tmp)  only a rename replaces a file
//	close
//	rename(DIR/.NAME.RANDOM.tmp, DIR/NAME)         readers see the old file or the new one
//	fsync(DIR)                                     the new name is on the disk
//
// A filesystem that has no files without a name gets the temporary name at once.
// Temporary names begin with a dot and end in ".tmp", so that what serves or
// lists a directory can tell them. A crash may leave one behind; the file under
// the final name is intact.
package durable

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
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
	*os.File // its Close is hidden by ours
	path     string
	temp     string // the temporary name; "" while it has none
	done     bool
}

// Create returns a new version of the file at path, to have the permissions
// perm before umask. Call [File.Close] on every way out.
func Create(path string, perm fs.FileMode) (*File, error) {
	f := &File{path: path}
	dir := filepath.Dir(path)
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, uint32(perm.Perm()))
	switch {
	case err == nil:
		f.File = os.NewFile(uintptr(fd), path)
		return f, nil
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EISDIR), errors.Is(err, unix.EINVAL):
		// A filesystem, or a kernel, without files that have no name.
	default:
		return nil, fmt.Errorf("durable: %w", &fs.PathError{Op: "create", Path: path, Err: err})
	}
	f.temp = tempName(path)
	if f.File, err = os.OpenFile(f.temp, os.O_RDWR|os.O_CREATE|os.O_EXCL, perm); err != nil {
		return nil, fmt.Errorf("durable: %w", err)
	}
	return f, nil
}

// tempName returns a new name in the directory of path.
func tempName(path string) string {
	dir, base := filepath.Split(path)
	if len(base) > 200 { // with what is added it must remain a file name
		base = base[:200]
	}
	return dir + "." + base + "." + rand.Text()[:16] + ".tmp"
}

// Commit gives the file its name, as the package comment says. On error nothing
// is left, and the file at the path is what it was; only if the directory cannot
// be synced is the new file in place all the same.
func (f *File) Commit() error { return f.CommitAs(f.path) }

// CommitAs is Commit under another path on the same file system, for a file whose
// name follows from its content.
func (f *File) CommitAs(path string) error {
	err := f.Sync()
	if err == nil && f.temp == "" {
		// Only a rename can replace a file, and it needs a name.
		temp := tempName(path)
		self := fmt.Sprintf("/proc/self/fd/%d", f.Fd())
		if err = unix.Linkat(unix.AT_FDCWD, self, unix.AT_FDCWD, temp, unix.AT_SYMLINK_FOLLOW); err == nil {
			f.temp = temp
		} else {
			err = &os.LinkError{Op: "link", Old: f.path, New: temp, Err: err}
		}
	}
	if err != nil {
		return errors.Join(fmt.Errorf("durable: %w", err), f.Close())
	}
	f.done = true
	if err = f.File.Close(); err == nil {
		err = os.Rename(f.temp, path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("durable: %w", err), os.Remove(f.temp))
	}
	return SyncDir(filepath.Dir(path))
}

// CommitNew is Commit for a path at which there must be nothing: else the error
// wraps [fs.ErrExist], and what is there stays.
func (f *File) CommitNew() error {
	err := f.Sync()
	if err == nil && f.temp == "" {
		self := fmt.Sprintf("/proc/self/fd/%d", f.Fd())
		err = unix.Linkat(unix.AT_FDCWD, self, unix.AT_FDCWD, f.path, unix.AT_SYMLINK_FOLLOW)
	} else if err == nil {
		err = unix.Link(f.temp, f.path)
	}
	if err != nil {
		err = fmt.Errorf("durable: %w", &os.PathError{Op: "link", Path: f.path, Err: err})
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(f.path))
}

// Close discards the file unless it has been committed; then it does nothing.
func (f *File) Close() error {
	if f.done {
		return nil
	}
	f.done = true
	err := f.File.Close()
	if f.temp != "" {
		err = errors.Join(err, os.Remove(f.temp))
	}
	return err
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

// syncPause is how long SyncWhile lets what is written gather: about as long as file
// systems do themselves.
const syncPause = 5 * time.Second

// SyncWhile does work and syncs the file system that holds path now and then meanwhile,
// so that a sync at the end, which waits for what is not on the disk yet, finds little.
// It takes at most a fifth of the time for that, whatever else is written there. An
// error of a sync cancels work: no later one tells of it again.
func SyncWhile(ctx context.Context, path string, work func(context.Context) error) error {
	done := make(chan struct{})
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		timer := time.NewTimer(syncPause)
		defer timer.Stop()
		for {
			select {
			case <-done:
				return nil
			case <-ctx.Done():
				return nil // work says why
			case <-timer.C:
			}
			start := time.Now()
			if err := SyncFS(path); err != nil {
				return err
			}
			timer.Reset(max(syncPause, 4*time.Since(start)))
		}
	})
	g.Go(func() error {
		defer close(done)
		return work(ctx)
	})
	return g.Wait()
}
