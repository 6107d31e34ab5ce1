// Command chunk generates the vector kernels of the package chunk.
//
// They look for the places where the hash of the last 48 bytes may end a chunk.
// The hash of a position is the XOR of the table's values for these bytes, each
// rotated left by its distance. Rotated right by the position instead (the
// skew), the values need no rotation any more when they are combined, and one
// rotation of the result gives the hash:
//
//	g[i] = ror(table[b[i]], i)
//	hash[i] = rol(g[i] ^ g[i-1] ^ ... ^ g[i-47], i)
//
// Rotations by i and by i mod 32 are the same, and a block of 64 bytes is a
// multiple of that. The block is taken as 16 lanes of 4 consecutive bytes:
// vector k holds the positions 4*lane+k. So the XOR up to byte k of a lane
// takes no shuffling (pre[k]; pre[3] is that of the whole lane, called w), and
// only sums of whole lanes have to be shifted across lanes and blocks:
//
//	hash[4r+k] = pre[k][r] ^ pre[k][r-12] ^ w12[r-1]    w12[r] = w[r] ^ ... ^ w[r-11]
//	hash[4r+3] = w12[r]
//
// That a hash h is D-1 modulo the discriminator D is that h+1 is a multiple of
// D = odd<<shift, that is ror((h+1)*inverse(odd), shift) <= (2^32-1)/D. And
// h+1 is -(^h), so that (^h)*-inverse(odd) is that product; the complement comes
// for free with the last XOR. Only h = 2^32-1 passes without being a cut, and
// what passes is looked at again by the caller.
package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// The offsets in bytes in t, the constants of the kernel.
const (
	planes = 0    // [4][256]byte: byte k of the table's values
	skews  = 1024 // [4][16]uint32: the position of vector k, lane r, modulo 32
	deal   = 1280 // [64]byte: which byte goes where so that the unpacking yields vectors of stride 4
)

// The offsets in bytes in v, the test.
const (
	factor = 0
	shift  = 4
	bound  = 8
)

func main() {
	ConstraintExpr("!purego")
	avx512("scanAVX512Odd", "finds, as scanAVX512 does, for discriminators that are odd: the shift is not looked at", true)
	avx512("scanAVX512", "returns the number of blocks of 64 bytes from p on, at most n, before the first one in which a chunk may end. The 64 bytes before p are read as well", false)
	avx2("scanAVX2Odd", "finds, as scanAVX2 does, for discriminators that are odd: the shift is not looked at", true)
	avx2("scanAVX2", "returns what scanAVX512 returns", false)
	Generate()
}

