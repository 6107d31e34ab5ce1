package archive

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// streamOf returns a reader of a file from its start, one that knows the holes of
// a regular file.
func streamOf(f *os.File) (io.Reader, error) {
	fi, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("archive: %w", err)
	}
	if fi.Mode().IsRegular() {
		return &sparseFile{f: f}, nil
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil && !errors.Is(err, unix.ESPIPE) {
		return nil, fmt.Errorf("archive: %w", err)
	}
	return f, nil
}

// sparseFile reads a regular file and knows its holes (ingest.Sparse).
type sparseFile struct {
	f   *os.File
	off int64

	// What was found last: [off, data) is a hole, and there is none in [data, end).
	data, end int64
}

// Read implements [io.Reader].
func (s *sparseFile) Read(p []byte) (int, error) {
	n, err := s.f.ReadAt(p, s.off)
	s.off += int64(n)
	if n > 0 {
		err = nil // it comes again
	}
	return n, err
}

// Zeros returns the length of the hole that lies ahead.
func (s *sparseFile) Zeros() (int64, error) {
	if s.off >= s.end {
		if err := s.find(); err != nil {
			return 0, fmt.Errorf("archive: find the holes of %s: %w", s.f.Name(), err)
		}
	}
	return max(s.data-s.off, 0), nil
}

// Skip passes over a part of a hole.
func (s *sparseFile) Skip(n int64) { s.off += n }

// find looks for the next data behind off, and for its end.
func (s *sparseFile) find() error {
	data, err := s.f.Seek(s.off, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) { // none up to the end of the file
		s.data, err = s.f.Seek(0, io.SeekEnd)
		s.end = s.data
		return err
	}
	if err == nil {
		s.data = data
		s.end, err = s.f.Seek(data, unix.SEEK_HOLE)
		if errors.Is(err, unix.ENXIO) { // it became shorter
			s.end, err = data, nil
		}
		return err
	}
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) { // it cannot tell
		s.data, s.end = s.off, 1<<63-1
		return nil
	}
	return err
}
