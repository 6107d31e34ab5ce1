//go:build !purego

package multihash

import "golang.org/x/sys/cpu"

//go:generate go -C ../asmgen run ./multihash -out ../multihash/kernels_amd64.s -stubs ../multihash/kernels_amd64.go -pkg multihash

// wide reports whether the processor runs blocks.
var wide = cpu.X86.HasAVX512F && cpu.X86.HasAVX512BW

// blocks takes n blocks, at least one, from each address in data into the states
// of eight messages; state has them by word, then by message.
func blocks(state *[8][lanes]uint64, data *[lanes]*byte, n int) { blocksAVX512(state, data, n) }
