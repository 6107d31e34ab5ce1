package seed

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// Layers that name their contents: eStargz (gzip, docs/estargz.md of
// stargz-snapshotter) and zstd:chunked (zstd, pkg/chunked of containers/storage).
// Both are what their compressions say, for whoever does not know of them, and
// end in a footer that tells where their table of contents is: JSON with an entry
// for each file, whose bytes begin a gzip member or zstd frame of their own.
const (
	stargzFooter     = 51
	stargzTable      = "stargz.index.json"
	chunkedMagic     = "GnUlInUx"
	chunkedFooter    = 64 // of older writers 40: without three of the numbers
	chunkedFooterOld = 40
	// maxTable is the most that a table of contents has, compressed or not.
	maxTable = 64 << 20
)

// frame is where a content lies in compressed form.
type frame struct {
	offset, skip int64 // where the compressed bytes begin; what comes before it in them
	gzip         bool
}

// tableOf returns the contents that the table in a file of size bytes names; nil
// if it has none, or one that is wrong.
func tableOf(f io.ReaderAt, size int64) []member {
	json, gzip, err := readTable(f, size)
	if err != nil {
		return nil
	}
	members, err := parseTable(json, gzip, size)
	if err != nil {
		return nil
	}
	return members
}

var errNoTable = errors.New("no table of contents")

// readTable reads the JSON of a table.
func readTable(f io.ReaderAt, size int64) (table []byte, isGzip bool, err error) {
	if size < chunkedFooter {
		return nil, false, errNoTable
	}
	tail := make([]byte, chunkedFooter)
	if _, err := f.ReadAt(tail, size-chunkedFooter); err != nil {
		return nil, false, err
	}
	if string(tail[chunkedFooter-8:]) == chunkedMagic {
		table, err = readChunkedTable(f, size, tail)
		return table, false, err
	}
	table, err = readStargzTable(f, size, tail[chunkedFooter-stargzFooter:])
	return table, true, err
}

func readChunkedTable(f io.ReaderAt, size int64, tail []byte) ([]byte, error) {
	// The new footer is a skippable frame of 64 bytes; of the old one the same
	// place has something else.
	var head [8]byte
	if size > chunkedFooter+8 {
		if _, err := f.ReadAt(head[:], size-chunkedFooter-8); err != nil {
			return nil, err
		}
	}
	if binary.LittleEndian.Uint32(head[4:]) != chunkedFooter || head[1] != 0x2a || head[2] != 0x4d || head[3] != 0x18 {
		tail = tail[chunkedFooter-chunkedFooterOld:]
	}
	offset, length, plain := binary.LittleEndian.Uint64(tail), binary.LittleEndian.Uint64(tail[8:]), binary.LittleEndian.Uint64(tail[16:])
	if offset > uint64(size) || length > uint64(size)-offset || length > maxTable || plain > maxTable {
		return nil, errNoTable
	}
	d, err := zstd.NewReader(io.NewSectionReader(f, int64(offset), int64(length)), zstd.WithDecoderConcurrency(1),
		zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(zstdWindow))
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return io.ReadAll(io.LimitReader(d, int64(plain)))
}

func readStargzTable(f io.ReaderAt, size int64, footer []byte) ([]byte, error) {
	gz, err := gzip.NewReader(bytes.NewReader(footer))
	if err != nil {
		return nil, errNoTable
	}
	// Of the extra field: "SG", a length of 22, 16 hexadecimal digits, "STARGZ".
	extra := gz.Extra
	if len(extra) != 26 || string(extra[:4]) != "SG\x16\x00" || string(extra[20:]) != "STARGZ" {
		return nil, errNoTable
	}
	offset, err := strconv.ParseInt(string(extra[4:20]), 16, 64)
	if err != nil || offset < 0 || offset > size-stargzFooter || size-stargzFooter-offset > maxTable {
		return nil, errNoTable
	}
	if gz, err = gzip.NewReader(io.NewSectionReader(f, offset, size-stargzFooter-offset)); err != nil {
		return nil, err
	}
	tr := tar.NewReader(gz)
	h, err := tr.Next()
	if err != nil || h.Name != stargzTable {
		return nil, errNoTable
	}
	return io.ReadAll(io.LimitReader(tr, maxTable))
}

// parseTable takes the contents out of a table's JSON.
func parseTable(b []byte, gzip bool, fileSize int64) ([]member, error) {
	var table struct {
		Version int `json:"version"`
		Entries []struct {
			Type        string `json:"type"`
			Size        int64  `json:"size"`
			Digest      string `json:"digest"`
			Offset      int64  `json:"offset"`
			InnerOffset int64  `json:"innerOffset"`
		} `json:"entries"`
	}
	if err := json.Unmarshal(b, &table); err != nil {
		return nil, err
	}
	if table.Version != 1 {
		return nil, fmt.Errorf("%w of version 1", errNoTable)
	}
	members := []member{}
	for _, e := range table.Entries {
		digest, ok := strings.CutPrefix(e.Digest, "sha256:")
		sum, err := hex.DecodeString(digest)
		if !ok || err != nil || len(sum) != len(Digest{}) || e.Type != "reg" || e.Size < 1 ||
			e.Offset < 0 || e.Offset >= fileSize || e.InnerOffset < 0 {
			continue
		}
		members = append(members, member{
			digest: Digest(sum), size: e.Size, offset: -1,
			table: &frame{offset: e.Offset, skip: e.InnerOffset, gzip: gzip},
		})
	}
	return members, nil
}

// open opens the content of size bytes that begins at the frame. It closes file in
// the end.
func (c *frame) open(file *os.File, size int64) (io.ReadCloser, error) {
	fi, err := file.Stat()
	if err != nil {
		return nil, err
	}
	packed := io.NewSectionReader(file, c.offset, max(0, fi.Size()-c.offset))
	r := &frameReader{file: file, done: func() {}}
	if c.gzip {
		// A content of several chunks has as many members, one after the other.
		r.r, err = gzip.NewReader(packed)
	} else {
		var d *zstd.Decoder
		d, err = zstd.NewReader(packed, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(zstdWindow))
		if err == nil {
			r.r, r.done = d, d.Close
		}
	}
	if err != nil {
		return nil, err
	}
	if _, err := io.CopyN(io.Discard, r.r, c.skip); err != nil {
		r.done()
		return nil, err
	}
	r.r = io.LimitReader(r.r, size)
	return r, nil
}

type frameReader struct {
	r    io.Reader
	done func()
	file *os.File
}

func (r *frameReader) Read(p []byte) (int, error) { return r.r.Read(p) }

func (r *frameReader) Close() error {
	r.done()
	return r.file.Close()
}
