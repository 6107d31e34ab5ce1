package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/ociv2-sync/ociv2-sync/store"
)

// Files reads the files of a repository.
type Files interface {
	// ReadFile returns the contents of the file at path, slash-separated and
	// relative to the repository. The error wraps store.ErrNotFound when there
	// is none and store.ErrTooLarge when it is longer than limit bytes. Errors
	// name the file.
	ReadFile(ctx context.Context, path string, limit int64) ([]byte, error)
	// OpenAt opens size bytes, at least one, of the file at path from an offset
	// on. The error, also that of reading to the end, says when it is shorter: it
	// is io.ErrUnexpectedEOF, and no store.ErrNetwork.
	OpenAt(ctx context.Context, path string, offset, size int64) (io.ReadCloser, error)
	// String names the repository for messages, without secrets.
	String() string
}

// Dir is a repository in a local directory. It implements Files.
type Dir struct {
	root *os.Root
}

// OpenDir opens the directory at path, which must exist.
func OpenDir(path string) (*Dir, error) {
	root, err := os.OpenRoot(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("repo: %s: %w: %w", path, ErrNoRepository, store.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("repo: %w", err)
	}
	return &Dir{root: root}, nil
}

// Close closes the directory.
func (d *Dir) Close() error { return d.root.Close() }

// String returns the path.
func (d *Dir) String() string { return d.root.Name() }

// ReadFile implements Files. Symbolic links that leave the repository are
// errors.
func (d *Dir) ReadFile(ctx context.Context, path string, limit int64) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	f, size, err := d.open(path)
	if err != nil {
		return nil, err
	}
	b, err := read(f, size, limit)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("%s/%s: %w", d, path, err)
	}
	return b, nil
}

// open opens a regular file and returns its size.
func (d *Dir) open(path string) (*os.File, int64, error) {
	st, err := d.root.Stat(path)
	var f *os.File
	switch {
	case err == nil && !st.Mode().IsRegular(): // opening a FIFO would wait for ever
		err = malformed("not a regular file")
	case err == nil:
		f, err = d.root.Open(path)
	}
	if errors.Is(err, fs.ErrNotExist) { // also of what has gone meanwhile
		err = store.ErrNotFound
	}
	if err != nil {
		return nil, 0, fmt.Errorf("%s/%s: %w", d, path, err)
	}
	return f, st.Size(), nil
}

// read reads all of r, which is thought to have size bytes.
func read(r io.Reader, size, limit int64) ([]byte, error) {
	var b bytes.Buffer
	b.Grow(int(min(size, limit)) + bytes.MinRead)
	n, err := io.Copy(&b, io.LimitReader(r, limit+1))
	if err != nil {
		return nil, err
	}
	if n > limit {
		return nil, fmt.Errorf("%w: more than %d bytes", store.ErrTooLarge, limit)
	}
	return b.Bytes(), nil
}

// OpenAt implements Files.
func (d *Dir) OpenAt(ctx context.Context, path string, offset, size int64) (io.ReadCloser, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	f, _, err := d.open(path)
	if err != nil {
		return nil, err
	}
	return &section{io.NewSectionReader(f, offset, size), size, f}, nil
}

// section is a part of an open file.
type section struct {
	r    *io.SectionReader
	left int64
	f    *os.File
}

func (s *section) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	s.left -= int64(n)
	if err == io.EOF && s.left > 0 {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

func (s *section) Close() error { return s.f.Close() }
