//go:build !purego

package chunk

import (
	"unsafe"

	"golang.org/x/sys/cpu"
)

//go:generate go -C ../internal/asmgen run ./chunk -out ../../chunk/kernels_amd64.s -stubs ../../chunk/kernels_amd64.go -pkg chunk

// kernels returns the kernels that this processor runs, best first.
func kernels() []kernel {
	var all []kernel
	x := &cpu.X86
	if x.HasAVX512F && x.HasAVX512BW && x.HasAVX512VBMI {
		all = append(all, kernel{"AVX-512", avx512})
	}
	// BMI1 is asked for so that there is a way to turn this kernel off alone.
	if x.HasAVX2 && x.HasBMI1 {
		all = append(all, kernel{"AVX2", avx2})
	}
	return all
}

func avx512(b []byte, from, n int, v *vectorTest) int {
	_, _ = b[from-blockSize], b[from+n*blockSize-1]
	p := (*byte)(unsafe.Pointer(&b[from]))
	if v[1] == 0 {
		return scanAVX512Odd(p, n, &vectorTables, (*[3]uint32)(v))
	}
	return scanAVX512(p, n, &vectorTables, (*[3]uint32)(v))
}

func avx2(b []byte, from, n int, v *vectorTest) int {
	_, _ = b[from-blockSize], b[from+n*blockSize-1]
	p := (*byte)(unsafe.Pointer(&b[from]))
	if v[1] == 0 {
		return scanAVX2Odd(p, n, &rotatedTables, (*[3]uint32)(v))
	}
	return scanAVX2(p, n, &rotatedTables, (*[3]uint32)(v))
}

// vectorTables are the constants of the kernel, laid out as its generator says.
var vectorTables = func() (t [336]uint32) {
	set := func(at int, c byte) { t[at/4] |= uint32(c) << (at % 4 * 8) }
	for i, v := range buzhash {
		for k := range 4 {
			set(256*k+i, byte(v>>(8*k)))
		}
	}
	for k := range 4 {
		for r := range 16 {
			t[256+16*k+r] = uint32(4*r+k) % 32
		}
	}
	// In each 16 bytes, byte 4k+r gets what lies at 4r+k.
	for i := range blockSize {
		set(1280+i, byte(i%4*4+i%16/4))
	}
	return t
}()
