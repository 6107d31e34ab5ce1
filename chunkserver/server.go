// Package chunkserver serves the files of a repository, or of a plain casync
// chunk store, over HTTP.
//
// It is a convenience: any static web server does as well, and clients must not
// see a difference. It adds what a web server has to be told: what may be cached
// for ever (chunks and blobs, which are named by their content) and what must be
// asked for each time (TAG.json, TAG.caidx, index.json, catalog.json).
//
// Nothing but the files of a repository is served, whatever else lies in the
// directory: see kindOf. There are no directory listings. Every file is opened
// beneath the directory, as by [os.Root], so that no path and no symbolic link
// leads out of it.
package chunkserver

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path"
	"strings"
	"syscall"
)

// Options say how a server behaves. The zero value works.
type Options struct {
	// Logger is told about failures to read files. nil means nobody is.
	Logger *slog.Logger
	// Write takes chunks that clients PUT, verified. Who may is for the caller to
	// see to.
	Write bool
}

// Server is an [http.Handler] for GET and HEAD, and for PUT of chunks where that is
// allowed. A chunk is served uncompressed, under its name without suffix, also if only
// the compressed one is there. Close it when no request is
// served any more.
type Server struct {
	root   *dir
	logger *slog.Logger
	write  bool

	verifying chan struct{} // has room for as many as verifying
}

// New returns a server of the files in dir: a repository, a layout of one, or a
// chunk store.
func New(dir string, o Options) (*Server, error) {
	root, err := openDir(dir)
	if err != nil {
		return nil, fmt.Errorf("chunkserver: %w", err)
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Server{root: root, logger: o.Logger, write: o.Write, verifying: make(chan struct{}, verifying)}, nil
}

// Close releases the directory.
func (s *Server) Close() error { return s.root.Close() }

// Ready reports whether the directory is there, and still the one of its name: not one
// that was replaced or unmounted since.
func (s *Server) Ready() error { return inPlace(s.root.Root) }

// inPlace checks that root is the directory that its name leads to.
func inPlace(root *os.Root) error {
	was, err := root.Stat(".")
	if err != nil {
		return fmt.Errorf("chunkserver: %w", err)
	}
	now, err := os.Stat(root.Name())
	if err != nil {
		return fmt.Errorf("chunkserver: %w", err)
	}
	if !os.SameFile(was, now) {
		return fmt.Errorf("chunkserver: %s is another directory now", root.Name())
	}
	return nil
}

// ServeHTTP implements [http.Handler]. Ranges, conditional requests, HEAD and
// Content-Length are those of [http.ServeContent].
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	allow := readOnly
	if s.write {
		allow += ", " + http.MethodPut
	}
	if r.Method == http.MethodPut && s.write {
		s.put(w, r)
		return
	}
	name, k, ok := published(w, r, allow)
	if !ok {
		return
	}
	f, fi, err := s.root.open(name)
	if err != nil && k == chunkKind && absent(err) && path.Ext(name) == "" && s.expand(w, r, name) {
		return
	}
	if err != nil {
		status := http.StatusNotFound
		if !absent(err) {
			status = http.StatusInternalServerError
			s.logger.Error("cannot serve a file", "name", name, "error", err)
		}
		fail(w, status)
		return
	}
	defer f.Close()
	k.headers(w, k.fileTag(name, fi))
	serveFile(w, r, f, fi.Size(), fi.ModTime())
}

// absent reports whether err, of [os.Root.OpenFile], means that there is no such
// file inside the root. What leads out of it comes as an error without errno.
func absent(err error) bool {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) ||
		errors.Is(err, syscall.ENAMETOOLONG) || errors.Is(err, syscall.ELOOP) || errors.Is(err, syscall.ENXIO) {
		return true
	}
	_, errno := errors.AsType[syscall.Errno](err)
	return !errno
}

// readOnly are the methods that are answered with a file.
const readOnly = http.MethodGet + ", " + http.MethodHead

// published returns the file that a request is for, unless it is none, or the
// request not one that is answered with a file: that is then said, with the methods
// that are allowed.
func published(w http.ResponseWriter, r *http.Request, allow string) (name string, k *kind, ok bool) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", allow)
		fail(w, http.StatusMethodNotAllowed)
		return "", nil, false
	}
	name, ok = strings.CutPrefix(r.URL.Path, "/")
	if k = kindOf(name); !ok || k == nil {
		fail(w, http.StatusNotFound)
		return "", nil, false
	}
	return name, k, true
}

// fail answers with a status and nothing that a cache might keep.
func fail(w http.ResponseWriter, status int) {
	w.Header().Set("Cache-Control", "no-store")
	http.Error(w, http.StatusText(status), status)
}
