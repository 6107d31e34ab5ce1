package tree

import (
	"bytes"
	"io"
)

// holeSize is the smallest run of zeros that becomes a hole, and its alignment.
const holeSize = 4096

// SparseFile is what a SparseWriter writes to, such as an *os.File.
type SparseFile interface {
	io.WriterAt
	Truncate(size int64) error
}

// SparseWriter writes a new file and leaves out blocks, and what it is given of blocks, that
// are zeros.
type SparseWriter struct {
	f    SparseFile
	off  int64
	hole bool // the last bytes were left out
}

// NewSparseWriter returns a writer to f, which is empty.
func NewSparseWriter(f SparseFile) *SparseWriter { return &SparseWriter{f: f} }

func (w *SparseWriter) Write(p []byte) (int, error) {
	for done := 0; done < len(p); {
		zero, n := w.run(p[done:])
		if !zero {
			if _, err := w.f.WriteAt(p[done:done+n], w.off); err != nil {
				return done, err
			}
		}
		w.off, w.hole = w.off+int64(n), zero
		done += n
	}
	return len(p), nil
}

// run returns the length of the longest piece at the beginning of p that is all
// to be left out, or all to be written.
func (w *SparseWriter) run(p []byte) (zero bool, n int) {
	for n < len(p) {
		size := min(len(p)-n, holeSize-int(w.off+int64(n))%holeSize)
		z := isZero(p[n : n+size]) // of a block that comes in two pieces, each may be
		if n > 0 && z != zero {
			break
		}
		zero = z
		n += size
	}
	return zero, n
}

// End gives the file its length, which a hole at its end does not.
func (w *SparseWriter) End() error {
	if !w.hole {
		return nil
	}
	return w.f.Truncate(w.off)
}

func isZero(p []byte) bool {
	var zeros [holeSize]byte
	return bytes.Equal(p, zeros[:len(p)])
}
