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
	"time"

	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/store"
)

// maxPut is the length in bytes of the largest chunk that is taken: one is in memory,
// twice, while it is verified.
const maxPut = 16 << 20

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
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, store.MaxPacked(maxPut)))
	if err != nil {
		status := http.StatusBadRequest
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			status = http.StatusRequestEntityTooLarge
		}
		fail(w, status)
		return
	}
	plain, id, err := verified(name, data)
	if err == nil && uint64(len(plain)) > maxPut {
		err = store.ErrTooLarge
	}
	if err != nil {
		s.logger.Warn("a chunk that was sent is refused", "chunk", id, "reason", err)
		fail(w, http.StatusUnprocessableEntity)
		return
	}
	switch err := s.create(name, data); {
	case errors.Is(err, fs.ErrExist):
		w.WriteHeader(http.StatusOK)
	case err != nil:
		s.logger.Error("cannot store a chunk", "name", name, "error", err)
		fail(w, http.StatusInternalServerError)
	default:
		w.WriteHeader(http.StatusCreated)
	}
}

// verified returns the bytes and the ID of the chunk whose file is called name.
func verified(name string, data []byte) ([]byte, chunk.ID, error) {
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
	plain, err := store.Check(nil, p, id)
	return plain, id, err
}

// create makes a file: written beside its place, synced, linked there unless there is
// one already.
func (s *Server) create(name string, data []byte) (err error) {
	dir := path.Dir(name)
	if err := s.root.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	tmp := path.Join(dir, "."+rand.Text()+tempSuffix)
	f, err := s.root.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o444)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.root.Remove(tmp)) }()
	if _, err = f.Write(data); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return s.root.Link(tmp, name)
}

// expand serves the uncompressed bytes of a chunk of which only the compressed ones
// are there, as desync's clients may ask for. It reports false if there are none.
func (s *Server) expand(w http.ResponseWriter, r *http.Request, name string) bool {
	f, fi, err := s.open(name + ".cacnk")
	if err != nil {
		return false
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, store.MaxPacked(chunk.MaxSize)))
	if err == nil {
		data, _, err = verified(name+".cacnk", data)
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
