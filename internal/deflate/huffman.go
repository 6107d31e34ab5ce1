package deflate

import "math/bits"

const (
	literals  = 256
	endOfCode = 256
	maxLit    = 286
	maxDistN  = 30
	maxPrefix = 19
	maxBits   = 15
)

var (
	distExtra = [maxDistN]uint8{0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13}
	lenExtra  = [29]uint8{0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0}
	// prefixOrder is the order in which RFC 1951 sends the lengths of the codes
	// for code lengths.
	prefixOrder = [maxPrefix]uint8{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}
	prefixExtra = [maxPrefix]uint8{16: 2, 17: 3, 18: 7}
)

// lengthCode returns the code of a match length, from 0 on, and what remains.
func lengthCode(length int) (code, rest int) {
	n := length - minMatch
	if length == maxMatch {
		return 28, 0
	}
	if n < 8 {
		return n, 0
	}
	k := bits.Len(uint(n)) - 3
	return 4*k + n>>k, n & (1<<k - 1)
}

// distCode returns the code of a distance and what remains.
func distCode(dist int) (code, rest int) {
	n := dist - 1
	if n < 4 {
		return n, 0
	}
	k := bits.Len(uint(n)) - 2
	return 2*k + n>>k, n & (1<<k - 1)
}

// coder is an alphabet with its frequencies and its code.
type coder struct {
	freq  []uint16
	size  []uint8 // of the codes, in bits
	code  []uint16
	extra func(int) int // bits that follow a code
	most  int           // length of the longest code allowed
	last  int           // the highest symbol used
}

func newCoder(n, most int, extra func(int) int) coder {
	return coder{freq: make([]uint16, n), size: make([]uint8, n), code: make([]uint16, n), extra: extra, most: most}
}

// build makes the code for the frequencies and returns how many bits it takes.
func (c *coder) build() (total int) {
	n := len(c.freq)
	t := huffman{freq: make([]uint16, 2*n+1), depth: make([]uint8, 2*n+1), heap: make([]int, 1, 2*n+1)}
	copy(t.freq, c.freq)
	clear(c.size)
	c.last = -1
	for s, f := range c.freq {
		if f > 0 {
			t.heap = append(t.heap, s)
			c.last = s
		}
	}
	// There are two codes at least: some decoders want that.
	forced := 0
	for len(t.heap) < 3 {
		s := 0
		if c.last < 2 {
			c.last++
			s = c.last
		}
		t.freq[s] = 1
		t.heap = append(t.heap, s)
		forced++
	}
	for i := (len(t.heap) - 1) / 2; i >= 1; i-- {
		t.down(i)
	}
	parent := make([]int, 2*n+1)
	var order []int // nodes, from the least frequent
	node := n
	for len(t.heap) > 2 {
		a := t.heap[1]
		t.heap[1] = t.heap[len(t.heap)-1]
		t.heap = t.heap[:len(t.heap)-1]
		t.down(1)
		b := t.heap[1]
		order = append(order, a, b)
		t.freq[node] = t.freq[a] + t.freq[b]
		t.depth[node] = max(t.depth[a], t.depth[b]) + 1
		parent[a], parent[b] = node, node
		t.heap[1] = node
		node++
		t.down(1)
	}
	order = append(order, t.heap[1])
	c.lengths(order, parent, n)
	for s, f := range t.freq[:n] {
		total += int(f) * (int(c.size[s]) + c.extra(s))
	}
	total -= forcedBits(c, forced)
	c.assign()
	return total
}

// forcedBits returns what the codes that were added for nothing seem to take:
// each has one bit, as there are but two.
func forcedBits(c *coder, forced int) int {
	sum := 0
	for s := range c.freq {
		if forced > 0 && c.freq[s] == 0 && c.size[s] > 0 {
			sum += int(c.size[s]) + c.extra(s)
		}
	}
	return sum
}

// huffman is a heap of nodes by frequency, then depth.
type huffman struct {
	freq  []uint16
	depth []uint8
	heap  []int // from 1 on
}

func (t *huffman) less(a, b int) bool {
	return t.freq[a] < t.freq[b] || t.freq[a] == t.freq[b] && t.depth[a] <= t.depth[b]
}

func (t *huffman) down(k int) {
	v := t.heap[k]
	for j := 2 * k; j < len(t.heap); j *= 2 {
		if j+1 < len(t.heap) && t.less(t.heap[j+1], t.heap[j]) {
			j++
		}
		if t.less(v, t.heap[j]) {
			break
		}
		t.heap[k] = t.heap[j]
		k = j
	}
	t.heap[k] = v
}

// lengths gives each symbol its code length. Codes that would be too long are
// shortened: leaves are moved, two at a time, to where there is room.
func (c *coder) lengths(order, parent []int, n int) {
	var count [maxBits + 1]int
	size := make([]int, 2*n+1)
	over := 0
	for i := len(order) - 2; i >= 0; i-- { // from the root's children on
		s := order[i]
		size[s] = size[parent[s]] + 1
		if size[s] > c.most {
			size[s] = c.most
			over++
		}
		if s < n {
			count[size[s]]++
			c.size[s] = uint8(size[s])
		}
	}
	if over == 0 {
		return
	}
	for ; over > 0; over -= 2 {
		l := c.most - 1
		for count[l] == 0 {
			l--
		}
		count[l]--
		count[l+1] += 2
		count[c.most]--
	}
	i := 0
	for l := c.most; l > 0; l-- {
		for k := count[l]; k > 0; i++ {
			if s := order[i]; s < n {
				c.size[s] = uint8(l)
				k--
			}
		}
	}
}

// assign makes the codes out of their lengths (RFC 1951, section 3.2.2), with
// their bits in the order in which they are sent.
func (c *coder) assign() {
	var count, next [maxBits + 2]uint16
	for _, l := range c.size {
		if l > 0 {
			count[l]++
		}
	}
	for l := 1; l <= maxBits; l++ {
		next[l+1] = (next[l] + count[l]) << 1
	}
	for s, l := range c.size {
		if l > 0 {
			c.code[s] = bits.Reverse16(next[l]) >> (16 - l)
			next[l]++
		}
	}
}
