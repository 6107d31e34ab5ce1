package chunkserver

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// dir is a directory of which files are served.
type dir struct {
	*os.Root
	self *os.File // the same directory
}

func openDir(name string) (*dir, error) {
	root, err := os.OpenRoot(name)
	if err != nil {
		return nil, err
	}
	self, err := root.Open(".")
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return &dir{Root: root, self: self}, nil
}

// Close releases the directory.
func (d *dir) Close() error { return errors.Join(d.Root.Close(), d.self.Close()) }

// open opens the file name if it is a regular one.
func (d *dir) open(name string) (*os.File, fs.FileInfo, error) {
	f, err := d.beneath(name)
	if err != nil {
		// Whatever the reason, an old kernel's or the file's: this is what to go by.
		f, err = d.OpenFile(name, reading, 0)
	}
	if err != nil {
		return nil, nil, err
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = fs.ErrNotExist
	}
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return f, fi, nil
}

// reading has O_NONBLOCK not to hang on a FIFO.
const reading = os.O_RDONLY | syscall.O_NONBLOCK

// beneath opens a file as [os.Root] does, which opens each directory on the way, in one
// system call (Linux 5.6).
func (d *dir) beneath(name string) (*os.File, error) {
	fd, err := unix.Openat2(int(d.self.Fd()), name, &unix.OpenHow{
		Flags:   uint64(reading | unix.O_CLOEXEC),
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// Corker is a connection that can be told to keep back what is written to it next until
// more is, as far as that goes: it is the header of a response, which then goes in one
// packet with the first bytes of the file behind it.
type Corker interface{ Cork() }

type corkerKey struct{}

// WithConn returns a context that has the connection c of a request, if that is a
// [Corker]. It is for [http.Server.ConnContext].
func WithConn(ctx context.Context, c net.Conn) context.Context {
	if corker, ok := c.(Corker); ok {
		return context.WithValue(ctx, corkerKey{}, corker)
	}
	return ctx
}

// serveFile answers as [http.ServeContent] does, with less work for what is mostly asked
// for: all of a file, by HTTP/1 without TLS.
func serveFile(w http.ResponseWriter, r *http.Request, f *os.File, size int64, modified time.Time) {
	corker, ok := r.Context().Value(corkerKey{}).(Corker)
	if !ok || size == 0 || !all(r) {
		http.ServeContent(w, r, "", modified, f)
		return
	}
	h := w.Header()
	h.Set("Accept-Ranges", "bytes")
	h.Set("Content-Length", strconv.FormatInt(size, 10))
	if !modified.IsZero() {
		h.Set("Last-Modified", modified.UTC().Format(http.TimeFormat))
	}
	corker.Cork()
	// net/http would read the first bytes of the file to send them with the header.
	if http.NewResponseController(w).Flush() == nil {
		_, _ = io.CopyN(w, f, size) // or nobody listens: what is missing ends the connection
	}
}

// all reports whether a request is for a file whatever the client has of it.
func all(r *http.Request) bool {
	for _, name := range []string{"Range", "If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since", "If-Range"} {
		if _, ok := r.Header[name]; ok {
			return false
		}
	}
	return r.Method == http.MethodGet
}
