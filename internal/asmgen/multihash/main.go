// Command multihash generates the vector kernels of the package multihash:
// SHA-512's compression function (FIPS 180-4, section 6.4.2) for eight or four
// messages side by side, one in each 64-bit lane.
package main

import (
	"math/big"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

func main() {
	ConstraintExpr("!purego")
	k := constants()
	swap := GLOBL("swap", RODATA|NOPTR)
	for i := range 8 {
		b := uint64(0)
		for j := range 8 {
			b |= uint64(i%2*8+7-j) << (8 * j)
		}
		DATA(8*i, U64(b))
	}
	blocks(k, swap)
	avx2(k, swap)
	Generate()
}

// constants lays down the round constants: the first 64 bits of the fractional
// parts of the cube roots of the first 80 primes.
func constants() Mem {
	m := GLOBL("constants", RODATA|NOPTR)
	n := 0
	for p := int64(2); n < 80; p++ {
		if !big.NewInt(p).ProbablyPrime(0) {
			continue
		}
		// floor(cuberoot(p) * 2^64) is the integer cube root of p * 2^192.
		v := new(big.Int).Lsh(big.NewInt(p), 192)
		lo, hi := new(big.Int), new(big.Int).Lsh(big.NewInt(1), 70)
		for one := big.NewInt(1); new(big.Int).Sub(hi, lo).Cmp(one) > 0; {
			mid := new(big.Int).Rsh(new(big.Int).Add(lo, hi), 1)
			if new(big.Int).Exp(mid, big.NewInt(3), nil).Cmp(v) <= 0 {
				lo = mid
			} else {
				hi = mid
			}
		}
		DATA(8*n, U64(new(big.Int).And(lo, new(big.Int).SetUint64(1<<64-1)).Uint64()))
		n++
	}
	return m
}

func z(k int) VecPhysical {
	return []VecPhysical{
		Z0, Z1, Z2, Z3, Z4, Z5, Z6, Z7, Z8, Z9, Z10, Z11, Z12, Z13, Z14, Z15,
		Z16, Z17, Z18, Z19, Z20, Z21, Z22, Z23, Z24, Z25, Z26, Z27, Z28, Z29, Z30, Z31,
	}[k]
}

// The registers: z(0) to z(7) are the variables a to h, z(8) to z(23) the 16
// words of the message schedule, the rest is for intermediate results.
func w(t int) VecPhysical { return z(8 + t%16) }

const (
	xor3     = 0x96
	choose   = 0xca
	majority = 0xe8
)

func blocks(k, swap Mem) {
	TEXT("blocksAVX512", NOSPLIT, "func(state *[8][8]uint64, data *[8]*byte, n int)")
	Doc("blocksAVX512 takes n blocks of 128 bytes, at least one, from each address in data into the states of the eight messages; state has them by word, then by message.")
	Pragma("noescape")
	state := Load(Param("state"), GP64())
	data := Load(Param("data"), GP64())
	n := Load(Param("n"), GP64())
	var lane [8]Register
	for i := range lane {
		lane[i] = GP64()
		MOVQ(Mem{Base: data, Disp: 8 * i}, lane[i])
	}
	kp, off := GP64(), data // data is not needed any more
	XORQ(off, off)
	for i := range 8 {
		VMOVDQU64(Mem{Base: state, Disp: 64 * i}, z(i))
	}

	Label("block")
	for half := range 2 {
		Comment("Eight words of each message: one row a message becomes one vector a word")
		tmp := func(i int) VecPhysical { return z(24 + i) }
		out := func(i int) VecPhysical { return w(8*half + i) }
		for i := range 8 {
			VMOVDQU64(Mem{Base: lane[i], Index: off, Scale: 1, Disp: 64 * half}, tmp(i))
		}
		for i := range 8 {
			VPSHUFB(swap, tmp(i), tmp(i))
		}
		for i := 0; i < 8; i += 2 {
			VPUNPCKLQDQ(tmp(i+1), tmp(i), out(i))
			VPUNPCKHQDQ(tmp(i+1), tmp(i), out(i+1))
		}
		for odd := range 2 {
			for i := range 2 { // messages 0 to 3, then 4 to 7
				VSHUFI64X2(Imm(0x88), out(4*i+2+odd), out(4*i+odd), tmp(4*odd+i))
				VSHUFI64X2(Imm(0xdd), out(4*i+2+odd), out(4*i+odd), tmp(4*odd+2+i))
			}
		}
		for odd := range 2 {
			for i := range 2 { // words 0 and 4, then 2 and 6, plus odd
				VSHUFI64X2(Imm(0x88), tmp(4*odd+2*i+1), tmp(4*odd+2*i), out(2*i+odd))
				VSHUFI64X2(Imm(0xdd), tmp(4*odd+2*i+1), tmp(4*odd+2*i), out(2*i+4+odd))
			}
		}
	}
	LEAQ(k, kp)
	rounds := GP64()
	MOVQ(U32(4), rounds)
	Label("rounds")
	for t := range 16 {
		round(t, kp)
		schedule(t)
	}
	ADDQ(Imm(128), kp)
	DECQ(rounds)
	JNZ(LabelRef("rounds"))
	for t := range 16 {
		round(t, kp)
	}
	for i := range 8 {
		VPADDQ(Mem{Base: state, Disp: 64 * i}, z(i), z(i))
		VMOVDQU64(z(i), Mem{Base: state, Disp: 64 * i})
	}
	ADDQ(Imm(128), off)
	DECQ(n)
	JNZ(LabelRef("block"))
	VZEROUPPER()
	RET()
}

func round(t int, kp Register) {
	v := func(i int) VecPhysical { return z((i - t%8 + 8) % 8) }
	a, b, c, d, e, f, g, h := v(0), v(1), v(2), v(3), v(4), v(5), v(6), v(7)
	t0, t1, t2, t3 := z(24), z(25), z(26), z(27)
	VPADDQ_BCST(Mem{Base: kp, Disp: 8 * t}, w(t), t3)
	VPADDQ(t3, h, h)
	sigma(t0, t1, t2, e, 14, 18, 41)
	VMOVDQA64(e, t3)
	VPTERNLOGQ(Imm(choose), g, f, t3)
	VPADDQ(t3, h, h)
	VPADDQ(t0, h, h)
	VPADDQ(h, d, d)
	sigma(t0, t1, t2, a, 28, 34, 39)
	VMOVDQA64(a, t3)
	VPTERNLOGQ(Imm(majority), b, c, t3)
	VPADDQ(t3, h, h)
	VPADDQ(t0, h, h)
}

// sigma leaves in d the XOR of x rotated right by three counts.
func sigma(d, t1, t2, x VecPhysical, r1, r2, r3 uint8) {
	VPRORQ(Imm(uint64(r1)), x, d)
	VPRORQ(Imm(uint64(r2)), x, t1)
	VPRORQ(Imm(uint64(r3)), x, t2)
	VPTERNLOGQ(Imm(xor3), t2, t1, d)
}

// schedule replaces word t by word t+16.
func schedule(t int) {
	t0, t1, t2, t3 := z(28), z(29), z(30), z(31)
	small := func(x VecPhysical, r1, r2, s uint64) {
		VPRORQ(Imm(r1), x, t0)
		VPRORQ(Imm(r2), x, t1)
		VPSRLQ(Imm(s), x, t2)
		VPTERNLOGQ(Imm(xor3), t2, t1, t0)
	}
	VPADDQ(w(t+9), w(t), t3)
	small(w(t+1), 1, 8, 7)
	VPADDQ(t0, t3, t3)
	small(w(t+14), 19, 61, 6)
	VPADDQ(t0, t3, w(t))
}
