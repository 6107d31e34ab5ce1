package tree

import (
	"bytes"
	"io"
)

// holeSize is the smallest run of zeros that becomes a hole, and its alignment.
const holeSize = 4096

// sparseWriter writes a new file and leaves out whole blocks of zeros.
type sparseWriter struct {
	f interface {
		io.WriterAt
		Truncate(size int64) error
	}
	off  int64
	hole bool // the last bytes were left out
}

func (w *sparseWriter) Write(p []byte) (int, error) {
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
func (w *sparseWriter) run(p []byte) (zero bool, n int) {
	for n < len(p) {
		size := min(len(p)-n, holeSize-int(w.off+int64(n))%holeSize)
		z := size == holeSize && isZero(p[n:n+size])
		if n > 0 && z != zero {
			break
		}
		zero = z
		n += size
	}
	return zero, n
}

// end gives the file its length, which a hole at its end does not.
func (w *sparseWriter) end() error {
	if !w.hole {
		return nil
	}
	return w.f.Truncate(w.off)
}

func isZero(p []byte) bool {
	var zeros [holeSize]byte
	return bytes.Equal(p, zeros[:len(p)])
}
