package xz

import (
	"encoding/binary"
	"hash/crc32"
	"math/bits"
)

// The effort of the search for matches, about that of xz -2.
const (
	hashBits   = 15
	maxChain   = 24
	niceLength = 64
	maxDict    = 8 << 20 // that of xz -6
)

// lc, lp and pb of what Compress writes, and the byte that says so.
const (
	ourLC, ourLP, ourPB = 3, 0, 2
	ourProps            = (ourPB*5+ourLP)*9 + ourLC
)

// Compressor compresses buffers, one at a time. The zero value is ready.
type Compressor struct {
	model
	src  []byte
	dict int // most that a distance may be
	head [1 << hashBits]int32
	prev []int32 // of each position modulo dict: the one before of the same hash
	next int     // first position that is not in the tables

	out       []byte
	low       uint64
	rng       uint32
	cache     byte
	cacheSize int
}

// Compress returns b as one stream with a CRC64, as xz -6 and casync write
// it. The result uses dst's storage if its capacity is enough. b must not be
// empty.
func (c *Compressor) Compress(dst, b []byte) []byte {
	c.out = append(dst[:0], streamMagic...)
	flags := []byte{0, checkCRC64}
	c.out = append(c.out, flags...)
	c.out = binary.LittleEndian.AppendUint32(c.out, crc32.ChecksumIEEE(flags))
	start := len(c.out)
	c.dict = min(1<<max(12, bits.Len(uint(len(b)-1))), maxDict)
	// Header size, flags, filter, length of its properties, dictionary 2^n bytes.
	c.out = append(c.out, 2, 0, filterLZMA2, 1, byte(2*(bits.Len(uint(c.dict))-1-12)), 0, 0, 0)
	c.out = binary.LittleEndian.AppendUint32(c.out, crc32.ChecksumIEEE(c.out[start:]))
	c.lzma2(b)
	unpadded := len(c.out) - start + checks[checkCRC64].size
	for (len(c.out)-start)%4 != 0 {
		c.out = append(c.out, 0)
	}
	c.out = append(c.out, checks[checkCRC64].sum(b)...)
	records := binary.AppendUvarint(nil, uint64(unpadded))
	records = binary.AppendUvarint(records, uint64(len(b)))
	out := appendEnd(c.out, 1, records, checkCRC64)
	c.out, c.src = nil, nil
	return out
}

// lzma2 appends b as LZMA2 data: LZMA chunks, or plain ones where those would
// be longer.
func (c *Compressor) lzma2(b []byte) {
	c.src, c.next = b, 0
	clear(c.head[:])
	if len(c.prev) < c.dict {
		c.prev = make([]int32, c.dict)
	}
	c.lc, c.lp, c.pb = ourLC, ourLP, ourPB
	const (
		plain    = 0x02 // less one with a new dictionary
		lzma     = 0x80
		newState = 0x20
		newProps = 0x40
		newDict  = 0x60
	)
	reset := byte(newDict)
	for pos := 0; pos < len(b); {
		start := len(c.out)
		c.out = append(c.out, 0, 0, 0, 0, 0)
		if reset >= newProps {
			c.out = append(c.out, ourProps)
		}
		if reset != 0 {
			c.reset()
		}
		body := len(c.out)
		n := c.chunk(pos)
		packed := len(c.out) - body
		if packed < n && packed <= maxChunkInput {
			c.out[start] = lzma | reset | byte((n-1)>>16)
			binary.BigEndian.PutUint16(c.out[start+1:], uint16(n-1))
			binary.BigEndian.PutUint16(c.out[start+3:], uint16(packed-1))
			reset = 0
			pos += n
			continue
		}
		c.out = c.out[:start]
		for end := pos + n; pos < end; {
			n := min(end-pos, maxChunkInput)
			control := byte(plain)
			if pos == 0 {
				control--
			}
			c.out = append(c.out, control)
			c.out = binary.BigEndian.AppendUint16(c.out, uint16(n-1))
			c.out = append(c.out, b[pos:pos+n]...)
			pos += n
		}
		if reset >= newProps {
			reset = newProps // the dictionary is there, the properties are not
		} else {
			reset = newState
		}
	}
	c.out = append(c.out, 0)
}

