// Package offline keeps a part of a repository in one file: what a device lacks of an image
// (docs/format/offline.md). A bundle is a tar of the repository's own files, so that
// whoever reads it checks what it always checks, and nothing else need be trusted.
package offline

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/internal/repo"
	"github.com/ociv2-sync/ociv2-sync/store"
)

// ErrMalformed means that a file is no bundle, or not all of one.
var ErrMalformed = errors.New("not a bundle, or not all of it")

// ErrLacks means that a bundle does not have something that the device needs: it was made
// for devices that have more.
var ErrLacks = errors.New("not in the bundle")

// chunksDir is where the chunks are, wherever the repository has them.
const chunksDir = "default.castr"

// Bundle is an open bundle. It implements repo.Files and store.Store; its methods may be
// called from several goroutines.
type Bundle struct {
	name  string
	data  io.ReaderAt
	close func() error
	ref   repo.Ref
	files map[string]span
}

// span is where a file lies in the bundle.
type span struct{ at, size int64 }

// Open opens the bundle in a file.
func Open(name string) (*Bundle, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("offline: %w", err)
	}
	b, err := read(name, f)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	b.close = f.Close
	return b, nil
}

// read reads the headers of a bundle.
func read(name string, r interface {
	io.ReadSeeker
	io.ReaderAt
},
) (*Bundle, error) {
	b := &Bundle{name: name, data: r, close: func() error { return nil }, files: make(map[string]span)}
	archive := tar.NewReader(r)
	end := int64(0)
	for {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) && b.ref.Name != "" {
			if err = ends(r, end); err == nil {
				return b, nil
			}
		}
		if err == nil {
			err = b.add(h, r)
		}
		if err == nil {
			end = b.files[h.Name].at + (h.Size+block-1)/block*block
		}
		if err != nil {
			return nil, fmt.Errorf("offline: %s: %w: %w", name, ErrMalformed, err)
		}
	}
}

const block = 512 // of a tar

// ends looks for the end of a tar at an offset: a bundle that was cut between two files has
// none.
func ends(r io.ReaderAt, at int64) error {
	var b, zeros [2 * block]byte
	if _, err := r.ReadAt(b[:], at); err != nil || b != zeros {
		return io.ErrUnexpectedEOF
	}
	return nil
}

// add takes in a file whose header has just been read.
func (b *Bundle) add(h *tar.Header, r io.Seeker) error {
	if h.Typeflag != tar.TypeReg {
		return fmt.Errorf("%.200q is not a regular file", h.Name)
	}
	if !fs.ValidPath(h.Name) || b.files[h.Name] != (span{}) {
		return fmt.Errorf("%.200q is no name of a file, or that of two", h.Name)
	}
	at, err := r.Seek(0, io.SeekCurrent)
	if err != nil {
		return err
	}
	if b.ref.Name == "" {
		if b.ref, err = refOf(b.name, h.Name); err != nil {
			return err
		}
	}
	b.files[h.Name] = span{at, h.Size}
	return nil
}

// refOf returns the image that a bundle has, as its first file tells: NAME/TAG.json or, for
// an image named by digest, its manifest.
func refOf(bundle, first string) (repo.Ref, error) {
	dir, file := path.Split(first)
	if tag, ok := strings.CutSuffix(file, ".json"); ok {
		return checkRef(repo.Ref{Repo: bundle, Name: path.Clean(dir), Tag: tag})
	}
	name, ok := strings.CutSuffix(dir, "/blobs/sha256/")
	d := digest.NewDigestFromEncoded(digest.SHA256, file)
	if !ok || d.Validate() != nil {
		return repo.Ref{}, fmt.Errorf("%.200q, the first file, tells no image", first)
	}
	return checkRef(repo.Ref{Repo: bundle, Name: name, Digest: d})
}

// checkRef refuses names that no repository has.
func checkRef(r repo.Ref) (repo.Ref, error) {
	plain := r
	plain.Repo = "/bundle"
	if _, err := repo.ParseRef(plain.String()); err != nil {
		return repo.Ref{}, err
	}
	return r, nil
}

