package deflate

const (
	minMatch = 3
	maxMatch = 258
	// minAhead is how many bytes the window has ahead, unless src ends.
	minAhead = maxMatch + minMatch + 1

	half    = 1 << 15 // the reach of deflate; the window has twice that
	maxDist = half - minAhead

	// tooFar is the distance from which a match of three bytes does not pay.
	tooFar = 4096
)

// matcher turns bytes into symbols. It works on a window as the programs do,
// with what they leave in it: places are offsets in it, and 0 stands for none.
type matcher struct {
	effort
	level int
	gnu   bool
	src   []byte // what is not yet in the window
	final bool   // nothing follows src
	begun bool   // the window has been filled
	ended bool   // GNU gzip has seen the end of src
	win   [2 * half]byte
	head  []uint16 // by hash: the last place
	prev  [half]uint16
	shift uint
	hash  uint32

	at    int // where we are
	ahead int // bytes of the window from there on
	block int // where the block begins; may be below 0
	start int // of the match found last

	length  int  // of the match at the place before
	pending bool // that place has its byte to be written

	blockWriter
}

// begin prepares for the bytes of another file.
func (m *matcher) begin(e Encoder) {
	head, writer := m.head, m.blockWriter
	writer.out = bitWriter{b: writer.out.b[:0]}
	*m = matcher{effort: efforts[e&0xf], level: int(e & 0xf), gnu: e&^0xf == gnu, length: minMatch - 1, blockWriter: writer}
	bits := uint(15)
	m.limit = 1<<14 - 1
	switch e &^ 0xf {
	case gnu:
		m.limit = 1<<15 - 1
	case zlibLarge:
		bits = 16
		m.limit = 1<<15 - 1
	}
	m.shift = (bits + minMatch - 1) / minMatch
	if m.head = head; len(head) != 1<<bits {
		m.head = make([]uint16, 1<<bits)
	}
	clear(m.head)
	m.reset()
}

// fill moves the window on when its upper half is nearly used up, and reads.
func (m *matcher) fill() {
	if m.at >= half+maxDist {
		copy(m.win[:half], m.win[half:])
		m.start -= half
		m.at -= half
		m.block -= half
		for _, list := range [][]uint16{m.head, m.prev[:]} {
			for i, p := range list {
				list[i] = max(p, half) - half
			}
		}
	}
	n := copy(m.win[m.at+m.ahead:], m.src)
	m.src = m.src[n:]
	m.ahead += n
	if n == 0 {
		m.ended = true
		clear(m.win[m.at+m.ahead : min(m.at+m.ahead+minMatch-1, len(m.win))])
	}
}

// byteAt reads the window, and zeros behind it.
func (m *matcher) byteAt(i int) byte {
	if i < len(m.win) {
		return m.win[i]
	}
	return 0
}

// insert notes the place i and returns the last one with the same hash.
func (m *matcher) insert(i int) int {
	m.hash = (m.hash<<m.shift ^ uint32(m.byteAt(i+2))) & uint32(len(m.head)-1)
	last := m.head[m.hash]
	m.prev[i&(half-1)] = last
	m.head[m.hash] = uint16(i)
	return int(last)
}

// rehash takes up the hash where we are, when the places before were passed over.
func (m *matcher) rehash() {
	m.hash = (uint32(m.byteAt(m.at))<<m.shift ^ uint32(m.byteAt(m.at+1))) & uint32(len(m.head)-1)
}

// latest notes where we are, and returns the place at which to begin looking
// for a match, or 0.
func (m *matcher) latest() int {
	if !m.gnu && m.ahead < minMatch {
		return 0
	}
	p := m.insert(m.at)
	if m.at-p > maxDist || m.at > len(m.win)-minAhead {
		return 0
	}
	return p
}

// longest looks for a match longer than best bytes, beginning at the place p,
// and returns its length, or best. It sets start.
func (m *matcher) longest(p, best int) int {
	chain, nice := m.chain, m.nice
	if best >= m.good {
		chain >>= 2
	}
	if !m.gnu {
		nice = min(nice, m.ahead)
	}
	limit := max(0, m.at-maxDist)
	scan := m.win[m.at:min(m.at+maxMatch, len(m.win))]
	for {
		match := m.win[p:]
		if match[best] == scan[best] && match[best-1] == scan[best-1] && match[0] == scan[0] && match[1] == scan[1] {
			n := 2
			for n < len(scan) && match[n] == scan[n] {
				n++
			}
			if n > best {
				m.start, best = p, n
				if n >= nice || n >= len(scan) {
					break
				}
			}
		}
		p = int(m.prev[p&(half-1)])
		if chain--; p <= limit || chain == 0 {
			break
		}
	}
	return best
}

