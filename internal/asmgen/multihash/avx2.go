package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// y returns a register. y(0) to y(7) are the variables a to h, y(8) is b^c, and
// the rest is for intermediate results; the message schedule is in memory.
func y(k int) VecPhysical {
	return []VecPhysical{Y0, Y1, Y2, Y3, Y4, Y5, Y6, Y7, Y8, Y9, Y10, Y11, Y12, Y13, Y14, Y15}[k]
}

// avx2 generates the compression function for four messages. These vectors know
// neither rotations nor three-input logic, so that it takes twice the
// instructions for half the lanes.
func avx2(k, swap Mem) {
	turn := GLOBL("turn", RODATA|NOPTR) // each 64-bit lane rotated right by 8
	for lane := range 4 {
		b := uint64(0)
		for j := range 8 {
			b |= uint64(lane%2*8+(j+1)%8) << (8 * j)
		}
		DATA(8*lane, U64(b))
	}
	TEXT("blocksAVX2", NOSPLIT, "func(state *[8][8]uint64, data *[8]*byte, n int, first int)")
	Doc("blocksAVX2 takes n blocks of 128 bytes, at least one, from four addresses in data, from number first on, into the states of these messages; first is 0 or 4.")
	Pragma("noescape")
	state := Load(Param("state"), GP64())
	data := Load(Param("data"), GP64())
	n := Load(Param("n"), GP64())
	first := Load(Param("first"), GP64())
	LEAQ(Mem{Base: state, Index: first, Scale: 8}, state)
	LEAQ(Mem{Base: data, Index: first, Scale: 8}, data)
	var lane [4]Register
	for i := range lane {
		lane[i] = GP64()
		MOVQ(Mem{Base: data, Disp: 8 * i}, lane[i])
	}
	kp, off := GP64(), data // data is not needed any more
	XORQ(off, off)
	words := GP64()
	LEAQ(AllocLocal(16*32+32), words)
	ADDQ(Imm(31), words)
	ANDQ(I32(-32), words)
	word := func(t int) Mem { return Mem{Base: words, Disp: 32 * (t % 16)} }
	for i := range 8 {
		VMOVDQU(Mem{Base: state, Disp: 64 * i}, y(i))
	}

	Label("block")
	for quarter := range 4 {
		Comment("Four words of each message: one row a message becomes one vector a word")
		in, mid := func(i int) VecPhysical { return y(8 + i) }, func(i int) VecPhysical { return y(12 + i) }
		for i := range 4 {
			VMOVDQU(Mem{Base: lane[i], Index: off, Scale: 1, Disp: 32 * quarter}, in(i))
			VPSHUFB(swap, in(i), in(i))
		}
		for i := 0; i < 4; i += 2 {
			VPUNPCKLQDQ(in(i+1), in(i), mid(i))
			VPUNPCKHQDQ(in(i+1), in(i), mid(i+1))
		}
		for odd := range 2 {
			VPERM2I128(Imm(0x20), mid(2+odd), mid(odd), in(odd))
			VPERM2I128(Imm(0x31), mid(2+odd), mid(odd), in(2+odd))
		}
		for i := range 4 {
			VMOVDQA(in(i), word(4*quarter+i))
		}
	}
	LEAQ(k, kp)
	VPXOR(y(1), y(2), y(8))
	rounds := GP64()
	MOVQ(U32(4), rounds)
	Label("rounds")
	for t := range 16 {
		round4(t, kp, word)
		schedule4(t, turn, word)
	}
	ADDQ(Imm(128), kp)
	DECQ(rounds)
	JNZ(LabelRef("rounds"))
	for t := range 16 {
		round4(t, kp, word)
	}
	for i := range 8 {
		VPADDQ(Mem{Base: state, Disp: 64 * i}, y(i), y(i))
		VMOVDQU(y(i), Mem{Base: state, Disp: 64 * i})
	}
	ADDQ(Imm(128), off)
	DECQ(n)
	JNZ(LabelRef("block"))
	VZEROUPPER()
	RET()
}

func round4(t int, kp Register, word func(int) Mem) {
	v := func(i int) VecPhysical { return y((i - t%8 + 8) % 8) }
	a, b, d, e, f, g, h := v(0), v(1), v(3), v(4), v(5), v(6), v(7)
	// b^c of this round is what a^b was in the one before.
	bc, ab := y(8+t%2), y(8+(t+1)%2)
	t0, t1, t2 := y(10), y(11), y(12)
	VPBROADCASTQ(Mem{Base: kp, Disp: 8 * t}, t0)
	VPADDQ(word(t), t0, t0)
	VPADDQ(t0, h, h)
	VPXOR(f, g, t0)
	VPAND(e, t0, t0)
	VPXOR(g, t0, t0)
	VPADDQ(t0, h, h)
	sigma4(t0, t1, t2, e, 14, 18, 41)
	VPADDQ(t0, h, h)
	VPADDQ(h, d, d)
	sigma4(t0, t1, t2, a, 28, 34, 39)
	VPADDQ(t0, h, h)
	VPXOR(a, b, ab)
	VPAND(ab, bc, t0)
	VPXOR(b, t0, t0)
	VPADDQ(t0, h, h)
}

// sigma4 leaves in d the XOR of x rotated right by three counts.
func sigma4(d, t1, t2, x VecPhysical, counts ...uint64) {
	VPSRLQ(Imm(counts[0]), x, d)
	VPSLLQ(Imm(64-counts[0]), x, t1)
	for _, n := range counts[1:] {
		VPSRLQ(Imm(n), x, t2)
		VPXOR(t1, d, d)
		VPSLLQ(Imm(64-n), x, t1)
		VPXOR(t2, d, d)
	}
	VPXOR(t1, d, d)
}

// schedule4 replaces word t by word t+16.
func schedule4(t int, turn Mem, word func(int) Mem) {
	x, t0, t1, t2, sum := y(11), y(12), y(13), y(14), y(15)
	VMOVDQA(word(t+1), x)
	VMOVDQA(word(t), sum)
	VPSHUFB(turn, x, t0)
	VPADDQ(word(t+9), sum, sum)
	VPSRLQ(Imm(1), x, t1)
	VPSLLQ(Imm(63), x, t2)
	VPXOR(t1, t0, t0)
	VPSRLQ(Imm(7), x, x)
	VPXOR(t2, t0, t0)
	VMOVDQA(word(t+14), t1)
	VPXOR(x, t0, t0)
	VPADDQ(t0, sum, sum)
	sigma4(t0, x, t2, t1, 19, 61)
	VPSRLQ(Imm(6), t1, t1)
	VPXOR(t1, t0, t0)
	VPADDQ(t0, sum, sum)
	VMOVDQA(sum, word(t))
}