// Ref names the image that the bundle has.
func (b *Bundle) Ref() repo.Ref { return b.ref }

// Close closes the bundle.
func (b *Bundle) Close() error { return b.close() }

// String returns the name of the file.
func (b *Bundle) String() string { return b.name }

// HasBlob reports whether the bundle has a blob of the image.
func (b *Bundle) HasBlob(d digest.Digest) bool {
	_, ok := b.files[b.ref.Name+"/blobs/sha256/"+d.Encoded()]
	return ok
}

// HasChunk reports whether the bundle has a chunk.
func (b *Bundle) HasChunk(id chunk.ID) bool {
	_, packed := b.files[chunkPath(id, store.Compressed)]
	_, raw := b.files[chunkPath(id, store.Raw)]
	return packed || raw
}

func (b *Bundle) lacks(path string) error {
	return fmt.Errorf("%s/%s: %w: %w", b, path, ErrLacks, store.ErrNotFound)
}

// ReadFile implements repo.Files.
func (b *Bundle) ReadFile(ctx context.Context, path string, limit int64) ([]byte, error) {
	s, ok := b.files[path]
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case !ok:
		return nil, b.lacks(path)
	case s.size > limit:
		return nil, fmt.Errorf("%s/%s: %w: more than %d bytes", b, path, store.ErrTooLarge, limit)
	}
	data, err := io.ReadAll(io.NewSectionReader(b.data, s.at, s.size)) // grows with what is there
	if err == nil && int64(len(data)) < s.size {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, fmt.Errorf("%s/%s: %w", b, path, err)
	}
	return data, nil
}

// OpenAt implements repo.Files.
func (b *Bundle) OpenAt(ctx context.Context, path string, offset, size int64) (io.ReadCloser, error) {
	s, ok := b.files[path]
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case !ok:
		return nil, b.lacks(path)
	case offset < 0 || size < 1 || offset > s.size || size > s.size-offset:
		return nil, fmt.Errorf("%s/%s: %w", b, path, io.ErrUnexpectedEOF)
	}
	return io.NopCloser(io.NewSectionReader(b.data, s.at+offset, size)), nil
}

// Get implements store.Store.
func (b *Bundle) Get(ctx context.Context, id chunk.ID, limit int64) (store.Packed, error) {
	for _, form := range []store.Form{store.Compressed, store.Raw} {
		data, err := b.ReadFile(ctx, chunkPath(id, form), limit)
		if err == nil || !errors.Is(err, ErrLacks) {
			return store.Packed{Form: form, Data: data}, err
		}
	}
	return store.Packed{}, b.lacks(chunkPath(id, store.Compressed))
}

func chunkPath(id chunk.ID, form store.Form) string {
	hex := id.String()
	name := chunksDir + "/" + hex[:4] + "/" + hex
	if form == store.Compressed {
		name += ".cacnk"
	}
	return name
}

// Writer writes a bundle. The first file says which image it has: see Open.
type Writer struct{ tar *tar.Writer }

// NewWriter returns a Writer to w.
func NewWriter(w io.Writer) *Writer { return &Writer{tar.NewWriter(w)} }

// File writes a file of the repository, of size bytes. The bytes of a bundle depend on its
// files alone: names, order and contents.
func (w *Writer) File(name string, size int64, r io.Reader) error {
	h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644}
	if err := w.tar.WriteHeader(h); err != nil {
		return fmt.Errorf("offline: %s: %w", name, err)
	}
	n, err := io.Copy(w.tar, r)
	if err == nil && n < size {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return fmt.Errorf("offline: %s: %w", name, err)
	}
	return nil
}

// Chunk writes a chunk.
func (w *Writer) Chunk(id chunk.ID, p store.Packed) error {
	return w.File(chunkPath(id, p.Form), int64(len(p.Data)), bytes.NewReader(p.Data))
}

// Close ends the bundle.
func (w *Writer) Close() error {
	if err := w.tar.Close(); err != nil {
		return fmt.Errorf("offline: %w", err)
	}
	return nil
}
