package inflate

import "math/bits"

const (
	maxLiterals  = 286 // symbols that there may be of literals and lengths
	maxDistances = 30
	maxCode      = 15 // bits
	maxLength    = 258

	literalBits  = 11 // of the tables that are looked at first
	distanceBits = 8
	lengthBits   = 7 // of the code of code lengths, which has none that are longer
)

// An entry of a table says what the next bits are. The lowest byte is the number of
// bits of the code, 0 if there is no such code; then come a number of extra bits, a
// kind, and 16 bits of value: the literal, the base of the length or distance, or
// where the table for codes that begin like this one is. For that, the extra bits
// are those that choose among its entries.
const (
	extraShift = 8
	extraMask  = 15
	valueShift = 16

	isLiteral = 1 << 12
	isEnd     = 1 << 13
	isTable   = 1 << 14
)

// codes are those of a block.
type codes struct {
	literals, distances []uint32
	isFixed             bool
}

// build makes the table of the code whose lengths are given, by symbol, with so many
// bits looked at first (RFC 1951, section 3.2.2). entries has what is to be found of
// each symbol. It reports whether there is such a code: it has no bits to spare,
// save when it has one symbol of one bit, or none at all.
func build(table []uint32, lengths []uint8, first int, entries func(symbol int) uint32) ([]uint32, bool) {
	var count [maxCode + 1]int
	longest := 0
	for _, l := range lengths {
		count[l]++
		longest = max(longest, int(l))
	}
	count[0] = 0
	var next [maxCode + 2]int
	for l := 1; l <= longest; l++ {
		next[l+1] = (next[l] + count[l]) << 1
	}
	if end := next[longest+1] >> 1; longest > 0 && end != 1<<longest && (end != 1 || longest != 1) {
		return table, false
	}
	table = append(table[:0], make([]uint32, 1<<first)...)
	for symbol, l := range lengths {
		if l == 0 {
			continue
		}
		code := int(bits.Reverse16(uint16(next[l])) >> (16 - l))
		next[l]++
		at, from, size, step := 0, code, 1<<first, 1<<l
		if int(l) > first {
			head := &table[code&(1<<first-1)]
			if *head == 0 {
				*head = uint32(len(table)<<valueShift | isTable | (longest-first)<<extraShift | first)
				at = len(table)
				table = append(table, make([]uint32, 1<<(longest-first))...)
			} else {
				at = int(*head >> valueShift)
			}
			from, size, step = code>>first, 1<<(longest-first), 1<<(int(l)-first)
		}
		e := entries(symbol) | uint32(l)
		for i := from; i < size; i += step {
			table[at+i] = e
		}
	}
	return table, true
}

// literal returns the entry of a literal, of a length, or of the end of the block.
func literal(symbol int) uint32 {
	switch {
	case symbol < 256:
		return uint32(symbol)<<valueShift | isLiteral
	case symbol == 256:
		return isEnd
	case symbol < 265:
		return uint32(symbol-254) << valueShift
	case symbol < 285:
		extra := (symbol - 261) / 4
		return uint32(3+(4+(symbol-261)%4)<<extra)<<valueShift | uint32(extra)<<extraShift
	case symbol == 285:
		return maxLength << valueShift
	}
	return 0
}

// distance returns the entry of a distance.
func distance(symbol int) uint32 {
	switch {
	case symbol < 4:
		return uint32(symbol+1) << valueShift
	case symbol < maxDistances:
		extra := symbol/2 - 1
		return uint32(1+(2+symbol%2)<<extra)<<valueShift | uint32(extra)<<extraShift
	}
	return 0
}

// fixed sets the codes of blocks that have none of their own (RFC 1951, section
// 3.2.6).
func (z *Reader) fixed() error {
	if z.isFixed {
		return nil
	}
	var lengths [288]uint8
	for i := range lengths {
		switch {
		case i < 144:
			lengths[i] = 8
		case i < 256:
			lengths[i] = 9
		case i < 280:
			lengths[i] = 7
		default:
			lengths[i] = 8
		}
	}
	var distances [32]uint8
	for i := range distances {
		distances[i] = 5
	}
	z.isFixed = true
	return z.set(lengths[:], distances[:])
}

// set sets the codes of a block.
func (z *Reader) set(literals, distances []uint8) error {
	var ok1, ok2 bool
	z.literals, ok1 = build(z.literals, literals, literalBits, literal)
	z.distances, ok2 = build(z.distances, distances, distanceBits, distance)
	if !ok1 || !ok2 {
		return ErrCorrupt
	}
	return nil
}

// dynamic reads the codes of a block (RFC 1951, section 3.2.7).
func (z *Reader) dynamic() error {
	h, err := z.take(14)
	if err != nil {
		return err
	}
	literals, distances := int(h&31)+257, int(h>>5&31)+1
	if literals > maxLiterals || distances > maxDistances {
		return ErrCorrupt
	}
	var of [19]uint8
	order := [19]uint8{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}
	for _, i := range order[:h>>10+4] {
		l, err := z.take(3)
		if err != nil {
			return err
		}
		of[i] = uint8(l)
	}
	var storage [1 << lengthBits]uint32
	table, ok := build(storage[:0], of[:], lengthBits, func(symbol int) uint32 { return uint32(symbol) << valueShift })
	if !ok {
		return ErrCorrupt
	}
	var all [maxLiterals + maxDistances]uint8
	lengths := all[:literals+distances]
	for at := 0; at < len(lengths); {
		symbol, err := z.symbol(table)
		if err != nil {
			return err
		}
		if symbol < 16 {
			lengths[at] = uint8(symbol)
			at++
			continue
		}
		// The one before, or zero, again and again.
		value, base, extra := uint8(0), 3, uint(3)
		switch symbol {
		case 16:
			if at == 0 {
				return ErrCorrupt
			}
			value, extra = lengths[at-1], 2
		case 18:
			base, extra = 11, 7
		}
		more, err := z.take(extra)
		if err != nil {
			return err
		}
		again := base + int(more)
		if again > len(lengths)-at {
			return ErrCorrupt
		}
		for range again {
			lengths[at] = value
			at++
		}
	}
	z.isFixed = false
	return z.set(lengths[:literals], lengths[literals:])
}

// symbol takes one symbol of the code of code lengths off the stream.
func (z *Reader) symbol(table []uint32) (int, error) {
	for {
		e := table[z.bits&(1<<lengthBits-1)]
		if l := uint(e & 0xff); l > 0 && l <= z.n {
			z.bits >>= l
			z.n -= l
			return int(e >> valueShift), nil
		}
		if z.n >= lengthBits {
			return 0, ErrCorrupt
		}
		b, err := z.r.ReadByte()
		if err != nil {
			return 0, noEOF(err)
		}
		z.bits |= uint64(b) << z.n
		z.n += 8
	}
}
