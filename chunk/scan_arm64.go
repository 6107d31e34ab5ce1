//go:build !purego

package chunk

import "unsafe"

// kernels returns the kernels that this processor runs: all of this kind run it.
func kernels() []kernel { return []kernel{{"NEON", neon}} }

func neon(b []byte, from, n int, v *vectorTest) int {
	_, _ = b[from-blockSize], b[from+n*blockSize-1]
	return scanNEON((*byte)(unsafe.Pointer(&b[from])), n, &rotatedTables, (*[3]uint32)(v))
}

// scanNEON returns the number of blocks of 64 bytes from p on, at most n, before
// the first one in which a chunk may end. The 64 bytes before p are read as well.
//
//go:noescape
func scanNEON(p *byte, n int, t *[2048]uint32, v *[3]uint32) int
