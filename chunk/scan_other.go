//go:build purego || (!amd64 && !arm64)

package chunk

// kernels returns the kernels that this processor runs: there are none.
func kernels() []kernel { return nil }