// chunk appends one LZMA chunk of what begins at pos and returns how many bytes
// it stands for.
func (c *Compressor) chunk(pos int) int {
	const symbolOutput = 32 // more than what one symbol and the end add
	c.low, c.rng, c.cache, c.cacheSize = 0, 0xffffffff, 0, 1
	start, from := len(c.out), pos
	end := min(len(c.src), pos+maxChunkOutput)
	for pos < end && len(c.out)-start+c.cacheSize < maxChunkInput-symbolOutput {
		pos += c.symbol(pos, end)
	}
	for range 5 {
		c.shiftLow()
	}
	return pos - from
}

// symbol writes the literal or match at pos, not beyond end, and returns its
// length.
func (c *Compressor) symbol(pos, end int) int {
	ps := uint32(pos) & (1<<c.pb - 1)
	repeat, rep := c.repeat(pos, end)
	n, dist := c.match(pos, end)
	// A repeated distance costs much less than a new one.
	if rep >= matchMin && rep+2 >= n {
		c.bit(&c.isMatch[c.state][ps], 1)
		c.bit(&c.isRep[c.state], 1)
		c.putRepeat(repeat, ps)
		c.putLength(&c.reLs, rep, ps)
		c.after(8, 11)
		return rep
	}
	if n < 4 && dist >= 1<<14 || n < 3 && dist >= 1<<7 || n < matchMin {
		n = 0
	}
	// Is the match one byte later longer?
	if n > 0 && n < niceLength && pos+1 < end {
		if later, _ := c.match(pos+1, end); later > n+1 {
			n = 0
		}
	}
	if n == 0 {
		c.putLiteral(pos, ps)
		return 1
	}
	c.bit(&c.isMatch[c.state][ps], 1)
	c.bit(&c.isRep[c.state], 0)
	c.reps[3], c.reps[2], c.reps[1], c.reps[0] = c.reps[2], c.reps[1], c.reps[0], uint32(dist)
	c.putLength(&c.lens, n, ps)
	c.after(7, 10)
	c.putDistance(uint32(dist), n)
	return n
}

// repeat returns which of the latest distances gives the longest match.
func (c *Compressor) repeat(pos, end int) (which, n int) {
	for i, r := range c.reps {
		if int(r) < pos {
			if l := c.common(pos-int(r)-1, pos, end); l > n {
				which, n = i, l
			}
		}
	}
	return which, n
}

// common returns the length of what positions a and b have in common.
func (c *Compressor) common(a, b, end int) int {
	most := min(end-b, matchMax)
	x, y := c.src[a:a+most], c.src[b:b+most]
	n := 0
	for most-n >= 8 {
		if d := binary.LittleEndian.Uint64(x[n:]) ^ binary.LittleEndian.Uint64(y[n:]); d != 0 {
			return n + bits.TrailingZeros64(d)/8
		}
		n += 8
	}
	for n < most && x[n] == y[n] {
		n++
	}
	return n
}

// match returns the longest match at pos that the tables have, and its
// distance, less one. It enters all positions up to pos into them.
func (c *Compressor) match(pos, end int) (n, dist int) {
	for ; c.next <= pos && c.next+4 <= len(c.src); c.next++ {
		h := c.hash(c.next)
		c.prev[c.next&(c.dict-1)] = c.head[h]
		c.head[h] = int32(c.next + 1) // 0 is none
	}
	if pos+4 > len(c.src) || pos >= c.next {
		return 0, 0
	}
	at := c.prev[pos&(c.dict-1)]
	for range maxChain {
		p := int(at) - 1
		if p < 0 || pos-p > c.dict-2 {
			break
		}
		if l := c.common(p, pos, end); l > n {
			n, dist = l, pos-p-1
			if n >= niceLength {
				break
			}
		}
		at = c.prev[p&(c.dict-1)]
	}
	return n, dist
}

func (c *Compressor) hash(pos int) uint32 {
	return binary.LittleEndian.Uint32(c.src[pos:]) * 2654435761 >> (32 - hashBits)
}

