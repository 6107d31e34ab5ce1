package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// avx2 generates the kernel for vectors of 8 lanes of 8 consecutive bytes: vector
// k holds the positions 8*lane+k of a block of 64. There is no quick look-up of
// 256 values in such vectors, so that bytes are looked up one by one, which leaves
// each where it is wanted, and in tables that are rotated right by k+1 already.
// With q[k] the XOR of what was looked up for bytes 0 to k of a lane, and e the
// hashes of the last positions of the lanes,
//
//	e[r] = w2[r] ^ rol(w2[r-2], 16) ^ w2[r-4]    w2[r] = w[r] ^ rol(w[r-1], 8)    w = rol(q[7], 8)
//	hash[8r+k] = rol(q[k][r] ^ rol(q[k][r-6], 16) ^ e[r-1], k+1)
//
// While a block is dealt with the bytes of the next one are looked up.
func avx2(name, doc string, odd bool) {
	TEXT(name, NOSPLIT, "func(p *byte, n int, t *[2048]uint32, v *[3]uint32) int")
	Doc(name + " " + doc + ".")
	Pragma("noescape")
	p := Load(Param("p"), GP64())
	n := Load(Param("n"), GP64())
	t := Load(Param("t"), GP64())
	v := Load(Param("v"), GP64())
	i, next := GP64(), GP64()
	byteOf := []GPVirtual{GP64(), GP64(), GP64(), GP64()}

	locals := AllocLocal(32*(8+7) + 32)
	buf := GP64() // [8] vectors of what was looked up, then q[0] to q[6] of the block before
	LEAQ(locals, buf)
	ADDQ(Imm(31), buf)
	ANDQ(I32(-32), buf)
	looked := func(k int) Mem { return Mem{Base: buf, Disp: 32 * k} }
	lastQ := func(k int) Mem { return Mem{Base: buf, Disp: 32 * (8 + k)} }

	rol8, rol16, factorV, boundV, ones := Y0, Y1, Y2, Y3, Y4
	lastW, lastW2, lastE := Y5, Y6, Y7
	q, e1, x, y, z, least := Y8, Y9, Y10, Y11, Y12, Y13
	left, right := X14, X15 // the counts of the rotation by the shift

	VMOVDQU(rotate("rol8", 8), rol8)
	VMOVDQU(rotate("rol16", 16), rol16)
	VPBROADCASTD(Mem{Base: v, Disp: factor}, factorV)
	VPBROADCASTD(Mem{Base: v, Disp: bound}, boundV)
	VPCMPEQD(ones, ones, ones)
	if !odd {
		VMOVD(Mem{Base: v, Disp: shift}, right)
		MOVL(U32(32), i.As32())
		SUBL(Mem{Base: v, Disp: shift}, i.As32())
		VMOVD(i.As32(), left)
	}
	for _, r := range []VecPhysical{lastW, lastW2, lastE} {
		VPXOR(r, r, r)
	}

	lookUp := func(from Register, disp, k int, d, tmp VecPhysical) {
		entry := func(r int) Mem {
			b := byteOf[r%len(byteOf)]
			MOVBQZX(Mem{Base: from, Disp: disp + 8*r + k}, b)
			return Mem{Base: t, Index: b, Scale: 4, Disp: 1024 * k}
		}
		for half, x := range []VecPhysical{d, tmp} {
			VMOVD(entry(4*half), x.AsX())
			for r := 1; r < 4; r++ {
				VPINSRD(Imm(uint64(r)), entry(4*half+r), x.AsX(), x.AsX())
			}
		}
		VINSERTI128(Imm(1), tmp.AsX(), d, d)
	}
	// back leaves in d the vector whose lane r is lane r-by of cur and, before it, of last.
	back := func(by int, last, cur, d VecPhysical) {
		VPERM2I128(Imm(0x21), cur, last, d)
		if by < 4 {
			VPALIGNR(Imm(uint64(16-4*by)), d, cur, d)
		}
	}
	// block deals with what was looked up, and looks up the bytes from next on.
	block := func(from Register, test bool) {
		Comment("The ends of the lanes")
		VMOVDQA(looked(0), q)
		for k := 1; k < 8; k++ {
			VPXOR(looked(k), q, q)
		}
		VPSHUFB(rol8, q, q) // w
		back(1, lastW, q, x)
		VMOVDQA(q, lastW)
		VPSHUFB(rol8, x, x)
		VPXOR(q, x, x) // w2
		back(2, lastW2, x, y)
		back(4, lastW2, x, z)
		VMOVDQA(x, lastW2)
		VPSHUFB(rol16, y, y)
		VPXOR(x, y, y)
		VPXOR(z, y, y) // e
		back(1, lastE, y, e1)
		VMOVDQA(y, lastE)
		if test {
			Comment("The complements of the hashes, and the test")
			VPXOR(ones, e1, e1)
			VPXOR(ones, y, y)
			VPMULLD(factorV, y, least)
			if !odd {
				rotateRight(least, x, left, right)
			}
		}
		for k := range 8 {
			if k == 7 {
				lookUp(from, 0, k, x, y)
				VMOVDQA(x, looked(k))
				break
			}
			if k == 0 {
				VMOVDQA(looked(0), q)
			} else {
				VPXOR(looked(k), q, q)
			}
			lookUp(from, 0, k, x, y)
			VMOVDQA(x, looked(k))
			if test {
				VMOVDQA(lastQ(k), y)
				VPERM2I128(Imm(0x21), q, y, x)
				VPALIGNR(Imm(8), y, x, x)
				VPSHUFB(rol16, x, x)
				VPXOR(q, x, x)
				VPXOR(e1, x, x)
				VPSLLD(Imm(uint64(k+1)), x, y)
				VPSRLD(Imm(uint64(31-k)), x, x)
				VPOR(x, y, y)
				VPMULLD(factorV, y, y)
				if !odd {
					rotateRight(y, x, left, right)
				}
				VPMINUD(y, least, least)
			}
			VMOVDQA(q, lastQ(k))
		}
	}

	for k := range 8 {
		lookUp(p, -64, k, x, y)
		VMOVDQA(x, looked(k))
	}
	block(p, false)
	XORQ(i, i)
	Label("block")
	CMPQ(i, n)
	JGE(LabelRef("done"))
	Comment("After the last block, look the same bytes up again")
	LEAQ(Mem{Base: p, Disp: 64}, next)
	LEAQ(Mem{Base: i, Disp: 1}, byteOf[0])
	CMPQ(byteOf[0], n)
	CMOVQEQ(p, next)
	block(next, true)
	MOVQ(next, p)
	VPMINUD(boundV, least, x)
	VPCMPEQD(x, least, x)
	VPTEST(x, x)
	JNZ(LabelRef("done"))
	INCQ(i)
	JMP(LabelRef("block"))
	Label("done")
	VZEROUPPER()
	Store(i, ReturnIndex(0))
	RET()
}

// rotateRight rotates by the counts of two shifts.
func rotateRight(d, tmp, left, right VecPhysical) {
	VPSLLD(left, d, tmp)
	VPSRLD(right, d, d)
	VPOR(tmp, d, d)
}

// rotate returns the shuffle of bytes that rotates 32-bit lanes left.
func rotate(name string, by int) Mem {
	for _, m := range rotations {
		if m.Symbol.Name == name {
			return m
		}
	}
	m := GLOBL(name, RODATA|NOPTR)
	for lane := range 8 {
		word := uint32(0)
		for k := range 4 {
			word |= uint32(lane%4*4+(k+4-by/8)%4) << (8 * k)
		}
		DATA(4*lane, U32(word))
	}
	rotations = append(rotations, m)
	return m
}

var rotations []Mem
