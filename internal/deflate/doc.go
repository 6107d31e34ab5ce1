// Package deflate compresses as other programs do, bit for bit: GNU gzip and
// zlib. A compressed file is then known by what is in it and by the name of its
// encoder, which is what deltas make use of (docs/format/delta.md, section 5).
//
// What an encoder of RFC 1951 writes is decided by how it looks for matches,
// when it ends a block, and how it breaks ties in Huffman codes. The variants
// here follow the published algorithm of both programs, which share it: hash
// chains over three bytes, lazy evaluation, blocks ended by the number of
// symbols (by GNU gzip also by a guess whether that pays), codes limited by the
// heuristic of moving leaves up. The code is our own.
package deflate

// Encoder is a program and its level. The values are part of the delta format.
type Encoder uint8

// The programs; the level, 4 to 9, is added.
const (
	gnu       = 0x10 // GNU gzip 1.2.4 to 1.13
	zlib      = 0x20 // zlib 1.2.5 to 1.3, memLevel 8
	zlibLarge = 0x30 // the same, memLevel 9
)

// Valid reports whether e is an encoder of this package.
func (e Encoder) Valid() bool {
	level := e & 0xf
	switch e &^ 0xf {
	case gnu, zlib, zlibLarge:
		return level >= 4 && level <= 9
	}
	return false
}

// encoders returns all encoders, the likeliest first: those of the levels that
// programs use when they are told nothing, or to do their best.
func encoders() []Encoder {
	var list []Encoder
	for _, level := range []Encoder{9, 6, 8, 7, 5, 4} {
		for _, program := range []Encoder{gnu, zlib, zlibLarge} {
			list = append(list, program+level)
		}
	}
	return list
}

// effort is how hard a level looks for matches.
type effort struct {
	good  int // from this length of the last match on, look a quarter as far
	lazy  int // from this length on, do not look for a better match
	nice  int // a match of this length is good enough
	chain int // places that are looked at
}

var efforts = [...]effort{
	4: {4, 4, 16, 16},
	5: {8, 16, 32, 32},
	6: {8, 16, 128, 128},
	7: {8, 32, 128, 256},
	8: {32, 128, 258, 1024},
	9: {32, 258, 258, 4096},
}
