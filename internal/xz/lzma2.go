package xz

import (
	"encoding/binary"
	"slices"
)

// need is what the next LZMA piece must bring along: it grows to nothing.
type need int

const (
	needDict need = iota
	needProps
	needState
	needNothing
)

// expandLZMA2 appends what the LZMA2 data at the start of in stands for to out,
// which may have size bytes then, and returns how long that data is.
func expandLZMA2(out, in []byte, size int) (_ []byte, used int, err error) {
	m := models.Get().(*model)
	defer models.Put(m)
	d := decoder{model: m, out: out, dict: len(out)}
	for at := 0; at < len(in); {
		if in[at] == 0 {
			return d.out, at + 1, nil
		}
		p, err := parsePiece(in[at:])
		if err != nil {
			return nil, 0, err
		}
		if p.size > size-len(d.out) {
			return nil, 0, corrupt("more than %d bytes", size)
		}
		if err := d.begin(p); err != nil {
			return nil, 0, err
		}
		at += p.head
		if len(in)-at < p.packed {
			return nil, 0, corrupt("cut short")
		}
		// The length of one piece is bounded; the others must come true first.
		d.out = slices.Grow(d.out, p.size)
		data := in[at : at+p.packed]
		if !p.isLZMA() {
			d.out = append(d.out, data...)
		} else if err := d.chunk(data, p.size); err != nil {
			return nil, 0, err
		}
		at += p.packed
	}
	return nil, 0, corrupt("cut short")
}

// piece is the header of a piece of LZMA2 data, which is not the end.
type piece struct {
	control byte
	props   byte // of LZMA, if reset says so
	head    int  // the length of the header
	size    int  // of what the piece stands for
	packed  int  // of the piece
}

// isLZMA tells LZMA from bytes as they are.
func (p *piece) isLZMA() bool { return p.control >= 0x80 }

// reset says what of LZMA begins anew: 1 the state, 2 and 3 the properties too.
func (p *piece) reset() int { return int(p.control >> 5 & 3) }

func parsePiece(in []byte) (piece, error) {
	p := piece{control: in[0], head: 3}
	if len(in) < 3 || p.isLZMA() && len(in) < 6 {
		return p, corrupt("cut short")
	}
	p.size = int(binary.BigEndian.Uint16(in[1:])) + 1
	if !p.isLZMA() {
		p.packed = p.size
		return p, nil
	}
	p.head = 5
	p.size += int(p.control&0x1f) << 16
	p.packed = int(binary.BigEndian.Uint16(in[3:])) + 1
	if p.reset() >= 2 {
		p.head, p.props = 6, in[5]
	}
	return p, nil
}

// begin makes the dictionary, the properties and the state what a piece asks for, and
// refuses one that may not come next.
func (d *decoder) begin(p piece) error {
	switch {
	case p.control == 1 || p.control >= 0xe0:
		d.dict, d.need = len(d.out), needProps
	case d.need == needDict:
		return corrupt("LZMA2 begins without a dictionary")
	case p.control > 2 && !p.isLZMA():
		return corrupt("LZMA2 control byte %#x", p.control)
	}
	if !p.isLZMA() {
		return nil
	}
	if p.reset() >= 2 {
		if !d.setProps(p.props) {
			return corrupt("LZMA properties")
		}
		d.need = needState
	}
	if p.reset() >= 1 && d.need >= needState {
		d.model.reset()
		d.need = needNothing
	}
	if d.need != needNothing {
		return corrupt("LZMA2 begins without a state")
	}
	return nil
}

// setProps takes the properties byte of LZMA.
func (m *model) setProps(b byte) bool {
	v := uint(b)
	m.lc, m.lp, m.pb = v%9, v/9%5, v/45
	return m.pb <= 4 && m.lc+m.lp <= maxLC4
}

// decoder expands LZMA chunks. What it wrote since dict is its dictionary.
type decoder struct {
	*model
	out  []byte
	dict int
	need need

	in    []byte
	rng   uint32
	code  uint32
	short bool // in ended too early
}

// chunk appends the n bytes that in stands for.
func (d *decoder) chunk(in []byte, n int) error {
	if len(in) < 5 || in[0] != 0 {
		return corrupt("LZMA chunk")
	}
	d.rng, d.code, d.in, d.short = 0xffffffff, binary.BigEndian.Uint32(in[1:]), in[5:], false
	for end := len(d.out) + n; len(d.out) < end; {
		if !d.symbol(end) {
			return corrupt("LZMA symbol")
		}
	}
	d.normalize()
	if d.short || len(d.in) != 0 || d.code != 0 {
		return corrupt("end of an LZMA chunk")
	}
	return nil
}

