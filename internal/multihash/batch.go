package multihash

import (
	"encoding/binary"
	"slices"
)

const (
	lanes     = 8
	blockSize = 128
	// maxBatch is how many messages are arranged together; it bounds the memory.
	maxBatch = 256
)

// initial is the initial value of SHA-512/256 (FIPS 180-4, section 5.3.6.2).
var initial = [8]uint64{
	0x22312194fc2bf72c, 0x9f555fa3c84c64c2, 0x2393b86b6f53b151, 0x963877195940eabd,
	0x96283ee2a88effe3, 0xbe5e1e2553863992, 0x2b0199fc2c85b8aa, 0x0eb72ddc81c52ca2,
}

// lane is a message on its way.
type lane struct {
	message int    // its number; -1 for none
	rest    []byte // whole blocks to be taken in
	last    bool   // rest is the end, padding included
	tail    [2 * blockSize]byte
}

// batch hashes up to maxBatch messages.
type batch struct {
	state   [8][lanes]uint64
	data    [lanes]*byte // the next block of each lane
	lanes   [lanes]lane
	order   [maxBatch]uint16 // of the messages, longest first
	digests [maxBatch][32]byte
}

// run computes the digests. The longest messages come first, so that the lanes
// end at about the same time.
func (b *batch) run(k kernel, messages [][]byte) {
	order := b.order[:len(messages)]
	for i := range order {
		order[i] = uint16(i)
	}
	slices.SortFunc(order, func(x, y uint16) int { return len(messages[y]) - len(messages[x]) })
	for i := range b.lanes {
		order = b.refill(i, messages, order)
	}
	for {
		n, longest := b.blocks()
		if n == 0 {
			return
		}
		for first := 0; first < lanes; first += k.lanes {
			b.take(k, n, first, longest)
		}
		for i := range b.lanes {
			l := &b.lanes[i]
			if l.message < 0 {
				continue
			}
			l.rest = l.rest[n*blockSize:]
			switch {
			case len(l.rest) > 0:
			case !l.last:
				l.pad(messages[l.message])
			default:
				b.finish(i)
				order = b.refill(i, messages, order)
			}
		}
	}
}

// blocks returns how many blocks all lanes that are not idle have, 0 once all are, and a
// lane that has the most.
func (b *batch) blocks() (n int, longest *lane) {
	longest = &b.lanes[0]
	for i := range b.lanes {
		l := &b.lanes[i]
		if l.message < 0 {
			continue
		}
		if blocks := len(l.rest) / blockSize; n == 0 || blocks < n {
			n = blocks
		}
		if len(l.rest) >= len(longest.rest) {
			longest = l
		}
	}
	return n, longest
}

// finish takes the digest out of lane i.
func (b *batch) finish(i int) {
	d := &b.digests[b.lanes[i].message]
	for w := range 4 {
		binary.BigEndian.PutUint64(d[8*w:], b.state[w][i])
	}
}

// take takes n blocks into the lanes of a kernel from number first on. Idle ones
// among them hash what another has, for nobody.
func (b *batch) take(k kernel, n, first int, other *lane) {
	idle := 0
	for i := first; i < first+k.lanes; i++ {
		l := &b.lanes[i]
		if l.message < 0 {
			l = other
			idle++
		}
		b.data[i] = &l.rest[0]
	}
	if idle < k.lanes {
		k.blocks(&b.state, &b.data, n, first)
	}
}

// refill starts the next message in lane i and returns those that remain.
func (b *batch) refill(i int, messages [][]byte, order []uint16) []uint16 {
	l := &b.lanes[i]
	l.message = -1
	if len(order) == 0 {
		return nil
	}
	l.message = int(order[0])
	for w, v := range initial {
		b.state[w][i] = v
	}
	m := messages[l.message]
	l.rest, l.last = m[:len(m)/blockSize*blockSize], false
	if len(l.rest) == 0 {
		l.pad(m)
	}
	return order[1:]
}

// pad makes the rest of l what lies behind the whole blocks of its message m,
// padded as FIPS 180-4, section 5.1.2 has it: a bit, zeros, and the number of
// bits in the last 16 bytes.
func (l *lane) pad(m []byte) {
	n := copy(l.tail[:], m[len(m)/blockSize*blockSize:])
	clear(l.tail[n:])
	l.tail[n] = 0x80
	end := blockSize
	if n+1+16 > blockSize {
		end = 2 * blockSize
	}
	binary.BigEndian.PutUint64(l.tail[end-16:], uint64(len(m))>>61)
	binary.BigEndian.PutUint64(l.tail[end-8:], uint64(len(m))<<3)
	l.rest, l.last = l.tail[:end], true
}
