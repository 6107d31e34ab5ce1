package ocisrc

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"github.com/ociv2-sync/ociv2-sync/translate"
)

const (
	// maxArchiveEntries bounds the index of an archive in memory: several
	// files a layer, and an archive may hold many images.
	maxArchiveEntries = 1 << 16
	// maxArchiveLinks is how many links may lead to a file.
	maxArchiveLinks = 8
)

// tarFS gives random access to the regular files of an uncompressed tar. It
// implements fs.FS; files read straight from the archive.
type tarFS struct {
	f     *os.File
	files map[string]tarEntry
}

// tarEntry is where a file's bytes are, or where a link points.
type tarEntry struct {
	off, size int64
	link      string // cleaned, from the top of the archive
}

// openTar indexes the archive called name. It seeks over contents.
func openTar(ctx context.Context, name string) (*tarFS, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	t := &tarFS{f: f, files: map[string]tarEntry{}}
	if err := t.index(ctx); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return t, nil
}

func (t *tarFS) index(ctx context.Context) error {
	var magic [4]byte
	if n, err := t.f.ReadAt(magic[:], 0); err != nil && err != io.EOF {
		return err
	} else if c := sniff(magic[:n]); c != "" {
		return fmt.Errorf("%w: the archive is compressed with %s, decompress it first", translate.ErrUnsupported, c)
	}
	tr := tar.NewReader(t.f)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		h, err := tr.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%w: reading the archive: %w", translate.ErrMalformed, err)
		}
		name := path.Clean(h.Name)
		if h.Typeflag == tar.TypeDir || !fs.ValidPath(name) {
			continue // nothing that anything here could refer to
		}
		if len(t.files) == maxArchiveEntries {
			return fmt.Errorf("%w: more than %d files in the archive", translate.ErrLimit, maxArchiveEntries)
		}
		switch h.Typeflag {
		case tar.TypeReg:
			// tar.Reader reads the file without a buffer: it stands at the content.
			off, err := t.f.Seek(0, io.SeekCurrent)
			if err != nil {
				return err
			}
			t.files[name] = tarEntry{off: off, size: h.Size}
		case tar.TypeLink:
			t.files[name] = tarEntry{link: path.Clean(h.Linkname)}
		case tar.TypeSymlink:
			t.files[name] = tarEntry{link: path.Join(path.Dir(name), h.Linkname)}
		}
	}
}

// entry returns the file called name, links followed.
func (t *tarFS) entry(name string) (tarEntry, error) {
	for range maxArchiveLinks {
		e, ok := t.files[path.Clean(name)]
		if !ok {
			return e, fs.ErrNotExist
		}
		if e.link == "" {
			return e, nil
		}
		name = e.link
	}
	return tarEntry{}, fmt.Errorf("%w: too many links", translate.ErrMalformed)
}

// Open implements fs.FS for regular files.
func (t *tarFS) Open(name string) (fs.File, error) {
	e, err := t.entry(name)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return &tarFile{SectionReader: io.NewSectionReader(t.f, e.off, e.size), name: path.Base(name)}, nil
}

// Close closes the archive.
func (t *tarFS) Close() error { return t.f.Close() }

// tarFile is an open file of a tarFS, and what fs.File's Stat says of it.
type tarFile struct {
	*io.SectionReader
	name string
}

func (f *tarFile) Stat() (fs.FileInfo, error) { return f, nil }
func (f *tarFile) Close() error               { return nil }
func (f *tarFile) Name() string               { return f.name }
func (f *tarFile) Mode() fs.FileMode          { return 0o444 }
func (f *tarFile) ModTime() time.Time         { return time.Time{} }
func (f *tarFile) IsDir() bool                { return false }
func (f *tarFile) Sys() any                   { return nil }

// sniff names the compression of what starts with b, empty if there is none.
func sniff(b []byte) string {
	switch {
	case strings.HasPrefix(string(b), "\x1f\x8b"):
		return "gzip"
	case strings.HasPrefix(string(b), "\x28\xb5\x2f\xfd"):
		return "zstd"
	case strings.HasPrefix(string(b), "\xfd7zX"):
		return "xz"
	case strings.HasPrefix(string(b), "BZh"):
		return "bzip2"
	}
	return ""
}
