package deflate

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"hash/crc32"
	"io"
)

// Member is a gzip file (RFC 1952) of one member that an encoder makes again.
type Member struct {
	// Header is the file's beginning, up to the compressed data.
	Header []byte
	// Data is what is compressed.
	Data []byte
	// Encoder compresses Data as the file has it.
	Encoder Encoder
}

// MaxData is the length of the longest Data, in bytes.
const MaxData = 64 << 20

const (
	fixedHeader = 10
	trailer     = 8
)

// Expand returns the data of a gzip file of one member of at most limit bytes,
// and how long its header is. It says false for anything else.
func Expand(b []byte, limit int) (data []byte, header int, ok bool) {
	header, ok = headerSize(b)
	if !ok || len(b)-header < trailer {
		return nil, 0, false
	}
	body := bytes.NewReader(b[header:])
	r := flate.NewReader(body)
	data, err := io.ReadAll(io.LimitReader(r, int64(limit)+1))
	if err != nil || len(data) > limit || body.Len() != trailer {
		return nil, 0, false
	}
	end := b[len(b)-trailer:]
	return data, header, bytes.Equal(end, appendTrailer(nil, data))
}

// Open finds out how the gzip file b was made. It says false when b is none of
// one member, or when no encoder makes it.
func Open(b []byte) (*Member, bool) {
	data, header, ok := Expand(b, MaxData)
	if !ok {
		return nil, false
	}
	m := &Member{Header: b[:header], Data: data}
	body := b[header : len(b)-trailer]
	for _, m.Encoder = range encoders() {
		if bytes.Equal(compress(nil, data, m.Encoder), body) {
			return m, true
		}
	}
	return nil, false
}

// Append appends the file.
func (m *Member) Append(dst []byte) []byte {
	dst = append(dst, m.Header...)
	dst = compress(dst, m.Data, m.Encoder)
	return appendTrailer(dst, m.Data)
}

func appendTrailer(dst, data []byte) []byte {
	dst = binary.LittleEndian.AppendUint32(dst, crc32.ChecksumIEEE(data))
	return binary.LittleEndian.AppendUint32(dst, uint32(len(data)))
}

// headerSize returns the length of the header of a gzip file.
func headerSize(b []byte) (int, bool) {
	const (
		flagCRC     = 2
		flagExtra   = 4
		flagName    = 8
		flagComment = 16
	)
	if len(b) < fixedHeader || b[0] != 0x1f || b[1] != 0x8b || b[2] != 8 || b[3]&0xe0 != 0 {
		return 0, false
	}
	n := fixedHeader
	if b[3]&flagExtra != 0 {
		if len(b) < n+2 {
			return 0, false
		}
		n += 2 + int(binary.LittleEndian.Uint16(b[n:]))
	}
	for _, flag := range []byte{flagName, flagComment} {
		if b[3]&flag == 0 {
			continue
		}
		end := -1
		if n <= len(b) {
			end = bytes.IndexByte(b[n:], 0)
		}
		if end < 0 {
			return 0, false
		}
		n += end + 1
	}
	if b[3]&flagCRC != 0 {
		n += 2
	}
	return n, n <= len(b)
}
