package translate

import (
	"cmp"
	"encoding/base64"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/ociv2-sync/ociv2-sync/toc"
)

// The bytes of exported layers must not change with the version of a library, so
// headers are encoded here: docs/format/export.md, section 2.

const (
	tarBlock = 512

	tarHardLink byte = '1'
	tarPAX      byte = 'x'

	maxTarName  = 100
	maxTarID    = 1<<21 - 1 // seven octal digits
	maxTarLarge = 1<<33 - 1 // eleven
)

// tarTypes gives the tar type of each type of node that a layer can hold.
func tarTypes() map[uint32]byte {
	return map[uint32]byte{
		toc.TypeRegular: '0', toc.TypeSymlink: '2', toc.TypeChar: '3',
		toc.TypeBlock: '4', toc.TypeDir: '5', toc.TypeFIFO: '6',
	}
}

// paxRecord is an extended attribute of an entry.
type paxRecord struct{ key, value string }

// appendTarHeader appends the header of an entry, and before it a PAX header
// with what does not fit.
func appendTarHeader(b []byte, n *toc.Node, name string, typ byte, link string) []byte {
	h := tarFields{name: name, link: link, typ: typ, mode: n.Mode & toc.PermMask, major: n.Major, minor: n.Minor}
	var records []paxRecord
	add := func(key, value string) { records = append(records, paxRecord{key, value}) }
	if len(name) > maxTarName {
		add("path", name)
	}
	if len(link) > maxTarName {
		add("linkpath", link)
	}
	if h.uid = int64(n.UID); h.uid > maxTarID {
		add("uid", strconv.FormatInt(h.uid, 10))
		h.uid = 0
	}
	if h.gid = int64(n.GID); h.gid > maxTarID {
		add("gid", strconv.FormatInt(h.gid, 10))
		h.gid = 0
	}
	if h.mtime = n.Sec; n.Nsec != 0 || n.Sec < 0 || n.Sec > maxTarLarge {
		add("mtime", paxTime(n.Sec, n.Nsec))
		h.mtime = max(0, min(n.Sec, maxTarLarge))
	}
	if typ != tarHardLink {
		if h.size = n.Size; h.size > maxTarLarge {
			add("size", strconv.FormatInt(h.size, 10))
			h.size = 0
		}
		for _, x := range n.XAttrs {
			records = append(records, xattrRecord(x))
		}
	}
	if len(records) > 0 {
		b = appendPAX(b, records)
	}
	return h.append(b)
}

// xattrRecord gives the record of an xattr: that which all readers know, or, for a
// name that cannot be in it, that of libarchive.
func xattrRecord(x toc.XAttr) paxRecord {
	if !strings.Contains(x.Name, "=") {
		return paxRecord{paxSchily + x.Name, string(x.Value)}
	}
	var name strings.Builder
	for _, c := range []byte(x.Name) {
		if c <= ' ' || c >= 0x7f || c == '%' || c == '=' {
			fmt.Fprintf(&name, "%%%02X", c)
		} else {
			name.WriteByte(c)
		}
	}
	return paxRecord{paxLibarchive + name.String(), base64.RawStdEncoding.EncodeToString(x.Value)}
}

// paxTime gives seconds since 1970 as a decimal number without needless digits.
func paxTime(sec int64, nsec int32) string {
	sign, abs := "", uint64(sec)
	if sec < 0 {
		sign, abs = "-", -uint64(sec)
		if nsec > 0 {
			abs, nsec = abs-1, 1e9-nsec
		}
	}
	s := sign + strconv.FormatUint(abs, 10)
	if nsec > 0 {
		s += strings.TrimRight(fmt.Sprintf(".%09d", nsec), "0")
	}
	return s
}

// appendPAX appends a PAX header for the next entry.
func appendPAX(b []byte, records []paxRecord) []byte {
	slices.SortFunc(records, func(a, b paxRecord) int { return cmp.Compare(a.key, b.key) })
	var body []byte
	for _, r := range records {
		// The length of a record counts its own digits.
		rest := len(r.key) + len(r.value) + len(" =\n")
		length := rest + len(strconv.Itoa(rest))
		if n := rest + len(strconv.Itoa(length)); n > length {
			length = n
		}
		body = strconv.AppendInt(body, int64(length), 10)
		body = append(body, ' ')
		body = append(body, r.key...)
		body = append(body, '=')
		body = append(body, r.value...)
		body = append(body, '\n')
	}
	h := tarFields{name: "././@PaxHeader", typ: tarPAX, mode: 0o644, size: int64(len(body))}
	b = append(h.append(b), body...)
	return append(b, make([]byte, -len(body)&(tarBlock-1))...)
}

// tarFields is what a ustar header says.
type tarFields struct {
	name, link            string
	typ                   byte
	mode, major, minor    uint32
	uid, gid, size, mtime int64
}

// append appends the header's 512 bytes. Names that are too long are cut; a PAX
// header has them whole.
func (h *tarFields) append(b []byte) []byte {
	at := len(b)
	b = append(b, make([]byte, tarBlock)...)
	block := b[at:]
	octal := func(off, digits int, v int64) { copy(block[off:], fmt.Sprintf("%0*o", digits, v)) }
	copy(block[:maxTarName], h.name)
	octal(100, 7, int64(h.mode))
	octal(108, 7, h.uid)
	octal(116, 7, h.gid)
	octal(124, 11, h.size)
	octal(136, 11, h.mtime)
	copy(block[148:156], "        ") // the checksum counts itself as blanks
	block[156] = h.typ
	copy(block[157:257], h.link)
	copy(block[257:], "ustar\x0000")
	octal(329, 7, int64(h.major))
	octal(337, 7, int64(h.minor))
	sum := int64(0)
	for _, c := range block {
		sum += int64(c)
	}
	octal(148, 6, sum)
	block[154] = 0
	return b
}
