//go:build !purego

package multihash

import "golang.org/x/sys/cpu"

//go:generate go -C ../asmgen run ./multihash -out ../multihash/kernels_amd64.s -stubs ../multihash/kernels_amd64.go -pkg multihash

// kernels returns the kernels that this processor runs, best first.
func kernels() []kernel {
	var all []kernel
	x := &cpu.X86
	if x.HasAVX512F && x.HasAVX512BW {
		all = append(all, kernel{"AVX-512", 8, avx512})
	}
	// BMI1 is asked for so that there is a way to turn this kernel off alone.
	if x.HasAVX2 && x.HasBMI1 {
		all = append(all, kernel{"AVX2", 4, blocksAVX2})
	}
	return all
}

func avx512(state *[8][lanes]uint64, data *[lanes]*byte, n, _ int) { blocksAVX512(state, data, n) }
