package translate

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// errSpool marks errors of the temporary file.
var errSpool = errors.New("temporary file")

// spool keeps contents in one file without a name, so that nothing is left
// behind however the process ends. Equal contents are kept once, and runs of
// zeros as holes.
type spool struct {
	f    *os.File
	end  int64 // where the next content goes
	high int64 // end of what was ever written; beyond it the file reads as zeros
	at   map[[32]byte]int64
	buf  []byte
}

// spoolBlock is the unit of reading, and the smallest run of zeros left out.
const spoolBlock = 256 << 10

// newSpool makes the file in dir. Where the filesystem cannot make a file
// without a name, the name is removed at once.
func newSpool(dir string) (*spool, error) {
	s := &spool{at: map[[32]byte]int64{}, buf: make([]byte, spoolBlock)}
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err == nil {
		s.f = os.NewFile(uintptr(fd), dir+"/(contents)")
		return s, nil
	}
	if !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EISDIR) {
		return nil, fmt.Errorf("translate: %w in %s: %w", errSpool, dir, err)
	}
	f, err := os.CreateTemp(dir, ".ociv2-sync-*")
	if err != nil {
		return nil, fmt.Errorf("translate: %w: %w", errSpool, err)
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(fmt.Errorf("translate: %w: %w", errSpool, err), f.Close())
	}
	s.f = f
	return s, nil
}

// add keeps the size bytes of r and returns where they are and their SHA-256.
func (s *spool) add(r io.Reader, size int64) (off int64, sum [32]byte, err error) {
	h := sha256.New()
	off = s.end
	for pos := int64(0); pos < size; {
		b := s.buf[:min(size-pos, int64(len(s.buf)))]
		if _, err := io.ReadFull(r, b); err != nil {
			return 0, sum, noEOF(err)
		}
		h.Write(b)
		pos += int64(len(b))
		if pos == size {
			h.Sum(sum[:0])
			if twin, ok := s.at[sum]; ok {
				return twin, sum, nil // s.end is unchanged: the next content overwrites this one
			}
		}
		if err := s.write(b, off+pos-int64(len(b))); err != nil {
			return 0, sum, err
		}
	}
	s.at[sum], s.end = off, off+size
	return off, sum, nil
}

// forget lets go of what tells equal contents: those added from now on are kept
// beside their twins.
func (s *spool) forget() { s.at = map[[32]byte]int64{} }

// write puts b at off, unless it is all zeros and so is the file there.
func (s *spool) write(b []byte, off int64) error {
	if off >= s.high && allZero(b) {
		return nil
	}
	if _, err := s.f.WriteAt(b, off); err != nil {
		return fmt.Errorf("%w: %w", errSpool, err)
	}
	s.high = max(s.high, off+int64(len(b)))
	return nil
}

// seal ends writing: the holes at the end become part of the file, and memory
// that only add needs is let go.
func (s *spool) seal() error {
	s.at, s.buf = nil, nil
	if err := s.f.Truncate(s.end); err != nil {
		return fmt.Errorf("translate: %w: %w", errSpool, err)
	}
	return nil
}

// allZero reports whether b has no byte but zeros.
func allZero(b []byte) bool {
	for len(b) >= 8 {
		if b[0]|b[1]|b[2]|b[3]|b[4]|b[5]|b[6]|b[7] != 0 {
			return false
		}
		b = b[8:]
	}
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
