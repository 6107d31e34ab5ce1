package seed

import (
	"archive/tar"
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"

	"github.com/ociv2-sync/ociv2-sync/catar"
)

// ErrUnknown means that a file or directory is nothing that is known as a seed.
var ErrUnknown = errors.New("not a seed")

const (
	// archiveLimit is how much of one archive is read, uncompressed.
	archiveLimit = 64 << 30
	// zstdWindow is the largest window of zstd that is decoded.
	zstdWindow = 128 << 20
	// sniffSize is how much of a stream tells what it is.
	sniffSize = 512
)

// ArchiveOptions are the options of OpenArchive and OpenLayout. The zero value
// works.
type ArchiveOptions struct {
	// SpoolDir is where the contents that were found wait to be copied, in a
	// file without a name: an archive cannot be read at any place. "" is for
	// plans, which copy nothing: Open then fails.
	SpoolDir string
	// Jobs is the number of archives read at a time; 0 means GOMAXPROCS.
	Jobs int
	// Logger is told which archives were passed over and why; nil is silent.
	Logger *slog.Logger
}

// Archive is a seed whose contents are inside archives: tar, plain or
// compressed by gzip or zstd, casync's catar, and the tars inside the tars of
// oci-archive and docker-archive.
type Archive struct {
	name  string
	files []string
	opts  ArchiveOptions
	log   *slog.Logger

	mu    sync.Mutex
	spool *spool // nil until there is something to keep
}

// OpenArchive returns the archive at path as a seed; ErrUnknown if it does not
// begin as one.
func OpenArchive(path string, opts ArchiveOptions) (*Archive, error) {
	if fi, err := os.Stat(path); err == nil && !fi.Mode().IsRegular() {
		return nil, fmt.Errorf("seed: %s: %w: not a file", path, ErrUnknown)
	}
	f, _, err := openRegular(path)
	if err != nil {
		return nil, fmt.Errorf("seed: %w", err)
	}
	defer f.Close()
	if kind, err := sniff(bufio.NewReaderSize(f, sniffSize)); err != nil || kind == other {
		return nil, fmt.Errorf("seed: %s: %w: neither a tar nor a catar, plain or compressed", path, ErrUnknown)
	}
	return newArchive(path, []string{path}, opts), nil
}

// OpenLayout returns the blobs of the OCI layout, or of containerd's content
// store, in the directory at path as a seed: every layer among them,
// whichever image it belongs to. It fails with ErrUnknown if it has no blobs.
func OpenLayout(path string, opts ArchiveOptions) (*Archive, error) {
	blobs := filepath.Join(path, "blobs", "sha256")
	entries, err := os.ReadDir(blobs)
	if err != nil {
		return nil, fmt.Errorf("seed: %s: %w: %w", path, ErrUnknown, err)
	}
	var files []string
	for _, e := range entries {
		if e.Type().IsRegular() {
			files = append(files, filepath.Join(blobs, e.Name()))
		}
	}
	return newArchive(path, files, opts), nil
}

func newArchive(name string, files []string, opts ArchiveOptions) *Archive {
	if opts.Jobs <= 0 {
		opts.Jobs = runtime.GOMAXPROCS(0)
	}
	log := opts.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Archive{name: name, files: files, opts: opts, log: log}
}

func (a *Archive) String() string { return a.name }

// Close frees the contents that were found.
func (a *Archive) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.spool == nil {
		return nil
	}
	err := a.spool.close()
	a.spool = nil
	return err
}

// Open implements [Seed].
func (a *Archive) Open(_ context.Context, path string) (io.ReadCloser, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.spool == nil {
		return nil, fmt.Errorf("seed: %s: nothing of it was kept", a.name)
	}
	r, ok := a.spool.open(path)
	if !ok {
		return nil, fmt.Errorf("seed: %s: %s was not kept", a.name, path)
	}
	return io.NopCloser(r), nil
}

