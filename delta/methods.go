package delta

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/ociv2-sync/ociv2-sync/internal/deflate"
)

// The methods of records: docs/format/delta.md, section 5.
const (
	methodPlain = 0 // the instructions make the content
	methodGzip  = 1 // they make the data of a gzip file
	methodZip   = 2 // they make the inflated form of a zip file
)

// The filters of bases: docs/format/delta.md, section 5.
const (
	filterNone   = 0 // the base as it is
	filterGunzip = 1 // the data of a gzip file
	filterUnzip  = 2 // the inflated form of a zip file
	filters      = 3
)

// gzipParams are the parameters of methodGzip.
func gzipParams(m *deflate.Member) []byte {
	return append([]byte{byte(m.Encoder)}, m.Header...)
}

// finisher turns what the instructions of a record make into its content, which
// it hashes as it passes.
type finisher struct {
	out  io.Writer
	left int64 // of the content
	sum  hash.Hash
	file io.WriteCloser // nil for a plain one
}

// known returns an error for a record that this version does not carry out.
func (r *Record) known() error {
	if r.method == methodPlain {
		return nil
	}
	switch {
	case r.method > methodZip:
		return malformed("method %d", r.method)
	case len(r.params) < 1 || !deflate.Encoder(r.params[0]).Valid():
		return malformed("a compressed file by an encoder that is not known")
	case r.method == methodZip && len(r.params) > 1:
		return malformed("a zip file with parameters that are not known")
	case r.size > deflate.MaxData:
		return malformed("a compressed file with %d bytes of data", r.size)
	}
	return nil
}

// newFinisher returns one for a record whose content has the given size.
func (a *applier) newFinisher(r *Record, size int64, out io.Writer) (*finisher, error) {
	f := &finisher{out: out, left: size, sum: sha256.New()}
	switch err := r.known(); {
	case err != nil:
		return f, err
	case r.method == methodGzip:
		f.file = &a.gzip
		return f, a.gzip.Reset(rawContent{f}, r.params[1:], deflate.Encoder(r.params[0]))
	case r.method == methodZip:
		f.file = &a.zip
		a.zip.Reset(rawContent{f}, deflate.Encoder(r.params[0]))
	}
	return f, nil
}

func (f *finisher) Write(p []byte) (int, error) {
	if f.file != nil {
		return f.file.Write(p)
	}
	return rawContent{f}.Write(p)
}

// finish checks the content against its digest.
func (f *finisher) finish(want Digest) error {
	if f.file != nil {
		if err := f.file.Close(); err != nil {
			return err
		}
	}
	if Digest(f.sum.Sum(nil)) != want {
		return fmt.Errorf("%w: not %x", ErrContent, want)
	}
	return nil
}

// rawContent takes the bytes of the content themselves.
type rawContent struct{ f *finisher }

func (c rawContent) Write(p []byte) (int, error) {
	if c.f.left -= int64(len(p)); c.f.left < 0 {
		return 0, fmt.Errorf("%w: it is larger", ErrContent)
	}
	c.f.sum.Write(p)
	return c.f.out.Write(p)
}

// expanded is what a filter makes of a base.
type expanded struct{ *bytes.Reader }

func (expanded) Close() error { return nil }

// maxExpanded bounds what of the bases of one record is held in memory: what
// filters make of them, in bytes.
const maxExpanded = 32 << 20

// openBase opens a base, as its filter shows it, and returns its length. It
// expands at most room bytes.
func (a *applier) openBase(ctx context.Context, i int, room int64) (_ BaseReader, size int64, err error) {
	b := &a.job.Head.Bases[i]
	r, err := a.job.Base(ctx, i)
	if err != nil || b.filter == filterNone {
		return r, b.Size, err
	}
	defer r.Close() // it was only read
	var data []byte
	var ok bool
	if b.filter == filterUnzip {
		data, ok = deflate.Inflate(r, b.Size, int(room))
	} else {
		data, ok = deflate.Expand(io.NewSectionReader(r, 0, b.Size), int(room))
	}
	if !ok {
		return nil, 0, errors.New("it is not the compressed file that it was")
	}
	return expanded{bytes.NewReader(data)}, int64(len(data)), nil
}

// view returns what of a content is compared with others: the data of a gzip
// file or the inflated form of a zip file, unless that has more than room bytes,
// else the content itself.
func view(b []byte, room int) (data []byte, filter uint64) {
	if data, ok := deflate.Expand(bytes.NewReader(b), room); ok {
		return data, filterGunzip
	}
	if data, ok := deflate.Inflate(bytes.NewReader(b), int64(len(b)), room); ok {
		return data, filterUnzip
	}
	return b, filterNone
}
