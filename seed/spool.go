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

// spool keeps contents in a file without a name, or only counts them where it has
// none. A nil spool does neither. It is safe for concurrent use.
type spool struct {
	f *os.File // nil where nothing is kept
	// leave is how much of the filesystem stays free.
	leave int64
	mu    sync.Mutex
	// end is where the next content goes, at where each is: those as well that
	// are not kept, or not yet.
	end int64
	at  map[string]extent
	// found are the bytes of all contents in at, kept of those in the file.
	found, kept int64
}

// extent is where a content is; off is notKept if the file does not have it.
type extent struct{ off, size int64 }

const notKept = -1

func newSpool() *spool { return &spool{at: make(map[string]extent)} }

// open makes the file.
func (s *spool) open(dir string) error {
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err == nil {
		s.f = os.NewFile(uintptr(fd), dir+"/(contents of seeds)")
		return nil
	}
	if !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EISDIR) {
		return fmt.Errorf("%w in %s: %w", errSpool, dir, err)
	}
	f, err := os.CreateTemp(dir, ".ociv2-sync-seed-*")
	if err == nil {
		err = os.Remove(f.Name())
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errSpool, err)
	}
	s.f = f
	return nil
}

// close frees the contents.
func (s *spool) close() error {
	if s.f == nil {
		return nil
	}
	return s.f.Close()
}

// note counts a content that is going to be kept, where contents are, and reports
// whether it is already.
func (s *spool) note(path string, size int64) (kept bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.at[path]
	if !ok {
		e = extent{notKept, size}
		s.at[path] = e
		s.found += size
	}
	return e.off != notKept
}

// take reads a content and returns its digest. keep is then called once: with
// the path that the content is to be found by, or with "" if it is not wanted.
// buf is the caller's, and used until then. What there is no space for is not kept.
func (s *spool) take(r io.Reader, size int64, buf []byte) (d Digest, keep func(path string) error, err error) {
	h := sha256.New()
	off, n := int64(notKept), int64(0)
	early := s != nil && size > int64(len(buf))
	if early {
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
		if early {
			if off, err = s.write(last, off, n, size); err != nil {
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
		case path == "" || s.note(path, size):
			s.release(off, size)
			return nil
		case !early:
			if off, err = s.write(last, s.reserve(size), 0, size); err != nil {
				return err
			}
		}
		if off == notKept {
			return nil
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.at[path] = extent{off, size}
		s.kept += size
		return nil
	}, nil
}

// write writes b at n of the content at off, and returns where that is now: if
// there is no space for it, nowhere.
func (s *spool) write(b []byte, off, n, size int64) (int64, error) {
	if off == notKept {
		return off, nil
	}
	_, err := s.f.WriteAt(b, off+n)
	switch {
	case errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT):
		s.release(off, size)
		return notKept, nil
	case err != nil:
		return off, fmt.Errorf("%w: %w", errSpool, err)
	}
	return off, nil
}

// reserve returns a place for size bytes: notKept if nothing is kept or there is
// no space for them.
func (s *spool) reserve(size int64) int64 {
	if s.f == nil {
		return notKept
	}
	var st unix.Statfs_t
	err := unix.Fstatfs(int(s.f.Fd()), &st)
	if err == nil && int64(min(st.Bavail, 1<<62/uint64(st.Bsize)))*st.Bsize-s.leave < size {
		return notKept
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	off := s.end
	s.end += size
	return off
}

// release gives the space of a content back. Where the filesystem cannot make
// a hole, it is lost until the spool is closed.
func (s *spool) release(off, size int64) {
	if off == notKept {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.end == off+size {
		s.end = off
		return
	}
	_ = unix.Fallocate(int(s.f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, size)
}

// content returns a content that is kept.
func (s *spool) content(path string) (*io.SectionReader, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.at[path]
	return io.NewSectionReader(s.f, e.off, e.size), ok && e.off != notKept
}

// sums returns the bytes of all contents that were found, and of those that are kept.
func (s *spool) sums() (found, kept int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.found, s.kept
}
