package xz

import (
	"encoding/binary"
	"slices"
)

// expandLZMA2 appends what the LZMA2 data at the start of in stands for to out,
// which may have size bytes then, and returns how long that data is.
func expandLZMA2(out, in []byte, size int) (_ []byte, used int, err error) {
	m := models.Get().(*model)
	defer models.Put(m)
	d := decoder{model: m, out: out, dict: len(out)}
	const (
		needDict = iota
		needProps
		needState
		needNothing
	)
	state, at := needDict, 0
	for {
		if at >= len(in) {
			return nil, 0, corrupt("cut short")
		}
		control := in[at]
		if control == 0 {
			return d.out, at + 1, nil
		}
		if len(in)-at < 6 && (control >= 0x80 || len(in)-at < 3) {
			return nil, 0, corrupt("cut short")
		}
		head, n, packed := 3, int(binary.BigEndian.Uint16(in[at+1:]))+1, 0
		if control >= 0x80 {
			head, n = 5, n+int(control&0x1f)<<16
			packed = int(binary.BigEndian.Uint16(in[at+3:])) + 1
		} else {
			packed = n
		}
		if n > size-len(d.out) {
			return nil, 0, corrupt("more than %d bytes", size)
		}
		reset := int(control >> 5 & 3)
		switch {
		case control == 1 || control >= 0xe0:
			d.dict, state = len(d.out), needProps
		case state == needDict:
			return nil, 0, corrupt("LZMA2 begins without a dictionary")
		case control > 2 && control < 0x80:
			return nil, 0, corrupt("LZMA2 control byte %#x", control)
		}
		if control >= 0x80 {
			if reset >= 2 {
				if !m.setProps(in[at+5]) {
					return nil, 0, corrupt("LZMA properties")
				}
				head, state = 6, needState
			}
			if reset >= 1 && state >= needState {
				m.reset()
				state = needNothing
			}
			if state != needNothing {
				return nil, 0, corrupt("LZMA2 begins without a state")
			}
		}
		at += head
		if len(in)-at < packed {
			return nil, 0, corrupt("cut short")
		}
		// The length of one piece is bounded; the others must come true first.
		d.out = slices.Grow(d.out, n)
		if control < 0x80 {
			d.out = append(d.out, in[at:at+packed]...)
		} else if err := d.chunk(in[at:at+packed], n); err != nil {
			return nil, 0, err
		}
		at += packed
	}
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
