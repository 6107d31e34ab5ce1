package xz

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"hash/crc64"
	"sync"
)

// crc64Table is a constant.
var crc64Table = crc64.MakeTable(crc64.ECMA)

// models is a free list of models, which are large; every use resets one.
var models = sync.Pool{New: func() any { return new(model) }}

func corrupt(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrCorrupt, fmt.Sprintf(format, args...))
}

// Expand returns the bytes of the stream that data is from end to end, which
// must be size bytes. The result uses dst's storage, whatever its length, if
// the capacity is enough. Nothing is expanded beyond size.
func Expand(dst, data []byte, size int) ([]byte, error) {
	if len(data) < headerSize || string(data[:6]) != streamMagic {
		return nil, corrupt("no header")
	}
	flags := data[6:8]
	if crc32.ChecksumIEEE(flags) != binary.LittleEndian.Uint32(data[8:]) {
		return nil, corrupt("checksum of the header")
	}
	check, ok := checks[flags[1]]
	if flags[0] != 0 || !ok {
		return nil, fmt.Errorf("%w: check %#x", ErrUnsupported, flags[1])
	}
	out, rest := dst[:0], data[headerSize:]
	var records []byte // the index, as it has to be
	blocks := uint64(0)
	for len(rest) > 0 && rest[0] != 0 {
		had := len(out)
		var unpadded int
		var err error
		if out, unpadded, err = expandBlock(out, rest, size, check); err != nil {
			return nil, err
		}
		rest = rest[align4(unpadded-check.size)+check.size:]
		records = binary.AppendUvarint(records, uint64(unpadded))
		records = binary.AppendUvarint(records, uint64(len(out)-had))
		blocks++
	}
	if len(out) != size {
		return nil, corrupt("%d bytes, want %d", len(out), size)
	}
	if !bytes.Equal(rest, appendEnd(nil, blocks, records, flags[1])) {
		return nil, corrupt("index or footer, or bytes after it")
	}
	return out, nil
}

// checks are the checks of a block's bytes, by the identifier in the header.
var checks = map[byte]check{
	checkNone:  {0, func([]byte) []byte { return nil }},
	checkCRC32: {4, func(b []byte) []byte { return binary.LittleEndian.AppendUint32(nil, crc32.ChecksumIEEE(b)) }},
	checkCRC64: {8, func(b []byte) []byte { return binary.LittleEndian.AppendUint64(nil, crc64.Checksum(b, crc64Table)) }},
	checkSHA256: {sha256.Size, func(b []byte) []byte {
		sum := sha256.Sum256(b)
		return sum[:]
	}},
}

type check struct {
	size int
	sum  func([]byte) []byte
}

func align4(n int) int { return (n + 3) &^ 3 }

// appendEnd appends the index and the footer of a stream.
func appendEnd(b []byte, blocks uint64, records []byte, checkID byte) []byte {
	start := len(b)
	b = append(b, 0)
	b = binary.AppendUvarint(b, blocks)
	b = append(b, records...)
	for (len(b)-start)%4 != 0 {
		b = append(b, 0)
	}
	b = binary.LittleEndian.AppendUint32(b, crc32.ChecksumIEEE(b[start:]))
	tail := binary.LittleEndian.AppendUint32(nil, uint32((len(b)-start)/4-1))
	tail = append(tail, 0, checkID)
	b = binary.LittleEndian.AppendUint32(b, crc32.ChecksumIEEE(tail))
	return append(append(b, tail...), footerMagic...)
}

// expandBlock appends the bytes of the block at the start of data to out, which
// may have size bytes then. It returns the length of the block without the
// padding before its check.
func expandBlock(out, data []byte, size int, c check) (_ []byte, unpadded int, err error) {
	head := (int(data[0]) + 1) * 4
	if len(data) < head {
		return nil, 0, corrupt("cut short")
	}
	compressed, expanded, err := blockHeader(data[:head])
	if err != nil {
		return nil, 0, err
	}
	had := len(out)
	out, n, err := expandLZMA2(out, data[head:], size)
	if err != nil {
		return nil, 0, err
	}
	if compressed != nil && *compressed != uint64(n) || expanded != nil && *expanded != uint64(len(out)-had) {
		return nil, 0, corrupt("sizes in the header of a block")
	}
	end := align4(head + n)
	if len(data) < end+c.size {
		return nil, 0, corrupt("cut short")
	}
	if bytes.Count(data[head+n:end], []byte{0}) != end-head-n {
		return nil, 0, corrupt("padding of a block")
	}
	if !bytes.Equal(c.sum(out[had:]), data[end:end+c.size]) {
		return nil, 0, corrupt("checksum of a block")
	}
	return out, head + n + c.size, nil
}

// blockHeader returns the sizes that the header of a block states, if any.
func blockHeader(h []byte) (compressed, expanded *uint64, err error) {
	body := h[:len(h)-4]
	if crc32.ChecksumIEEE(body) != binary.LittleEndian.Uint32(h[len(h)-4:]) {
		return nil, nil, corrupt("checksum of the header of a block")
	}
	flags, body := body[1], body[2:]
	if flags&0x3c != 0 {
		return nil, nil, fmt.Errorf("%w: flags %#x of a block", ErrUnsupported, flags)
	}
	next := func() (uint64, bool) {
		v, n := binary.Uvarint(body)
		if n <= 0 || n > 9 || n > 1 && body[n-1] == 0 {
			return 0, false
		}
		body = body[n:]
		return v, true
	}
	for _, f := range []struct {
		bit byte
		to  **uint64
	}{{0x40, &compressed}, {0x80, &expanded}} {
		if flags&f.bit == 0 {
			continue
		}
		v, ok := next()
		if !ok {
			return nil, nil, corrupt("sizes in the header of a block")
		}
		*f.to = &v
	}
	id, ok1 := next()
	props, ok2 := next()
	switch {
	case !ok1 || !ok2:
		return nil, nil, corrupt("filters of a block")
	case flags&3 != 0 || id != filterLZMA2:
		return nil, nil, fmt.Errorf("%w: a block with other filters than LZMA2", ErrUnsupported)
	case props != 1 || len(body) < 1 || body[0] > 40:
		return nil, nil, corrupt("filters of a block")
	}
	if bytes.Count(body[1:], []byte{0}) != len(body)-1 {
		return nil, nil, corrupt("padding of the header of a block")
	}
	return compressed, expanded, nil
}

// Size returns how many bytes the index at the end of a stream says that it
// expands to.
func Size(data []byte) (uint64, error) {
	if len(data) < headerSize+footerSize || string(data[len(data)-2:]) != footerMagic {
		return 0, corrupt("no footer")
	}
	length := (uint64(binary.LittleEndian.Uint32(data[len(data)-8:])) + 1) * 4
	if length > uint64(len(data)-headerSize-footerSize) {
		return 0, corrupt("footer")
	}
	index := data[uint64(len(data)-footerSize)-length : len(data)-footerSize]
	next := func() uint64 {
		v, n := binary.Uvarint(index)
		index = index[max(n, 0):]
		return v
	}
	index = index[1:]
	total := uint64(0)
	for range min(next(), length) {
		next() // the length of a block
		total += next()
	}
	return total, nil // what is wrong with the index Expand says
}
