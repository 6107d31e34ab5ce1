package seed

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/ociv2-sync/ociv2-sync/catar"
	"github.com/ociv2-sync/ociv2-sync/internal/inflate"
)

// errEnough ends the reading of an archive when nothing more is wanted.
var errEnough = errors.New("nothing more is wanted")

// archiveScan reads one archive.
type archiveScan struct {
	a     *Archive
	want  *Wanted
	found func(Digest, string)
	// only, if not nil, are the contents to be kept, by their paths: those that
	// are not read yet.
	only map[string]Digest
	// learn says that all contents are hashed and listed in members.
	learn   bool
	members []member
	buf     []byte
}

func (s *archiveScan) file(ctx context.Context, scan Scan, path string) error {
	f, before, err := openRegular(path)
	if err != nil {
		return err
	}
	defer f.Close()
	started := time.Now()
	at := where{file: path, offset: 0}
	if err := s.stream(ctx, &bounded{r: f, stopped: ctx.Err, left: archiveLimit}, at, true); err != nil || !s.learn {
		return err
	}
	after, err := f.Stat()
	if err == nil {
		scan.LearnList(path, before, after, started, appendList(nil, s.members))
	}
	return err
}

// where is a place in an archive.
type where struct {
	file string
	// entries are the numbers of the entries, of an archive in the file and of
	// one in that.
	entries []int
	// offset is where the stream begins in the file, negative where the file
	// does not have its bytes as they are.
	offset int64
}

// entry is an entry of the archive at w, whose bytes begin at an offset in it.
func (w where) entry(n int, offset int64) where {
	w.entries = append(w.entries[:len(w.entries):len(w.entries)], n)
	if w.offset >= 0 {
		w.offset += offset
	}
	return w
}

// packed is what w is compressed from.
func (w where) packed() where {
	w.offset = -1
	return w
}

// stream reads a stream of a kind that it finds out. What is none of those that
// are known is not read further. outer says that the archives in it are read too.
func (s *archiveScan) stream(ctx context.Context, r io.Reader, at where, outer bool) error {
	br := bufio.NewReaderSize(r, 64<<10)
	kind, err := sniff(br)
	if err != nil {
		return err
	}
	var plain io.Reader
	switch kind {
	case gzipStream:
		plain = inflate.NewReader(br)
	case zstdStream:
		d, err := zstd.NewReader(br, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(zstdWindow))
		if err != nil {
			return err
		}
		defer d.Close()
		plain = d
	case tarStream:
		return s.tar(ctx, br, at, outer)
	case catarStream:
		return s.catar(br, at)
	default:
		return nil // a manifest, or a blob that is no layer
	}
	br = bufio.NewReaderSize(&bounded{r: plain, stopped: ctx.Err, left: archiveLimit}, 64<<10)
	switch kind, err = sniff(br); {
	case err != nil:
		return err
	case kind == tarStream:
		return s.tar(ctx, br, at.packed(), outer)
	case kind == catarStream:
		return s.catar(br, at.packed())
	}
	return nil
}

// layerName is what oci-archive and docker-archive call layers.
var layerName = regexp.MustCompile(`^(\./)?(blobs/sha256/[0-9a-f]{64}|[0-9a-f]{64}\.tar|[0-9a-f]{64}/layer\.tar)$`)

func (s *archiveScan) tar(ctx context.Context, r io.Reader, at where, outer bool) error {
	count := &counter{r: r}
	tr := tar.NewReader(count) // which reads no further than it has to
	for n := 0; ; n++ {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		entry := at.entry(n, count.n)
		switch {
		case h.Typeflag != tar.TypeReg:
		case outer && layerName.MatchString(h.Name):
			err := s.stream(ctx, tr, entry, false)
			if errors.Is(err, errEnough) || errors.Is(err, errSpool) || ctx.Err() != nil {
				return err
			}
			if err != nil {
				s.a.pass(entry.file+" "+h.Name, err)
				s.learn = false
			}
		default:
			if isSparse(h) {
				entry = entry.packed()
			}
			if err := s.content(tr, h.Size, filepath.Base(h.Name), entry); err != nil {
				return err
			}
		}
	}
}

// isSparse reports whether the archive has the entry without its holes.
func isSparse(h *tar.Header) bool {
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return false
}

func (s *archiveScan) catar(r io.Reader, at where) error {
	cr := catar.NewReader(r)
	for n := 0; ; n++ {
		e, err := cr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if e.Mode&0o170000 != 0o100000 {
			continue
		}
		if err := s.content(cr, int64(e.Size), e.Name, at.packed().entry(n, 0)); err != nil {
			return err
		}
	}
}

// content looks at one content of size bytes.
func (s *archiveScan) content(r io.Reader, size int64, name string, at where) error {
	if size <= 0 {
		return nil
	}
	m := newMember(size, at)
	if s.only != nil {
		return s.extract(r, m, name, at)
	}
	if !s.learn && s.want.Left() == 0 {
		return errEnough
	}
	wanted := s.want.HasSize(size)
	if !wanted && !s.learn {
		return nil
	}
	sp := s.a.spool
	if !wanted || m.plain() {
		sp = nil
	}
	d, keep, err := sp.take(r, size, s.buf)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	m.digest = d
	if s.learn {
		s.members = append(s.members, m)
	}
	if !wanted || !s.want.Take(d, size) {
		return keep("")
	}
	path := m.path(at.file)
	if err := keep(path); err != nil {
		return err
	}
	if m.plain() {
		s.a.place(path, m.inside(at.file))
	}
	s.found(d, path)
	return nil
}

// extract keeps a content that is known.
func (s *archiveScan) extract(r io.Reader, m member, name string, at where) error {
	path := m.path(at.file)
	want, ok := s.only[path]
	if !ok {
		return nil
	}
	d, keep, err := s.a.spool.take(r, m.size, s.buf)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if d != want {
		path = "" // it has changed: who comes to copy it finds nothing
	}
	if err := keep(path); err != nil {
		return err
	}
	delete(s.only, m.path(at.file))
	if len(s.only) == 0 {
		return errEnough
	}
	return nil
}

// counter counts what is read.
type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// tarSizes calls meet with the sizes of the files in a plain tar, and in those in
// it, by their headers alone; with anySize for what is compressed.
func tarSizes(r *io.SectionReader, outer bool, meet func(size int64)) error {
	tr := tar.NewReader(r) // which seeks over the contents
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		if !outer || !layerName.MatchString(h.Name) {
			meet(h.Size)
			continue
		}
		at, err := r.Seek(0, io.SeekCurrent)
		if err != nil {
			return err
		}
		layer := io.NewSectionReader(r, at, h.Size)
		switch kind, err := sniff(bufio.NewReaderSize(layer, sniffSize)); {
		case err != nil:
			return err
		case kind == tarStream:
			if _, err := layer.Seek(0, io.SeekStart); err != nil {
				return err
			}
			_ = tarSizes(layer, false, meet) // the rest of a broken one is not looked into
		case kind != other:
			meet(anySize)
		}
	}
}
