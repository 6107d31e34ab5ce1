package seed

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"strings"
)

// streamKind is what a stream is.
type streamKind uint8

const (
	other streamKind = iota
	gzipStream
	zstdStream
	tarStream
	catarStream
)

// sniff tells what a stream is from its beginning, which stays to be read.
func sniff(br *bufio.Reader) (streamKind, error) {
	b, err := br.Peek(sniffSize)
	if err != nil && err != io.EOF {
		return other, err
	}
	switch {
	case len(b) >= 16 && binary.LittleEndian.Uint64(b[8:]) == catarEntry:
		return catarStream, nil
	case len(b) >= 262 && strings.HasPrefix(string(b[257:]), "ustar"):
		return tarStream, nil
	case len(b) >= 3 && b[0] == 0x1f && b[1] == 0x8b && b[2] == 8:
		return gzipStream, nil
	case len(b) >= 4 && (string(b[:4]) == "\x28\xb5\x2f\xfd" || b[0]&0xf0 == 0x50 && string(b[1:4]) == "\x2a\x4d\x18"):
		return zstdStream, nil
	case len(b) == sniffSize && isOldTar(b):
		return tarStream, nil
	}
	return other, nil
}

// catarEntry is the type of the record that a catar begins with
// (docs/format/catar.md).
const catarEntry = 0x1396fabcea5bbb51

// isOldTar reports whether b is a header of the tar of Unix V7, which has no
// magic: its checksum is right.
func isOldTar(b []byte) bool {
	var sum, want int
	for i, c := range b {
		if i >= 148 && i < 156 {
			c = ' '
		}
		sum += int(c)
	}
	digits := strings.Trim(string(b[148:156]), " \x00")
	if digits == "" {
		return false
	}
	for _, c := range digits {
		if c < '0' || c > '7' {
			return false
		}
		want = want<<3 | int(c-'0')
	}
	return sum == want
}

// bounded is a reader that ends with an error after left bytes, and when
// stopped says so.
type bounded struct {
	r       io.Reader
	stopped func() error
	left    int64
}

func (b *bounded) Read(p []byte) (int, error) {
	if err := b.stopped(); err != nil {
		return 0, err
	}
	n, err := b.r.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, fmt.Errorf("more than %d bytes", int64(archiveLimit))
	}
	return n, err
}
