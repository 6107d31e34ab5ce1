//go:build purego || !amd64

package multihash

// kernels returns the kernels that this processor runs: there are none.
func kernels() []kernel { return nil }