// Find implements [Seed]: it reads every archive once.
func (a *Archive) Find(ctx context.Context, want *Wanted, found func(Digest, string)) error {
	if a.opts.SpoolDir != "" {
		a.mu.Lock()
		var err error
		if a.spool == nil {
			a.spool, err = newSpool(a.opts.SpoolDir)
		}
		a.mu.Unlock()
		if err != nil {
			return err
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(a.opts.Jobs)
	for _, path := range a.files {
		g.Go(func() error {
			s := &archiveScan{a: a, want: want, found: found, buf: make([]byte, spoolBuffer)}
			err := s.file(ctx, path)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if errors.Is(err, errSpool) {
				return err
			}
			if err != nil && !errors.Is(err, errEnough) {
				// What was found in it so far is good.
				a.log.Warn("rest of a seed archive passed over", "seed", a.name, "file", path, "reason", err)
			}
			return nil
		})
	}
	return g.Wait()
}

// errEnough ends the reading of an archive when nothing more is wanted.
var errEnough = errors.New("nothing more is wanted")

// archiveScan reads one archive.
type archiveScan struct {
	a     *Archive
	want  *Wanted
	found func(Digest, string)
	buf   []byte
}

func (s *archiveScan) file(ctx context.Context, path string) error {
	f, _, err := openRegular(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return s.stream(ctx, &bounded{r: f, stopped: ctx.Err, left: archiveLimit}, path, true)
}

// stream reads a stream of a kind that it finds out. What is none of those that
// are known is not read further. outer says that the archives in it are read too.
func (s *archiveScan) stream(ctx context.Context, r io.Reader, path string, outer bool) error {
	br := bufio.NewReaderSize(r, 64<<10)
	kind, err := sniff(br)
	if err != nil {
		return err
	}
	var plain io.Reader
	switch kind {
	case gzipStream:
		gz, err := gzip.NewReader(br)
		if err != nil {
			return err
		}
		plain = gz
	case zstdStream:
		d, err := zstd.NewReader(br, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(zstdWindow))
		if err != nil {
			return err
		}
		defer d.Close()
		plain = d
	case tarStream:
		return s.tar(ctx, br, path, outer)
	case catarStream:
		return s.catar(br, path)
	default:
		return nil // a manifest, or a blob that is no layer
	}
	br = bufio.NewReaderSize(&bounded{r: plain, stopped: ctx.Err, left: archiveLimit}, 64<<10)
	switch kind, err = sniff(br); {
	case err != nil:
		return err
	case kind == tarStream:
		return s.tar(ctx, br, path, outer)
	case kind == catarStream:
		return s.catar(br, path)
	}
	return nil
}

// layerName is what oci-archive and docker-archive call layers.
var layerName = regexp.MustCompile(`^(\./)?(blobs/sha256/[0-9a-f]{64}|[0-9a-f]{64}\.tar|[0-9a-f]{64}/layer\.tar)$`)

func (s *archiveScan) tar(ctx context.Context, r io.Reader, path string, outer bool) error {
	tr := tar.NewReader(r)
	for n := 0; ; n++ {
		h, err := tr.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		at := fmt.Sprintf("%s#%d", path, n)
		switch {
		case h.Typeflag != tar.TypeReg:
		case outer && layerName.MatchString(h.Name):
			err := s.stream(ctx, tr, at, false)
			if errors.Is(err, errEnough) || errors.Is(err, errSpool) || ctx.Err() != nil {
				return err
			}
			if err != nil {
				s.a.log.Warn("rest of a seed archive passed over", "seed", s.a.name, "file", h.Name, "reason", err)
			}
		default:
			if err := s.content(tr, h.Size, filepath.Base(h.Name), at); err != nil {
				return err
			}
		}
	}
}

func (s *archiveScan) catar(r io.Reader, path string) error {
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
		if err := s.content(cr, int64(e.Size), e.Name, fmt.Sprintf("%s#%d", path, n)); err != nil {
			return err
		}
	}
}

// content looks at one content of size bytes.
func (s *archiveScan) content(r io.Reader, size int64, name, at string) error {
	if s.want.Left() == 0 {
		return errEnough
	}
	if size <= 0 || !s.want.HasSize(size) {
		return nil
	}
	d, keep, err := s.a.spool.take(r, size, s.buf)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if !s.want.Take(d, size) {
		return keep("")
	}
	if err := keep(at); err != nil {
		return err
	}
	s.found(d, at)
	return nil
}

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
