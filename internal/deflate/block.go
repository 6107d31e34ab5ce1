package deflate

import "encoding/binary"

// symbol is a literal or a match.
type symbol struct {
	dist   uint16 // 0 for a literal
	length uint16 // or the literal
}

// blockWriter collects the symbols of a block and writes it in the form that
// takes least.
type blockWriter struct {
	out     bitWriter
	symbols []symbol
	matches int
	limit   int // of symbols in a block
	lit     coder
	dist    coder
	fixLit  coder
	fixDist coder
}

func litExtra(s int) int {
	if s > literals {
		return int(lenExtra[s-literals-1])
	}
	return 0
}

// reset begins a block.
func (w *blockWriter) reset() {
	if w.lit.freq == nil {
		w.lit = newCoder(maxLit, maxBits, litExtra)
		w.dist = newCoder(maxDistN, maxBits, func(s int) int { return int(distExtra[s]) })
		w.fixLit, w.fixDist = newCoder(maxLit+2, 9, nil), newCoder(maxDistN+2, 5, nil)
		for s := range w.fixLit.size {
			switch {
			case s < 144 || s >= 280:
				w.fixLit.size[s] = 8
			case s < 256:
				w.fixLit.size[s] = 9
			default:
				w.fixLit.size[s] = 7
			}
		}
		for s := range w.fixDist.size {
			w.fixDist.size[s] = 5
		}
		w.fixLit.assign()
		w.fixDist.assign()
	}
	w.symbols, w.matches = w.symbols[:0], 0
	clear(w.lit.freq)
	clear(w.dist.freq)
	w.lit.freq[endOfCode] = 1
}

func (w *blockWriter) add(dist, length int) {
	w.symbols = append(w.symbols, symbol{uint16(dist), uint16(length)})
	if dist == 0 {
		w.lit.freq[length]++
		return
	}
	w.matches++
	code, _ := lengthCode(length)
	w.lit.freq[literals+1+code]++
	code, _ = distCode(dist)
	w.dist.freq[code]++
}

// write ends the block, which stands for size bytes: raw, if they are at hand.
func (w *blockWriter) write(raw []byte, size int, last bool) {
	fixed := 0
	for s, f := range w.lit.freq {
		fixed += int(f) * (int(w.fixLit.size[s]) + litExtra(s))
	}
	for s, f := range w.dist.freq {
		fixed += int(f) * (5 + int(distExtra[s]))
	}
	own := w.lit.build() + w.dist.build()
	p := newPrefixes(w.lit.size[:w.lit.last+1], w.dist.size[:w.dist.last+1])
	own += p.bits()
	ownBytes, fixedBytes := (own+3+7)>>3, (fixed+3+7)>>3
	end := uint32(0)
	if last {
		end = 1
	}
	switch {
	case raw != nil && size+4 <= min(ownBytes, fixedBytes):
		w.out.bits(end, 3)
		w.out.align()
		w.out.b = binary.LittleEndian.AppendUint16(w.out.b, uint16(size))
		w.out.b = binary.LittleEndian.AppendUint16(w.out.b, ^uint16(size))
		w.out.b = append(w.out.b, raw...)
	case fixedBytes <= ownBytes:
		w.out.bits(1<<1|end, 3)
		w.send(&w.fixLit, &w.fixDist)
	default:
		w.out.bits(2<<1|end, 3)
		p.send(&w.out, w.lit.last+1, w.dist.last+1)
		w.send(&w.lit, &w.dist)
	}
	w.reset()
}

// send writes the symbols.
func (w *blockWriter) send(lit, dist *coder) {
	for _, s := range w.symbols {
		if s.dist == 0 {
			w.out.bits(uint32(lit.code[s.length]), uint(lit.size[s.length]))
			continue
		}
		code, rest := lengthCode(int(s.length))
		at := literals + 1 + code
		w.out.bits(uint32(lit.code[at]), uint(lit.size[at]))
		w.out.bits(uint32(rest), uint(lenExtra[code]))
		code, rest = distCode(int(s.dist))
		w.out.bits(uint32(dist.code[code]), uint(dist.size[code]))
		w.out.bits(uint32(rest), uint(distExtra[code]))
	}
	w.out.bits(uint32(lit.code[endOfCode]), uint(lit.size[endOfCode]))
}

// prefixes is how the code lengths of a block are sent.
type prefixes struct {
	coder
	runs []run
	n    int // lengths of codes for lengths that are sent
	cost int
}

// run is a code for lengths, and the number that follows it.
type run struct {
	code uint8
	rest uint8
}

// newPrefixes makes the code for the lengths of two codes.
func newPrefixes(lit, dist []uint8) *prefixes {
	p := &prefixes{coder: newCoder(maxPrefix, 7, func(s int) int { return int(prefixExtra[s]) })}
	p.scan(lit)
	p.scan(dist)
	for _, r := range p.runs {
		p.freq[r.code]++
	}
	p.cost = p.build()
	p.n = maxPrefix
	for p.n > 4 && p.size[prefixOrder[p.n-1]] == 0 {
		p.n--
	}
	return p
}

// scan turns lengths into runs.
func (p *prefixes) scan(size []uint8) {
	last := uint8(255) // none
	for i := 0; i < len(size); {
		v := size[i]
		most, least := 6, 3
		switch v {
		case 0:
			most = 138
		case last:
		default:
			most, least = 7, 4
		}
		n := 1
		for n < most && i+n < len(size) && size[i+n] == v {
			n++
		}
		i += n
		switch {
		case n < least:
			for range n {
				p.runs = append(p.runs, run{code: v})
			}
		case v != 0:
			if v != last {
				p.runs = append(p.runs, run{code: v})
				n--
			}
			p.runs = append(p.runs, run{16, uint8(n - 3)})
		case n <= 10:
			p.runs = append(p.runs, run{17, uint8(n - 3)})
		default:
			p.runs = append(p.runs, run{18, uint8(n - 11)})
		}
		last = v
	}
}

func (p *prefixes) bits() int { return 5 + 5 + 4 + 3*p.n + p.cost }

func (p *prefixes) send(out *bitWriter, lits, dists int) {
	out.bits(uint32(lits-257), 5)
	out.bits(uint32(dists-1), 5)
	out.bits(uint32(p.n-4), 4)
	for _, s := range prefixOrder[:p.n] {
		out.bits(uint32(p.size[s]), 3)
	}
	for _, r := range p.runs {
		out.bits(uint32(p.code[r.code]), uint(p.size[r.code]))
		out.bits(uint32(r.rest), uint(prefixExtra[r.code]))
	}
}

// bitWriter writes numbers from their lowest bit on.
type bitWriter struct {
	b   []byte
	acc uint64
	n   uint
}

func (w *bitWriter) bits(v uint32, n uint) {
	w.acc |= uint64(v) << w.n
	w.n += n
	for w.n >= 8 {
		w.b = append(w.b, byte(w.acc))
		w.acc >>= 8
		w.n -= 8
	}
}

// align fills the last byte with zeros.
func (w *bitWriter) align() {
	if w.n > 0 {
		w.b = append(w.b, byte(w.acc))
		w.acc, w.n = 0, 0
	}
}
