package seed

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// member is a content inside an archive.
type member struct {
	digest Digest
	size   int64
	// offset is where the file has it as it is; negative where it does not.
	offset int64
	// entries are the numbers of the entries that lead to it.
	entries []int
	// table is where it begins in compressed form, for an archive with a table
	// of contents; nil otherwise.
	table *frame
}

func newMember(size int64, at where) member {
	return member{size: size, offset: at.offset, entries: at.entries}
}

// plain reports whether the content can be read out of the file alone.
func (m *member) plain() bool { return m.offset >= 0 || m.table != nil }

// path is what stands for the content of an archive in a plan.
func (m *member) path(file string) string {
	var b strings.Builder
	b.WriteString(file)
	if m.table != nil {
		fmt.Fprintf(&b, "#%d+%d", m.table.offset, m.table.skip)
	}
	for _, n := range m.entries {
		fmt.Fprintf(&b, "#%d", n)
	}
	return b.String()
}

func (m *member) inside(file string) inside {
	return inside{file: file, offset: m.offset, size: m.size, table: m.table}
}

// inside is where in a file a content lies.
type inside struct {
	file         string
	offset, size int64
	table        *frame
}

// open opens the content, whose bytes are unverified.
func (in inside) open() (io.ReadCloser, error) {
	f, _, err := openRegular(in.file)
	if err != nil {
		return nil, err
	}
	if in.table != nil {
		r, err := in.table.open(f, in.size)
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		return r, nil
	}
	return sectionFile{io.NewSectionReader(f, in.offset, in.size), f}, nil
}

// sectionFile is a part of an open file.
type sectionFile struct {
	*io.SectionReader
	f *os.File
}

func (s sectionFile) Close() error { return s.f.Close() }

// The list of an archive's contents (docs/format/catalogue.md, section 4).
const listMagic = "ociv2-sync contents 1\n"

var errList = errors.New("seed: not a list of contents")

// appendList appends the list of contents to b.
func appendList(b []byte, members []member) []byte {
	b = append(b, listMagic...)
	for _, m := range members {
		b = append(b, m.digest[:]...)
		b = binary.AppendUvarint(b, uint64(m.size))
		b = binary.AppendUvarint(b, uint64(m.offset+1))
		b = append(b, byte(len(m.entries)))
		for _, n := range m.entries {
			b = binary.AppendUvarint(b, uint64(n))
		}
	}
	return b
}

// parseList reads what appendList has made. The result is not nil where err is.
func parseList(b []byte) ([]member, error) {
	rest, ok := strings.CutPrefix(string(b), listMagic)
	if !ok {
		return nil, errList
	}
	b = []byte(rest)
	number := func() (int64, bool) {
		v, n := binary.Uvarint(b)
		if n <= 0 || v > 1<<62 {
			return 0, false
		}
		b = b[n:]
		return int64(v), true
	}
	members := []member{}
	for len(b) > 0 {
		var m member
		if len(b) < len(m.digest) {
			return nil, errList
		}
		b = b[copy(m.digest[:], b):]
		size, ok := number()
		offset, ok2 := number()
		if !ok || !ok2 || size < 1 || len(b) == 0 || b[0] > 2 {
			return nil, errList
		}
		m.size, m.offset = size, offset-1
		count := b[0]
		b = b[1:]
		for range count {
			n, ok := number()
			if !ok {
				return nil, errList
			}
			m.entries = append(m.entries, int(n))
		}
		members = append(members, m)
	}
	return members, nil
}