func avx512(name, doc string, odd bool) {
	TEXT(name, NOSPLIT, "func(p *byte, n int, t *[336]uint32, v *[3]uint32) int")
	Doc(name + " " + doc + ".")
	Pragma("noescape")
	p := Load(Param("p"), GP64())
	n := Load(Param("n"), GP64())
	t := Load(Param("t"), GP64())
	v := Load(Param("v"), GP64())
	i := GP64()

	Z := func(k int) VecPhysical {
		return []VecPhysical{
			Z0, Z1, Z2, Z3, Z4, Z5, Z6, Z7, Z8, Z9, Z10, Z11, Z12, Z13, Z14, Z15,
			Z16, Z17, Z18, Z19, Z20, Z21, Z22, Z23, Z24, Z25, Z26, Z27, Z28, Z29, Z30, Z31,
		}[k]
	}
	mem := func(off int) Mem { return Mem{Base: t, Disp: off} }

	Comment("The table, by planes of bytes: plane k is in Z(4k) to Z(4k+3)")
	for k := range 16 {
		VMOVDQU64(mem(planes+64*k), Z(k))
	}
	idx := Z16
	var pre [4]VecPhysical
	pre0, pre1, pre2, w := Z17, Z18, Z19, Z20
	pre = [4]VecPhysical{pre0, pre1, pre2, w}
	w2, w4, w12, x := Z21, Z22, Z23, Z24
	// Of the block before.
	lastPre := [3]VecPhysical{Z25, Z26, Z27}
	lastW, lastW2, lastW4, lastW12 := Z28, Z29, Z30, Z31

	// sums loads the block at base+off and leaves pre, w, w2, w4; with the block before it
	// unknown the upper lanes of w4 are right all the same.
	sums := func(m Mem) {
		Comment("Look the bytes up")
		VMOVDQU64(m, idx)
		VPSHUFB(mem(deal), idx, idx)
		VPMOVB2M(idx, K1)
		KNOTQ(K1, K2)
		for k := range 4 {
			d := pre[k]
			VMOVDQA64(idx, d)
			VPERMI2B(Z(4*k+1), Z(4*k), K2, d)
			VPERMI2B(Z(4*k+3), Z(4*k+2), K1, d)
		}
		VPUNPCKLBW(pre1, pre0, w2)
		VPUNPCKHBW(pre1, pre0, w4)
		VPUNPCKLBW(w, pre2, w12)
		VPUNPCKHBW(w, pre2, x)
		VPUNPCKLWD(w12, w2, pre0)
		VPUNPCKHWD(w12, w2, pre1)
		VPUNPCKLWD(x, w4, pre2)
		VPUNPCKHWD(x, w4, w)
		Comment("Skew them and sum up")
		for k := range 4 {
			VPRORVD(mem(skews+64*k), pre[k], pre[k])
		}
		VPXORD(pre0, pre1, pre1)
		VPXORD(pre1, pre2, pre2)
		VPXORD(pre2, w, w)
		VALIGND(Imm(15), lastW, w, w2)
		VPXORD(w, w2, w2)
		VALIGND(Imm(14), lastW2, w2, w4)
		VPXORD(w2, w4, w4)
	}
	keep := func() {
		VMOVDQA64(w, lastW)
		VMOVDQA64(w2, lastW2)
		VMOVDQA64(w4, lastW4)
	}

	for _, z := range []VecPhysical{lastW, lastW2} {
		VPXORD(z, z, z)
	}
	sums(Mem{Base: p, Disp: -64})
	VALIGND(Imm(12), w4, w4, x)
	VALIGND(Imm(8), w4, w4, idx)
	VPXORD(w4, x, x)
	VPXORD(idx, x, lastW12)
	keep()
	for k := range 3 {
		VMOVDQA64(pre[k], lastPre[k])
	}

	XORQ(i, i)
	Label("block")
	CMPQ(i, n)
	JGE(LabelRef("done"))
	sums(Mem{Base: p})
	ADDQ(Imm(64), p)
	Comment("Windows of 12 lanes")
	VALIGND(Imm(12), lastW4, w4, x)
	VALIGND(Imm(8), lastW4, w4, idx)
	VMOVDQA64(w4, w12)
	VPTERNLOGD(Imm(0x96), idx, x, w12)
	keep()
	VALIGND(Imm(15), lastW12, w12, x)
	VMOVDQA64(w12, lastW12)
	Comment("The complements of the hashes, and the test")
	h := [4]VecPhysical{w2, w4, idx, w12}
	for k := range 3 {
		VALIGND(Imm(4), lastPre[k], pre[k], h[k])
		VMOVDQA64(pre[k], lastPre[k])
		VPTERNLOGD(Imm(0x69), pre[k], x, h[k])
	}
	VPTERNLOGD(Imm(0x55), w12, w12, w12)
	for k := range 4 {
		VPROLVD(mem(skews+64*k), h[k], h[k])
		VPMULLD_BCST(Mem{Base: v, Disp: factor}, h[k], h[k])
		if !odd {
			VPRORVD_BCST(Mem{Base: v, Disp: shift}, h[k], h[k])
		}
	}
	VPMINUD(h[0], h[1], h[1])
	VPMINUD(h[2], h[3], h[3])
	VPMINUD(h[1], h[3], h[3])
	VPCMPUD_BCST(Imm(2), Mem{Base: v, Disp: bound}, h[3], K3)
	KORTESTW(K3, K3)
	JNZ(LabelRef("done"))
	INCQ(i)
	JMP(LabelRef("block"))
	Label("done")
	VZEROUPPER()
	Store(i, ReturnIndex(0))
	RET()
}
