//go:build !purego && (amd64 || arm64)

package chunk

import "math/bits"

// rotatedTables are the hash's table rotated right by 1 to 8 bits.
var rotatedTables = func() (t [8 * 256]uint32) {
	for i := range t {
		t[i] = bits.RotateLeft32(buzhash[i%256], -1-i/256)
	}
	return t
}()
