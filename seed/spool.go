package seed

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// errSpool marks a failure of the spool, as against one of an archive.
var errSpool = errors.New("seed: temporary file")

// spoolBuffer is how much of a content is read before any of it is written, in
// bytes: small ones are written only when they are known to be wanted.
const spoolBuffer = 1 << 20

// spool keeps contents in a file without a name. A nil spool keeps none. It is
// safe for concurrent use.
type spool struct {
	f  *os.File
	mu sync.Mutex
	// end is where the next content goes, at where each is.
	end int64
	at  map[string]extent
}

type extent struct{ off, size int64 }

func newSpool(dir string) (*spool, error) {
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err == nil {
		return &spool{f: os.NewFile(uintptr(fd), dir+"/(contents of seeds)"), at: make(map[string]extent)}, nil
	}
	if !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EISDIR) {
		return nil, fmt.Errorf("%w in %s: %w", errSpool, dir, err)
	}
	f, err := os.CreateTemp(dir, ".ociv2-sync-seed-*")
	if err == nil {
		err = os.Remove(f.Name())
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errSpool, err)
	}
	return &spool{f: f, at: make(map[string]extent)}, nil
}

func (s *spool) close() error { return s.f.Close() }

// take reads a content and returns its digest. keep is then called once: with
// the path that the content is to be found by, or with "" if it is not wanted.
// buf is the caller's, and used until then.
func (s *spool) take(r io.Reader, size int64, buf []byte) (d Digest, keep func(path string) error, err error) {
	h := sha256.New()
	var off, n int64
	reserved := s != nil && size > int64(len(buf))
	if reserved {
		off = s.reserve(size)
	}
	var last []byte
	for n < size {
		last = buf[:min(size-n, int64(len(buf)))]
		if _, err := io.ReadFull(r, last); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return d, nil, err
		}
		h.Write(last)
		if reserved {
			if err := s.write(last, off+n); err != nil {
				return d, nil, err
			}
		}
		n += int64(len(last))
	}
	h.Sum(d[:0])
	return d, func(path string) error {
		switch {
		case s == nil:
			return nil
		case path == "":
			if reserved {
				s.release(off, size)
			}
			return nil
		case !reserved:
			off = s.reserve(size)
			if err := s.write(last, off); err != nil {
				return err
			}
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.at[path] = extent{off, size}
		return nil
	}, nil
}

func (s *spool) write(b []byte, off int64) error {
	if _, err := s.f.WriteAt(b, off); err != nil {
		return fmt.Errorf("%w: %w", errSpool, err)
	}
	return nil
}

func (s *spool) reserve(size int64) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	off := s.end
	s.end += size
	return off
}

// release gives the space of a content back. Where the filesystem cannot make
// a hole, it is lost until the spool is closed.
func (s *spool) release(off, size int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.end == off+size {
		s.end = off
		return
	}
	_ = unix.Fallocate(int(s.f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, size)
}

func (s *spool) open(path string) (io.Reader, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.at[path]
	return io.NewSectionReader(s.f, e.off, e.size), ok
}
