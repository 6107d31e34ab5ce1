package repo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/ociv2-sync/ociv2-sync/internal/durable"
	"github.com/ociv2-sync/ociv2-sync/store"
)

// Space is a place that a repository can be written to. Paths are
// slash-separated and relative to the repository. Every method may be called
// from several goroutines at once.
type Space interface {
	Files
	// Put makes the file at path of size bytes of data, or replaces it: whole or
	// not at all, and on return as lasting as the place can make it.
	// Directories above it appear where they are missing.
	Put(ctx context.Context, path string, data io.ReaderAt, size int64) error
	// Create is Put where there is no file: the error wraps store.ErrExists, and
	// nothing has changed, when there is one.
	Create(ctx context.Context, path string, data []byte) error
	// Remove removes the file at path; that there is none is no error.
	Remove(ctx context.Context, path string) error
	// List returns what is in the directory dir, "." for the repository: with
	// deep the files below it at any depth, else its files and directories. A
	// directory that does not exist has nothing in it. The order is any.
	List(ctx context.Context, dir string, deep bool) iter.Seq2[store.Entry, error]
}

// Swapper is a Space that replaces a file only if nobody else has done so, as
// an object store does with conditional requests. It needs no lock.
type Swapper interface {
	// Load is ReadFile that tells the version of what it has read.
	Load(ctx context.Context, path string, limit int64) (data []byte, version string, err error)
	// Swap replaces the file at path if its version is still the given one; a
	// version of "" means that there is none. Else the error wraps
	// store.ErrChanged, and nothing has changed. It may report
	// errors.ErrUnsupported, when the place does not heed conditions.
	Swap(ctx context.Context, path string, data []byte, version string) error
}

// Tidier is a Space whose directories stay when nothing is in them any more.
type Tidier interface {
	// Tidy removes those of the given directories, and below them, that are
	// empty, themselves included.
	Tidy(ctx context.Context, dirs ...string) error
}

// CreateDir opens the directory at path for a repository and makes it, and
// those above it, if it does not exist.
func CreateDir(path string) (*Dir, error) {
	if err := os.MkdirAll(path, 0o755); err != nil {
		return nil, fmt.Errorf("repo: %w", err)
	}
	return OpenDir(path)
}

func (d *Dir) path(name string) string { return filepath.Join(d.String(), filepath.FromSlash(name)) }

// Put implements Space.
func (d *Dir) Put(ctx context.Context, name string, data io.ReaderAt, size int64) error {
	f, err := d.create(ctx, name)
	if err != nil {
		return err
	}
	defer f.Close()
	n, err := io.Copy(f, io.NewSectionReader(data, 0, size))
	if err == nil && n != size {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return fmt.Errorf("%s/%s: %w", d, name, err)
	}
	return f.Commit()
}

// Create implements Space. A link fails where a rename replaces.
func (d *Dir) Create(ctx context.Context, name string, data []byte) error {
	f, err := d.create(ctx, name)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(data); err != nil {
		return fmt.Errorf("%s/%s: %w", d, name, err)
	}
	if err = f.CommitNew(); errors.Is(err, fs.ErrExist) {
		err = store.ErrExists
	}
	if err != nil {
		return fmt.Errorf("%s/%s: %w", d, name, err)
	}
	return nil
}

// create begins a new version of a file, whose directory it makes if need be.
func (d *Dir) create(ctx context.Context, name string) (*durable.File, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	at := d.path(name)
	f, err := durable.Create(at, 0o644)
	if !errors.Is(err, fs.ErrNotExist) {
		return f, err
	}
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		return nil, fmt.Errorf("%s/%s: %w", d, name, err)
	}
	for up := path.Dir(path.Clean(name)); up != "."; up = path.Dir(up) {
		if err := durable.SyncDir(filepath.Dir(d.path(up))); err != nil {
			return nil, err
		}
	}
	return durable.Create(at, 0o644)
}

// Remove implements Space.
func (d *Dir) Remove(ctx context.Context, name string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	err := d.root.Remove(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %w", d, err)
	}
	return nil
}

// List implements Space. What is no file and no directory is passed over.
func (d *Dir) List(ctx context.Context, dir string, deep bool) iter.Seq2[store.Entry, error] {
	return func(yield func(store.Entry, error) bool) { d.list(ctx, dir, deep, yield) }
}

func (d *Dir) list(ctx context.Context, dir string, deep bool, yield func(store.Entry, error) bool) bool {
	if err := ctx.Err(); err != nil {
		return yield(store.Entry{}, err)
	}
	f, err := d.root.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return true
	}
	if err != nil {
		return yield(store.Entry{}, fmt.Errorf("%s: %w", d, err))
	}
	infos, err := f.ReadDir(-1)
	if err := errors.Join(err, f.Close()); err != nil {
		return yield(store.Entry{}, fmt.Errorf("%s/%s: %w", d, dir, err))
	}
	for _, de := range infos {
		name := path.Join(dir, de.Name())
		switch {
		case de.IsDir() && deep:
			if !d.list(ctx, name, true, yield) {
				return false
			}
		case de.IsDir():
			if !yield(store.Entry{Path: name, Dir: true}, nil) {
				return false
			}
		case de.Type().IsRegular():
			fi, err := de.Info()
			if errors.Is(err, fs.ErrNotExist) {
				continue // removed since
			}
			if err != nil {
				err = fmt.Errorf("%s: %w", d, err)
				return yield(store.Entry{}, err)
			}
			if !yield(store.Entry{Path: name, Size: fi.Size(), ModTime: fi.ModTime()}, nil) {
				return false
			}
		}
	}
	return true
}

// Tidy implements Tidier.
func (d *Dir) Tidy(ctx context.Context, dirs ...string) error {
	for _, dir := range dirs {
		for e, err := range d.List(ctx, dir, false) {
			if err == nil && e.Dir {
				err = d.Tidy(ctx, e.Path)
			}
			if err != nil {
				return err
			}
		}
		// A directory that is not empty says so; one that has just got a file does.
		err := os.Remove(d.path(dir))
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("%s: %w", d, err)
		}
	}
	return nil
}
