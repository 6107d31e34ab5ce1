package chunkserver

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path"
	"strings"
	"syscall"
	"time"

	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/store"
)

// maxPut is the length in bytes of the largest chunk that is taken.
const maxPut = 16 << 20

// verifying is how many chunks that clients send are in memory at a time, each twice; the
// others are in files until it is their turn.
const verifying = 2

// put takes a chunk that a client writes. It appears whole, under its name, when its
// bytes have turned out to be what the name says; a chunk that is there is kept as it
// is, and what was sent is dropped.
func (s *Server) put(w http.ResponseWriter, r *http.Request) {
	name, _ := strings.CutPrefix(r.URL.Path, "/")
	if kindOf(name) != chunkKind {
		fail(w, http.StatusForbidden)
		return
	}
	if _, err := s.root.Lstat(name); err == nil {
		w.WriteHeader(http.StatusOK)
		return
	}
	most := store.MaxPacked(maxPut)
	if r.ContentLength > most {
		fail(w, http.StatusRequestEntityTooLarge)
		return
	}
	err := s.receive(name, http.MaxBytesReader(w, r.Body, most))
	var status int
	switch {
	case err == nil:
		w.WriteHeader(http.StatusCreated)
		return
	case errors.Is(err, fs.ErrExist):
		w.WriteHeader(http.StatusOK)
		return
	case errors.Is(err, errWrong):
		s.logger.Warn("a chunk that was sent is refused", "name", name, "reason", err)
		status = http.StatusUnprocessableEntity
	case errors.Is(err, errTransfer):
		status = http.StatusBadRequest
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			status = http.StatusRequestEntityTooLarge
		}
	default:
		s.logger.Error("cannot store a chunk", "name", name, "error", err)
		status = http.StatusInternalServerError
		if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
			status = http.StatusInsufficientStorage
		}
	}
	fail(w, status)
}

var (
	errTransfer = errors.New("it did not all come") // what a client sends
	errWrong    = errors.New("it is not what its name says")
)

// transfer marks the errors of what a client sends.
type transfer struct{ io.Reader }

func (t transfer) Read(p []byte) (int, error) {
	n, err := t.Reader.Read(p)
	if err != nil && err != io.EOF { //nolint:errorlint // io.Reader
		err = fmt.Errorf("%w: %w", errTransfer, err)
	}
	return n, err
}

// receive makes the file of a chunk: written beside its place, verified, synced, linked
// there unless there is one already.
func (s *Server) receive(name string, body io.Reader) (err error) {
	dir := path.Dir(name)
	place := path.Dir(dir) // of the store: what is refused leaves no directory in it
	if err := s.root.MkdirAll(place, 0o777); err != nil {
		return err
	}
	tmp := path.Join(place, "."+rand.Text()+tempSuffix)
	f, err := s.root.OpenFile(tmp, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o444)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.root.Remove(tmp)) }()
	size, err := io.Copy(f, transfer{body})
	if err == nil {
		err = s.verifyFile(name, io.NewSectionReader(f, 0, size))
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := s.root.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	return s.root.Link(tmp, name)
}

// verifyFile checks what came as the chunk whose file is called name.
func (s *Server) verifyFile(name string, r *io.SectionReader) error {
	s.verifying <- struct{}{}
	defer func() { <-s.verifying }()
	data := make([]byte, r.Size())
	if _, err := io.ReadFull(r, data); err != nil {
		return err
	}
	if _, _, err := verified(name, data, maxPut); err != nil {
		return fmt.Errorf("%w: %w", errWrong, err)
	}
	return nil
}

// verified returns the bytes and the ID of the chunk whose file is called name. It has at
// most limit bytes.
func verified(name string, data []byte, limit uint64) ([]byte, chunk.ID, error) {
	base, packed := strings.CutSuffix(path.Base(name), ".cacnk")
	id, err := chunk.ParseID(base)
	if err != nil {
		return nil, id, err
	}
	p := store.Packed{Form: store.Raw, Data: data}
	if packed {
		p.Form = store.Compressed
	}
	if len(data) == 0 {
		return nil, id, store.ErrCorrupt // there are no empty chunks
	}
	plain, err := store.CheckWithin(nil, p, id, limit)
	return plain, id, err
}

// expand serves the uncompressed bytes of a chunk of which only the compressed ones
// are there, as desync's clients may ask for. It reports false if there are none.
func (s *Server) expand(w http.ResponseWriter, r *http.Request, name string) bool {
	f, fi, err := s.root.open(name + ".cacnk")
	if err != nil {
		return false
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, store.MaxPacked(chunk.MaxSize)))
	if err == nil {
		data, _, err = verified(name+".cacnk", data, chunk.MaxSize)
	}
	if err != nil {
		s.logger.Error("cannot serve a chunk", "name", name, "error", fmt.Errorf("%s: %w", fi.Name(), err))
		fail(w, http.StatusInternalServerError)
		return true
	}
	chunkKind.headers(w, chunkKind.tagOf(name, data))
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
	return true
}
