package delta

import (
	"encoding/binary"
	"iter"
	"math/bits"
)

// op is one instruction: copy add bytes from the base at from, each with a
// difference added, then insert bytes that the base does not have.
type op struct {
	from   int64
	add    int
	insert int
}

const (
	// hashLen is the number of bytes that two places must share to be found.
	hashLen = 6
	// maxChain bounds the places that are tried for one position.
	maxChain = 96
	// sure is the length from which a match is good enough to stop searching.
	sure = 128
	// worth is how many bytes more a match must explain than the current
	// alignment does, to be worth a new instruction.
	worth = 8
)

// matcher finds where the bytes of a base occur. Its memory is at most ten
// times the length of the base.
type matcher struct {
	old   []byte
	shift uint
	heads []int32 // by hash: the last place, plus 1
	prev  []int32 // by place: the place before it with the same hash, plus 1
}

func newMatcher(old []byte) *matcher {
	width := max(8, min(24, bits.Len(uint(len(old)))))
	m := &matcher{old: old, shift: uint(64 - width), heads: make([]int32, 1<<width), prev: make([]int32, len(old))}
	for i := range max(0, len(old)-7) {
		h := m.hash(old[i:])
		m.prev[i] = m.heads[h]
		m.heads[h] = int32(i + 1)
	}
	return m
}

// hash reads eight bytes of b and uses the first hashLen.
func (m *matcher) hash(b []byte) uint64 {
	return binary.LittleEndian.Uint64(b) << (64 - 8*hashLen) * 0x9e3779b185ebca87 >> m.shift
}

// longest returns a long match of the beginning of b: that at the place guess
// if it is good, else the longest that is found.
func (m *matcher) longest(b []byte, guess int64) (pos int64, n int) {
	if guess >= 0 && guess < int64(len(m.old)) {
		pos, n = guess, common(m.old[guess:], b)
		if n >= sure {
			return pos, n
		}
	}
	if len(b) < 8 {
		return pos, n
	}
	chain := maxChain
	for at := m.heads[m.hash(b)]; at > 0 && chain > 0; at = m.prev[at-1] {
		chain--
		o := m.old[at-1:]
		if n >= len(o) || n >= len(b) || o[n] != b[n] {
			continue
		}
		if l := common(o, b); l > n {
			pos, n = int64(at-1), l
			if n >= sure {
				break
			}
		}
	}
	return pos, n
}

// common returns the length of the common beginning of a and b.
func common(a, b []byte) int {
	n := min(len(a), len(b))
	i := 0
	for ; i+8 <= n; i += 8 {
		if x := binary.LittleEndian.Uint64(a[i:]) ^ binary.LittleEndian.Uint64(b[i:]); x != 0 {
			return i + bits.TrailingZeros64(x)/8
		}
	}
	for i < n && a[i] == b[i] {
		i++
	}
	return i
}

// indexCost is how many bytes an index takes for each byte of a base, the base
// included.
const indexCost = 10

// instructions yields what makes b out of old. Where an index of old would take
// more than memory bytes, b is taken in pieces, and each is looked for around
// its own place in old alone.
func instructions(old, b []byte, memory int64) iter.Seq[op] {
	return func(yield func(op) bool) {
		window := len(old)
		piece := len(b)
		if most := max(memory/indexCost, 1<<16); int64(window) > most {
			window = int(most)
			piece = window / 2
		}
		for at := 0; at < len(b); at += piece {
			from := min(max(0, at-(window-piece)/2), len(old)-window)
			if piece == len(b) {
				from = 0
			}
			for _, o := range diff(old[from:from+window], b[at:min(at+piece, len(b))]) {
				o.from += int64(from)
				if !yield(o) {
					return
				}
			}
		}
	}
}

// diff returns instructions that make b out of old. It is the algorithm of
// bsdiff (C. Percival, "Naive differences of executable code", 2003), over
// hash chains: an alignment is kept for as long as no other explains at least
// [worth] bytes more, and each is then stretched both ways over bytes of which
// at least half agree.
func diff(old, b []byte) []op {
	if len(old) == 0 {
		return []op{{insert: len(b)}}
	}
	d := differ{matcher: newMatcher(old), b: b}
	var ops []op
	size := int64(len(b))
	var lastScan, lastPos int64 // where the current instruction begins
	for d.scan < size {
		if !d.next() {
			continue
		}
		forward := stretch(d.scan-lastScan, int64(len(old))-lastPos, func(i int64) bool { return old[lastPos+i] == b[lastScan+i] })
		back := int64(0)
		if d.scan < size {
			back = stretch(d.scan-lastScan, d.pos, func(i int64) bool { return old[d.pos-1-i] == b[d.scan-1-i] })
		}
		if over := lastScan + forward - (d.scan - back); over > 0 { // both claim these bytes
			cut := d.split(lastPos+forward-over, lastScan+forward-over, d.pos-back, over)
			forward += cut - over
			back -= cut
		}
		o := op{from: lastPos, add: int(forward), insert: int(d.scan - back - lastScan - forward)}
		if o.add > 0 || o.insert > 0 {
			ops = append(ops, o)
		}
		lastScan, lastPos, d.offset = d.scan-back, d.pos-back, d.pos-d.scan
	}
	return ops
}

// differ goes through b in search of alignments with old.
type differ struct {
	*matcher
	b         []byte
	scan, pos int64 // where we are in b, and what matches there in old
	length    int   // of that match
	offset    int64 // of the current alignment: old = new + offset
}

// same reports whether the byte at o of old is the byte at n of b.
func (d *differ) same(o, n int64) bool {
	return o >= 0 && o < int64(len(d.old)) && d.old[o] == d.b[n]
}

// next goes past the match, to where another alignment explains more than the
// current one, or to the end of b. It reports whether the current one is done.
func (d *differ) next() bool {
	score := 0 // bytes of the match that the current alignment explains too
	size := int64(len(d.b))
	d.scan += int64(d.length)
	scored := d.scan
	for ; d.scan < size; d.scan++ {
		d.pos, d.length = d.longest(d.b[d.scan:], d.scan+d.offset)
		for ; scored < d.scan+int64(d.length); scored++ {
			if d.same(scored+d.offset, scored) {
				score++
			}
		}
		if d.length == score && d.length != 0 || d.length > score+worth {
			break
		}
		if d.same(d.scan+d.offset, d.scan) {
			score--
		}
	}
	return d.length != score || d.scan == size
}

// split returns how many of n bytes, from at on in b, are to be taken from before on in
// old, and the rest from behind on, so that most of them agree.
func (d *differ) split(before, at, behind, n int64) int64 {
	best, sum, cut := 0, 0, int64(0)
	for i := range n {
		if d.same(before+i, at+i) {
			sum++
		}
		if d.same(behind+i, at+i) {
			sum--
		}
		if sum > best {
			best, cut = sum, i+1
		}
	}
	return cut
}

// stretch returns how far, within both limits, to go so that the bytes that
// agree outnumber those that do not by the most.
func stretch(a, b int64, agree func(int64) bool) int64 {
	var sum, best, length int64
	for i := range min(a, b) {
		if agree(i) {
			sum++
		} else {
			sum--
		}
		if sum > best {
			best, length = sum, i+1
		}
	}
	return length
}
