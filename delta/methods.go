package delta

import (
	"bytes"
	"context"
	"fmt"
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

// finisher turns what the instructions of a record make into its content.
type finisher struct {
	record *Record
	data   bytes.Buffer // grows with what is made
}

// newFinisher returns one for a record that is not plain. It fails for
// parameters that no content has.
func newFinisher(r *Record) (*finisher, error) {
	if len(r.params) < 1 || !deflate.Encoder(r.params[0]).Valid() {
		return nil, malformed("a gzip file by an encoder that is not known")
	}
	if r.size > deflate.MaxData {
		return nil, malformed("a gzip file with %d bytes of data", r.size)
	}
	return &finisher{record: r}, nil
}

func (f *finisher) Write(p []byte) (int, error) { return f.data.Write(p) }

// finish writes the content.
func (f *finisher) finish(w io.Writer) error {
	m := deflate.Member{Header: f.record.params[1:], Data: f.data.Bytes(), Encoder: deflate.Encoder(f.record.params[0])}
	_, err := w.Write(m.Append(nil))
	return err
}

// expanded is the data of a base that is a gzip file.
type expanded struct{ *bytes.Reader }

func (expanded) Close() error { return nil }

// openBase opens a base, as its filter shows it, and returns its length.
func (a *applier) openBase(ctx context.Context, i int) (_ BaseReader, size int64, err error) {
	b := &a.job.Head.Bases[i]
	if b.filter == filterGunzip && b.Size > deflate.MaxData {
		return nil, 0, fmt.Errorf("a gzip file of %d bytes", b.Size)
	}
	r, err := a.job.Base(ctx, i)
	if err != nil || b.filter == filterNone {
		return r, b.Size, err
	}
	defer r.Close() // it was only read
	packed := make([]byte, 0, min(b.Size, 1<<20))
	buf := bytes.NewBuffer(packed)
	if _, err := buf.ReadFrom(io.NewSectionReader(r, 0, b.Size)); err != nil {
		return nil, 0, err
	}
	data, _, ok := deflate.Expand(buf.Bytes(), deflate.MaxData)
	if !ok {
		return nil, 0, fmt.Errorf("it is not the gzip file that it was")
	}
	return expanded{bytes.NewReader(data)}, int64(len(data)), nil
}

// view returns what of a content is compared with others: the data of a gzip
// file, else the content itself.
func view(b []byte) (data []byte, filter uint64) {
	if data, _, ok := deflate.Expand(b, deflate.MaxData); ok {
		return data, filterGunzip
	}
	return b, filterNone
}
