package chunk

import "math/bits"

//go:generate go -C ../internal/asmgen run ./neon -out ../../chunk/kernels_arm64.s

const (
	// blockSize is the number of positions that a kernel looks at together.
	blockSize = 64
	// minBlocks is the number of blocks from which a kernel is worth its start.
	minBlocks = 4
)

// kernel is a way to look at many positions at once.
type kernel struct {
	name string
	// scan returns the number of blocks of b from position from on, at most n,
	// before the first one that has a position behind which a chunk may end.
	// There are n blocks, and one before. What scan finds is to be tested again:
	// it has no false negatives, and hardly any false positives.
	scan func(b []byte, from, n int, v *vectorTest) int
}

// vectorTest is cutTest for kernels, in 32 bits. A hash h is D-1 modulo D if and
// only if h+1, at most 2^32, is a multiple of D = odd<<shift. Multiplied by the
// inverse of odd modulo 2^32 and rotated right by shift, the multiples k*D below
// 2^32 become k and nothing else does; that is at most (2^32-1)/D. Only 2^32
// itself, which becomes 0, passes without being a multiple. The test multiplies
// ^h, which is -(h+1), by the negated inverse.
type vectorTest [3]uint32 // the factor, the shift, the bound

func newVectorTest(d uint64) vectorTest {
	shift := bits.TrailingZeros64(d)
	odd := uint32(d >> shift)
	inverse := odd // right in the lowest 3 bits, and each step doubles them
	for range 4 {
		inverse *= 2 - odd*inverse
	}
	return vectorTest{-inverse, uint32(shift), uint32((1<<32 - 1) / d)}
}
