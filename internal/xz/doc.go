// Package xz compresses and expands single buffers in the .xz format, as casync
// does with chunks: one stream of LZMA2 blocks, held in memory as a whole.
//
// Expand writes straight into the buffer of the result, which is also the
// dictionary: whatever size of dictionary a stream asks for, nothing beyond the
// result is set aside, and that grows with what was really expanded. It takes
// one stream without padding, blocks with the LZMA2 filter alone, and every
// check that xz-utils writes.
//
// The format is that of https://tukaani.org/xz/xz-file-format.txt; LZMA2 is
// described with it, LZMA in the LZMA SDK's lzma-specification.txt.
package xz

import "errors"

// The errors of Expand.
var (
	// ErrCorrupt means that the bytes are not one intact stream of the length
	// that was asked for.
	ErrCorrupt = errors.New("corrupt xz stream")
	// ErrUnsupported means a filter or check that this package does not know.
	ErrUnsupported = errors.New("unsupported xz stream")
)

// The kinds of checks of a stream.
const (
	checkNone   = 0x00
	checkCRC32  = 0x01
	checkCRC64  = 0x04
	checkSHA256 = 0x0a
)

const (
	headerSize  = 12 // of a stream
	footerSize  = 12
	filterLZMA2 = 0x21
)

// streamMagic begins a stream, footerMagic ends one.
const (
	streamMagic = "\xfd7zXZ\x00"
	footerMagic = "YZ"
)

// The parts of LZMA's model.
const (
	numStates      = 12
	numPosStates   = 1 << 4
	numLenToPos    = 4
	matchMin       = 2
	lenLow         = 8
	lenMid         = 8
	lenHigh        = 256
	matchMax       = matchMin + lenLow + lenMid + lenHigh - 1
	endPosModel    = 14 // distance slots from here on have bits without a model
	alignBits      = 4
	literalCoder   = 0x300
	probInit       = 1 << 10
	probBits       = 11
	probMove       = 5
	rangeTop       = 1 << 24
	maxLC4         = 4 // most that lc and lp may add up to in LZMA2
	stateLiterals  = 7 // states below it follow a literal
	maxChunkOutput = 1 << 21
	maxChunkInput  = 1 << 16
)

// lengths is the model of a match's length.
type lengths struct {
	choice, choice2 uint16
	low             [numPosStates][lenLow]uint16
	mid             [numPosStates][lenMid]uint16
	high            [lenHigh]uint16
}

// model is all adaptive probabilities of LZMA, and its state.
type model struct {
	lc, lp, pb uint
	state      int
	reps       [4]uint32 // latest distances, less one

	isMatch    [numStates][numPosStates]uint16
	isRep      [numStates]uint16
	isRepG0    [numStates]uint16
	isRepG1    [numStates]uint16
	isRepG2    [numStates]uint16
	isRep0Long [numStates][numPosStates]uint16
	posSlot    [numLenToPos][64]uint16
	special    [128]uint16
	align      [1 << alignBits]uint16
	lens, reLs lengths
	literal    [literalCoder << maxLC4]uint16
}

// reset forgets everything but lc, lp and pb.
func (m *model) reset() {
	m.state, m.reps = 0, [4]uint32{}
	for i := range m.isMatch {
		fill(m.isMatch[i][:])
		fill(m.isRep0Long[i][:])
	}
	fill(m.isRep[:])
	fill(m.isRepG0[:])
	fill(m.isRepG1[:])
	fill(m.isRepG2[:])
	for i := range m.posSlot {
		fill(m.posSlot[i][:])
	}
	fill(m.special[:])
	fill(m.align[:])
	for _, l := range []*lengths{&m.lens, &m.reLs} {
		l.choice, l.choice2 = probInit, probInit
		for i := range l.low {
			fill(l.low[i][:])
			fill(l.mid[i][:])
		}
		fill(l.high[:])
	}
	fill(m.literal[:literalCoder<<(m.lc+m.lp)])
}

func fill(p []uint16) {
	for i := range p {
		p[i] = probInit
	}
}

// literalAt returns the model of the literal at pos, which follows prev.
func (m *model) literalAt(pos uint32, prev byte) []uint16 {
	i := (pos&(1<<m.lp-1))<<m.lc + uint32(prev)>>(8-m.lc)
	return m.literal[literalCoder*i : literalCoder*(i+1)]
}

func (m *model) afterLiteral() {
	switch {
	case m.state < 4:
		m.state = 0
	case m.state < 10:
		m.state -= 3
	default:
		m.state -= 6
	}
}

// after moves to one of two states: after a literal, and after anything else.
func (m *model) after(literal, other int) {
	if m.state < stateLiterals {
		m.state = literal
	} else {
		m.state = other
	}
}

// lenState returns which distance model goes with a length.
func lenState(n int) int { return min(n-matchMin, numLenToPos-1) }