func (c *Compressor) putLiteral(pos int, ps uint32) {
	c.bit(&c.isMatch[c.state][ps], 0)
	prev := byte(0)
	if pos > 0 {
		prev = c.src[pos-1]
	}
	probs := c.literalAt(uint32(pos), prev)
	symbol := uint32(c.src[pos]) | 0x100
	if c.state < stateLiterals {
		for m, i := uint32(1), 7; i >= 0; i-- {
			b := symbol >> i & 1
			c.bit(&probs[m], b)
			m = m<<1 | b
		}
	} else {
		match, offset := uint32(c.src[pos-int(c.reps[0])-1]), uint32(0x100)
		for symbol < 0x10000 {
			match <<= 1
			c.bit(&probs[offset+match&offset+symbol>>8], symbol>>7&1)
			symbol <<= 1
			offset &^= match ^ symbol
		}
	}
	c.afterLiteral()
}

// putRepeat says which of the latest distances it is, and makes it the latest.
func (c *Compressor) putRepeat(which int, ps uint32) {
	if which == 0 {
		c.bit(&c.isRepG0[c.state], 0)
		c.bit(&c.isRep0Long[c.state][ps], 1)
		return
	}
	c.bit(&c.isRepG0[c.state], 1)
	c.bit(&c.isRepG1[c.state], uint32(min(which-1, 1)))
	if which > 1 {
		c.bit(&c.isRepG2[c.state], uint32(which-2))
	}
	dist := c.reps[which]
	copy(c.reps[1:which+1], c.reps[:which])
	c.reps[0] = dist
}

func (c *Compressor) putLength(l *lengths, n int, ps uint32) {
	switch n -= matchMin; {
	case n < lenLow:
		c.bit(&l.choice, 0)
		c.tree(l.low[ps][:], 3, uint32(n))
	case n < lenLow+lenMid:
		c.bit(&l.choice, 1)
		c.bit(&l.choice2, 0)
		c.tree(l.mid[ps][:], 3, uint32(n-lenLow))
	default:
		c.bit(&l.choice, 1)
		c.bit(&l.choice2, 1)
		c.tree(l.high[:], 8, uint32(n-lenLow-lenMid))
	}
}

func (c *Compressor) putDistance(dist uint32, n int) {
	slot := dist
	if dist >= 4 {
		top := uint32(bits.Len32(dist) - 1)
		slot = 2*top + dist>>(top-1)&1
	}
	c.tree(c.posSlot[lenState(n)][:], 6, slot)
	if slot < 4 {
		return
	}
	low := uint(slot>>1 - 1)
	base := (2 | slot&1) << low
	if slot < endPosModel {
		c.reverse(c.special[base-slot:], low, dist-base)
		return
	}
	rest := dist - base
	for i := int(low) - 1; i >= alignBits; i-- { // as likely as not
		c.rng >>= 1
		if rest>>i&1 == 1 {
			c.low += uint64(c.rng)
		}
		c.normalize()
	}
	c.reverse(c.align[:], alignBits, rest&(1<<alignBits-1))
}

// tree encodes so many bits, the highest first.
func (c *Compressor) tree(probs []uint16, n uint, v uint32) {
	m := uint32(1)
	for i := int(n) - 1; i >= 0; i-- {
		b := v >> i & 1
		c.bit(&probs[m], b)
		m = m<<1 | b
	}
}

// reverse encodes so many bits, the lowest first.
func (c *Compressor) reverse(probs []uint16, n uint, v uint32) {
	m := uint32(1)
	for i := range n {
		b := v >> i & 1
		c.bit(&probs[m], b)
		m = m<<1 | b
	}
}

func (c *Compressor) bit(p *uint16, b uint32) {
	bound := c.rng >> probBits * uint32(*p)
	if b == 0 {
		c.rng = bound
		*p += (1<<probBits - *p) >> probMove
	} else {
		c.low += uint64(bound)
		c.rng -= bound
		*p -= *p >> probMove
	}
	c.normalize()
}

func (c *Compressor) normalize() {
	if c.rng < rangeTop {
		c.rng <<= 8
		c.shiftLow()
	}
}

// shiftLow writes the top byte of low once no carry can reach it any more.
func (c *Compressor) shiftLow() {
	if uint32(c.low) < 0xff000000 || c.low>>32 != 0 {
		carry := byte(c.low >> 32)
		b := c.cache
		for ; c.cacheSize > 0; c.cacheSize-- {
			c.out = append(c.out, b+carry)
			b = 0xff
		}
		c.cache = byte(c.low >> 24)
	}
	c.cacheSize++
	c.low = c.low & 0x00ffffff << 8
}
