// Package multihash computes the digests of many byte strings at once.
//
// A digest is a chain of steps that each wait for the one before, so that a
// processor is mostly idle; it is as quick with eight of them side by side.
// Where the processor has the instructions (AVX-512, AVX2), SHA-512/256 (FIPS
// 180-4, section 5.3.6.2) is computed so, one message in each lane of the vectors;
// elsewhere, or built with the tag purego, or run with
// GODEBUG=cpu.avx512f=off,cpu.bmi1=off, by the standard library. The digests are
// the same.
package multihash

import (
	"crypto/sha512"
	"sync"
)

// kernel is a way to take blocks into the states of several messages at once.
type kernel struct {
	name string
	// lanes is how many messages it takes together: all or half of them. Half of
	// that, at least 3, are faster this way than one after the other.
	lanes int
	// blocks takes n blocks, at least one, from addresses in data into the states
	// of as many messages as there are lanes, from number first on, a multiple of
	// that; state has them by word, then by message.
	blocks func(state *[8][lanes]uint64, data *[lanes]*byte, n, first int)
}

// best is the first kernel of this processor, or none.
var best = func() kernel {
	if all := kernels(); len(all) > 0 {
		return all[0]
	}
	return kernel{}
}()

// Sum512_256 sets each dst[i] to the SHA-512/256 of messages[i]. There must be as
// many of one as of the other.
func Sum512_256[D ~[32]byte](dst []D, messages [][]byte) {
	sum(best, dst, messages)
}

func sum[D ~[32]byte](k kernel, dst []D, messages [][]byte) {
	if len(dst) != len(messages) {
		panic("multihash: not one digest for each message")
	}
	for len(messages) > 0 {
		n := min(len(messages), maxBatch)
		if k.blocks == nil || n < max(k.lanes/2, 3) {
			for i, m := range messages[:n] {
				dst[i] = sha512.Sum512_256(m)
			}
		} else {
			b := batches.Get().(*batch)
			b.run(k, messages[:n])
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