// symbol appends one literal or match, up to end.
func (d *decoder) symbol(end int) bool {
	pos := uint32(len(d.out) - d.dict)
	ps := pos & (1<<d.pb - 1)
	if d.bit(&d.isMatch[d.state][ps]) == 0 {
		d.appendLiteral(pos)
		return !d.short
	}
	var n int
	if d.bit(&d.isRep[d.state]) == 0 {
		d.reps[3], d.reps[2], d.reps[1] = d.reps[2], d.reps[1], d.reps[0]
		n = d.length(&d.lens, ps)
		d.after(7, 10)
		d.reps[0] = d.distance(n)
	} else {
		if pos == 0 {
			return false
		}
		single := false
		if d.bit(&d.isRepG0[d.state]) == 0 {
			single = d.bit(&d.isRep0Long[d.state][ps]) == 0
		} else {
			d.rotate()
		}
		if single {
			n = 1
			d.after(9, 11)
		} else {
			n = d.length(&d.reLs, ps)
			d.after(8, 11)
		}
	}
	if d.short || d.reps[0] >= pos || n > end-len(d.out) {
		return false
	}
	from := len(d.out) - int(d.reps[0]) - 1
	if n <= len(d.out)-from {
		d.out = append(d.out, d.out[from:from+n]...)
		return true
	}
	for i := range n { // what is copied is part of what is copied from
		d.out = append(d.out, d.out[from+i])
	}
	return true
}

// rotate makes one of the older distances the latest.
func (d *decoder) rotate() {
	var dist uint32
	if d.bit(&d.isRepG1[d.state]) == 0 {
		dist = d.reps[1]
	} else {
		if d.bit(&d.isRepG2[d.state]) == 0 {
			dist = d.reps[2]
		} else {
			dist = d.reps[3]
			d.reps[3] = d.reps[2]
		}
		d.reps[2] = d.reps[1]
	}
	d.reps[1], d.reps[0] = d.reps[0], dist
}

func (d *decoder) appendLiteral(pos uint32) {
	prev := byte(0)
	if pos > 0 {
		prev = d.out[len(d.out)-1]
	}
	probs := d.literalAt(pos, prev)
	symbol := uint32(1)
	if d.state >= stateLiterals && d.reps[0] < pos {
		match := uint32(d.out[len(d.out)-int(d.reps[0])-1])
		for symbol < 0x100 {
			match <<= 1
			bit := match & 0x100
			got := d.bit(&probs[0x100+bit+symbol])
			symbol = symbol<<1 | got
			if bit>>8 != got {
				break
			}
		}
	}
	for symbol < 0x100 {
		symbol = symbol<<1 | d.bit(&probs[symbol])
	}
	d.out = append(d.out, byte(symbol))
	d.afterLiteral()
}

func (d *decoder) length(l *lengths, ps uint32) int {
	if d.bit(&l.choice) == 0 {
		return matchMin + int(d.tree(l.low[ps][:], 3))
	}
	if d.bit(&l.choice2) == 0 {
		return matchMin + lenLow + int(d.tree(l.mid[ps][:], 3))
	}
	return matchMin + lenLow + lenMid + int(d.tree(l.high[:], 8))
}

func (d *decoder) distance(n int) uint32 {
	slot := d.tree(d.posSlot[lenState(n)][:], 6)
	if slot < 4 {
		return slot
	}
	bits := uint(slot>>1 - 1)
	dist := (2 | slot&1) << bits
	if slot < endPosModel {
		return dist + d.reverse(d.special[dist-slot:], bits)
	}
	return dist + d.direct(bits-alignBits)<<alignBits + d.reverse(d.align[:], alignBits)
}

// tree decodes so many bits, the highest first.
func (d *decoder) tree(probs []uint16, bits uint) uint32 {
	m := uint32(1)
	for range bits {
		m = m<<1 | d.bit(&probs[m])
	}
	return m - 1<<bits
}

// reverse decodes so many bits, the lowest first.
func (d *decoder) reverse(probs []uint16, bits uint) uint32 {
	m, sum := uint32(1), uint32(0)
	for i := range bits {
		b := d.bit(&probs[m])
		m = m<<1 | b
		sum |= b << i
	}
	return sum
}

// direct decodes so many bits that are as likely as not.
func (d *decoder) direct(bits uint) uint32 {
	v := uint32(0)
	for range bits {
		d.normalize()
		d.rng >>= 1
		d.code -= d.rng
		mask := -(d.code >> 31) // all bits if it went below zero
		d.code += d.rng & mask
		v = v<<1 + mask + 1
	}
	return v
}

func (d *decoder) bit(p *uint16) uint32 {
	d.normalize()
	bound := d.rng >> probBits * uint32(*p)
	if d.code < bound {
		d.rng = bound
		*p += (1<<probBits - *p) >> probMove
		return 0
	}
	d.rng -= bound
	d.code -= bound
	*p -= *p >> probMove
	return 1
}

func (d *decoder) normalize() {
	if d.rng >= rangeTop {
		return
	}
	d.rng <<= 8
	if len(d.in) == 0 {
		d.short = true
		d.code <<= 8
		return
	}
	d.code = d.code<<8 | uint32(d.in[0])
	d.in = d.in[1:]
}