// starved reports whether there may be less in src than the window takes. The
// programs fill it as far as it goes, and what they write depends on that.
func (m *matcher) starved() bool { return !m.final && len(m.src) < len(m.win) }

// run writes what can be told from src, all of it when it is final.
func (m *matcher) run() {
	if !m.begun {
		if m.starved() {
			return
		}
		m.begun = true
		m.fill()
		m.rehash()
	}
	for {
		if m.ahead < minAhead && m.starved() {
			return
		}
		m.more()
		if m.ahead == 0 {
			break
		}
		if m.level < lazyLevel {
			m.stepFast()
		} else {
			m.step()
		}
	}
	if m.pending {
		m.literal(m.win[m.at-1])
	}
	m.flush(true)
	m.out.align()
}

// stepFast goes on by a byte, or by the match that begins there, without asking
// whether a better one begins behind it.
func (m *matcher) stepFast() {
	n := 0
	if p := m.latest(); p != 0 {
		n = min(m.longest(p, minMatch-1), m.ahead)
	}
	var full bool
	if n < minMatch {
		full = m.literal(m.win[m.at])
		m.at++
		m.ahead--
	} else {
		full = m.match(m.at-m.start, n)
		m.ahead -= n
		end := m.at + n
		// Of a long match only the first place is noted.
		if n <= m.lazy {
			for m.at++; m.at < end; m.at++ {
				m.insert(m.at)
			}
		} else {
			m.at = end
			m.rehash()
		}
	}
	if full {
		m.flush(false)
	}
}

// step goes on by a byte, or by a match when none that is longer begins a byte
// later.
func (m *matcher) step() {
	p := m.latest()
	last, lastStart := m.length, m.start
	m.length = minMatch - 1
	if p != 0 && last < m.lazy {
		m.length = min(m.longest(p, last), m.ahead)
		if m.length == minMatch && m.at-m.start > tooFar {
			m.length--
		}
	}
	switch {
	case last >= minMatch && m.length <= last:
		full := m.match(m.at-1-lastStart, last)
		m.ahead -= last - 1
		end := m.at + last - 1
		// zlib notes no places whose three bytes are not all there.
		limit := end
		if !m.gnu {
			limit = m.at + m.ahead + last - 1 - minMatch
		}
		for m.at++; m.at < end; m.at++ {
			if m.at <= limit {
				m.insert(m.at)
			}
		}
		m.pending, m.length = false, minMatch-1
		if full {
			m.flush(false)
		}
	case m.pending:
		if m.literal(m.win[m.at-1]) {
			m.flush(false)
		}
		m.at++
		m.ahead--
	default:
		m.pending = true
		m.at++
		m.ahead--
	}
}

// more keeps the window filled.
func (m *matcher) more() {
	for m.ahead < minAhead {
		before := m.ahead
		if m.gnu && m.ended {
			return
		}
		m.fill()
		if m.ahead == before {
			return
		}
	}
}

func (m *matcher) match(dist, length int) bool {
	m.add(dist, length)
	return m.full()
}

func (m *matcher) literal(b byte) bool {
	m.add(0, int(b))
	return m.full()
}

// full reports whether the block is to be ended: when it has all the symbols
// that the program keeps, or, by GNU gzip's guess from level 3 on, when that pays.
func (m *matcher) full() bool {
	n := len(m.symbols)
	if m.gnu && m.level > 2 && n&0xfff == 0 && m.matches < n/2 {
		size := 8 * n
		for code, f := range m.dist.freq {
			size += int(f) * (5 + int(distExtra[code]))
		}
		if size>>3 < (m.at-m.block)/2 {
			return true
		}
	}
	return n == m.limit
}

// flush writes the block up to where we are.
func (m *matcher) flush(last bool) {
	var raw []byte // nil if it is not in the window any more
	if m.block >= 0 {
		raw = m.win[m.block:m.at]
	}
	m.write(raw, m.at-m.block, last)
	m.block = m.at
}
