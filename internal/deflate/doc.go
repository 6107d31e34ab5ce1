// Package deflate compresses as other programs do, bit for bit: GNU gzip, zlib
// and Go. A compressed file is then known by what is in it and by the name of its
// encoder, which is what deltas make use of (docs/format/delta.md, section 5).
//
// What an encoder of RFC 1951 writes is decided by how it looks for matches,
// when it ends a block, and how it breaks ties in Huffman codes. The variants
// here follow the published algorithm of both programs, which share it: hash
// chains over three bytes, from level 4 on lazy evaluation, blocks ended by the
// number of symbols (by GNU gzip also by a guess whether that pays), codes limited
// by the heuristic of moving leaves up. The code is our own.
//
// Go's encoder is that of the standard library, whose output changed with Go 1.27
// and may with any other: golang.go tells whether it is the one that deltas know.
// Not here, on purpose: zlib's level 0, whose blocks have the sizes of its caller's
// buffers.
package deflate

// Encoder is a program and its level. The values are part of the delta format.
type Encoder uint8

// The programs; the level, 1 to 9, is added.
const (
	gnu       = 0x10 // GNU gzip 1.2.4 to 1.13
	zlib      = 0x20 // zlib 1.2.5 to 1.3, memLevel 8
	zlibLarge = 0x30 // the same, memLevel 9
	golang    = 0x40 // compress/flate of Go 1.8 to 1.26
)

// Valid reports whether e is an encoder of this package.
func (e Encoder) Valid() bool {
	level := e & 0xf
	switch e &^ 0xf {
	case gnu, zlib, zlibLarge:
		return level >= 1 && level <= 9
	case golang:
		return int(level) < len(goSums) && goExact()[level]
	}
	return false
}

// encoders returns all encoders, the likeliest first: those of the levels that
// programs use when they are told nothing, to do their best, or to be fast.
func encoders() []Encoder {
	levels := []Encoder{9, 6, 1, 8, 7, 5, 4, 3, 2}
	var list []Encoder
	for _, level := range levels {
		for _, program := range []Encoder{gnu, zlib, zlibLarge} {
			list = append(list, program+level)
		}
	}
	for _, level := range levels {
		if e := golang + level; e.Valid() {
			list = append(list, e)
		}
	}
	return list
}

// lazyLevel is the lowest level that looks for a better match one byte later.
const lazyLevel = 4

// effort is how hard a level looks for matches.
type effort struct {
	good  int // from this length of the last match on, look a quarter as far
	lazy  int // from this length on, do not look for a better match; below lazyLevel: up to it, note the places in a match
	nice  int // a match of this length is good enough
	chain int // places that are looked at
}

var efforts = [...]effort{
	1: {4, 4, 8, 4},
	2: {4, 5, 16, 8},
	3: {4, 6, 32, 32},
	4: {4, 4, 16, 16},
	5: {8, 16, 32, 32},
	6: {8, 16, 128, 128},
	7: {8, 32, 128, 256},
	8: {32, 128, 258, 1024},
	9: {32, 258, 258, 4096},
}
