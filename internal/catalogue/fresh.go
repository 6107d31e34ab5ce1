package catalogue

import (
	"slices"

	"github.com/ociv2-sync/ociv2-sync/internal/numset"
)

// blockLen is the number of records that are allocated together.
const blockLen = 4096

// fresh are records that were learned, one for each file: of a large seed there are
// hundreds of thousands, for which a map takes nearly twice the room.
type fresh struct {
	blocks [][]entry // of blockLen each, but for the last
	n      int32
	index  *numset.Set[fileKey]
}

func newFresh() *fresh {
	f := &fresh{}
	f.index = numset.New(0, func(i int32) *fileKey { return &f.at(i).fileKey })
	return f
}

func (f *fresh) at(i int32) *entry { return &f.blocks[i/blockLen][i%blockLen] }

// find returns the record of a file, nil if there is none.
func (f *fresh) find(k fileKey) *entry {
	i, ok := f.index.Find(&k)
	if !ok {
		return nil
	}
	return f.at(i)
}

// set adds a record, in place of that of the same file.
func (f *fresh) set(e entry) {
	if old := f.find(e.fileKey); old != nil {
		*old = e
		return
	}
	if int(f.n) == len(f.blocks)*blockLen {
		f.blocks = append(f.blocks, make([]entry, 0, blockLen))
	}
	last := &f.blocks[len(f.blocks)-1]
	*last = append(*last, e)
	f.index.Add(f.n)
	f.n++
}

// sorted returns the numbers of the records in the order of their files.
func (f *fresh) sorted() []int32 {
	order := make([]int32, f.n)
	for i := range order {
		order[i] = int32(i)
	}
	slices.SortFunc(order, func(a, b int32) int { return f.at(a).compare(f.at(b).fileKey) })
	return order
}
