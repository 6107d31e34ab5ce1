package catar

import (
	"cmp"
	"encoding/binary"
	"slices"

	"github.com/dchest/siphash"
)

// The key of the hashes in GOODBYE tables, as two little-endian halves:
// docs/format/catar.md section 4.
const (
	hashKey0 = 0x8574442b0f1d84b3
	hashKey1 = 0x2736ed30d1c22ec1
)

func nameHash(name []byte) uint64 { return siphash.Hash(hashKey0, hashKey1, name) }

// child is one entry of a directory, as its GOODBYE table has it.
type child struct {
	hash  uint64
	start uint64 // offset of its FILENAME record
	size  uint64 // from there to the end of the node
}

// appendGoodbye appends the GOODBYE record that begins at offset at and ends
// the directory with the ENTRY record at offset entry. It reorders children.
func appendGoodbye(b []byte, children []child, at, entry uint64) []byte {
	size := headerSize + goodbyeItemSize*(len(children)+1)
	b = appendHeader(b, recGoodbye, size-headerSize)
	for _, c := range searchTree(children) {
		b = binary.LittleEndian.AppendUint64(b, at-c.start)
		b = binary.LittleEndian.AppendUint64(b, c.size)
		b = binary.LittleEndian.AppendUint64(b, c.hash)
	}
	b = binary.LittleEndian.AppendUint64(b, at-entry)
	b = binary.LittleEndian.AppendUint64(b, uint64(size))
	return binary.LittleEndian.AppendUint64(b, goodbyeTail)
}

// searchTree sorts children and returns them as a complete binary search tree
// laid out by levels: the children of item i are items 2i+1 and 2i+2.
func searchTree(children []child) []child {
	slices.SortFunc(children, func(a, b child) int {
		return cmp.Or(cmp.Compare(a.hash, b.hash), cmp.Compare(a.start, b.start))
	})
	tree := make([]child, len(children))
	next := 0
	// Visiting the places of such a tree in order meets the items in order.
	var fill func(i int)
	fill = func(i int) {
		if i >= len(tree) {
			return
		}
		fill(2*i + 1)
		tree[i] = children[next]
		next++
		fill(2*i + 2)
	}
	fill(0)
	return tree
}
