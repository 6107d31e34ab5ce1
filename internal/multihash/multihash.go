// Package multihash computes the digests of many byte strings at once.
//
// A digest is a chain of steps that each wait for the one before, so that a
// processor is mostly idle; it is as quick with eight of them side by side.
// Where the processor has the instructions (AVX-512), SHA-512/256 (FIPS 180-4,
// section 5.3.6.2) is computed so, one message in each lane of the vectors;
// elsewhere, or built with the tag purego, or run with GODEBUG=cpu.avx512f=off, by
// the standard library. The digests are the same.
package multihash

import (
	"crypto/sha512"
	"sync"
)

// minLanes is the number of messages from which eight lanes, some of them idle,
// are faster than the standard library's one.
const minLanes = 4

// Sum512_256 sets each dst[i] to the SHA-512/256 of messages[i]. There must be as
// many of one as of the other.
func Sum512_256[D ~[32]byte](dst []D, messages [][]byte) {
	if len(dst) != len(messages) {
		panic("multihash: not one digest for each message")
	}
	for len(messages) > 0 {
		n := min(len(messages), maxBatch)
		if !wide || n < minLanes {
			for i, m := range messages[:n] {
				dst[i] = sha512.Sum512_256(m)
			}
		} else {
			b := batches.Get().(*batch)
			b.run(messages[:n])
			for i := range n {
				dst[i] = b.digests[i]
			}
			batches.Put(b)
		}
		dst, messages = dst[n:], messages[n:]
	}
}

// batches is a free list; what is in it when it is taken does not matter.
var batches = sync.Pool{New: func() any { return new(batch) }}
