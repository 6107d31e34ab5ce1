package deflate

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
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

// Expand returns the data of the gzip file that r reads, of one member and of at
// most limit bytes. It says false for anything else.
func Expand(r io.Reader, limit int) (data []byte, ok bool) {
	b := bufio.NewReader(r)
	z, err := gzip.NewReader(b)
	if err != nil {
		return nil, false
	}
	z.Multistream(false)
	data, err = io.ReadAll(io.LimitReader(z, int64(limit)+1)) // checks length and CRC
	if err != nil || len(data) > limit {
		return nil, false
	}
	_, err = b.ReadByte()
	return data, errors.Is(err, io.EOF)
}

// Open finds out how the gzip file b was made. It says false when b is none of
// one member, or when no encoder makes it.
func Open(b []byte) (*Member, bool) {
	header, ok := headerSize(b)
	if !ok || len(b)-header < trailer {
		return nil, false
	}
	data, ok := Expand(bytes.NewReader(b), MaxData)
	if !ok {
		return nil, false
	}
	m := &Member{Header: b[:header], Data: data}
	var z Writer
	for _, m.Encoder = range encoders() {
		if z.makes(data, b[header:len(b)-trailer], m.Encoder) {
			return m, true
		}
	}
	return nil, false
}

// FileWriter makes a gzip file again: what is written to it is the data. Its
// zero value is ready for Reset.
type FileWriter struct {
	w    io.Writer
	z    Writer
	crc  uint32
	size uint32
}

// Reset begins another file, which it writes to w. It panics if e is not valid.
func (f *FileWriter) Reset(w io.Writer, header []byte, e Encoder) error {
	f.w, f.crc, f.size = w, 0, 0
	f.z.Reset(w, e)
	_, err := w.Write(header)
	return err
}

func (f *FileWriter) Write(p []byte) (int, error) {
	f.crc = crc32.Update(f.crc, crc32.IEEETable, p)
	f.size += uint32(len(p)) // modulo 2^32, as RFC 1952 has it
	return f.z.Write(p)
}

// Close ends the file. It does not close the writer below.
func (f *FileWriter) Close() error {
	if err := f.z.Close(); err != nil {
		return err
	}
	end := binary.LittleEndian.AppendUint32(nil, f.crc)
	_, err := f.w.Write(binary.LittleEndian.AppendUint32(end, f.size))
	return err
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
