//go:build purego || !amd64

package multihash

// wide reports whether the processor runs blocks, which there is not.
const wide = false

func blocks(*[8][lanes]uint64, *[lanes]*byte, int) {}
