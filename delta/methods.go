package delta

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"

	"github.com/ociv2-sync/ociv2-sync/internal/deflate"
)

// The methods of records: docs/format/delta.md, section 5.
const (
	methodPlain = 0 // the instructions make the content
	methodGzip  = 1 // they make the data of a gzip file
	methods     = 2
)

// The filters of bases: docs/format/delta.md, section 5.
const (
	filterNone   = 0 // the base as it is
	filterGunzip = 1 // the data of a gzip file
	filters      = 2
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
	file *deflate.FileWriter // nil for a plain one
}

// newFinisher returns one for a record whose content has the given size. It
// fails for parameters that no content has.
func (a *applier) newFinisher(r *Record, size int64, out io.Writer) (*finisher, error) {
	f := &finisher{out: out, left: size, sum: sha256.New()}
	if r.method == methodPlain {
		return f, nil
	}
	if len(r.params) < 1 || !deflate.Encoder(r.params[0]).Valid() {
		return f, malformed("a gzip file by an encoder that is not known")
	}
	if r.size > deflate.MaxData {
		return f, malformed("a gzip file with %d bytes of data", r.size)
	}
	f.file = &a.file
	return f, f.file.Reset(rawContent{f}, r.params[1:], deflate.Encoder(r.params[0]))
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

// expanded is the data of a base that is a gzip file.
type expanded struct{ *bytes.Reader }

func (expanded) Close() error { return nil }

// maxExpanded bounds what of the bases of one record is held in memory: the data
// of gzip files, in bytes.
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
	data, ok := deflate.Expand(io.NewSectionReader(r, 0, b.Size), int(room))
	if !ok {
		return nil, 0, fmt.Errorf("it is not the gzip file that it was")
	}
	return expanded{bytes.NewReader(data)}, int64(len(data)), nil
}

// view returns what of a content is compared with others: the data of a gzip
// file, unless there are more than room bytes, else the content itself.
func view(b []byte, room int) (data []byte, filter uint64) {
	if data, ok := deflate.Expand(bytes.NewReader(b), room); ok {
		return data, filterGunzip
	}
	return b, filterNone
}
