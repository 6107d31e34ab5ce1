// Package sftpserve is an SFTP server on a stream, such as the standard input
// and output of a command that sshd has started: what this program's ssh URLs
// find on the far side (docs/format/protocol.md, section 4).
//
// It serves files and directories, no links, owners and modes. A file is on the
// disk when it is closed, and a name when it is given, so that a client need not
// ask for either.
package sftpserve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/pkg/sftp"

	"github.com/ociv2-sync/ociv2-sync/internal/sftpwire"
)

// Options say what is served.
type Options struct {
	// Confine is the directory that is served as "/", out of which no name and no
	// symbolic link leads. "" means everything that this process can reach.
	Confine string
	// ReadOnly refuses to change anything.
	ReadOnly bool
	// Blobs returns the paths of the blobs of an image for a platform, relative to the
	// directory of its TAG.json, given what is in that. nil answers no requests for them.
	Blobs func(tag []byte, platform string) ([]string, error)
}

// Serve serves one session until the client ends it, which is no error, or ctx
// ends. It closes the stream.
func Serve(ctx context.Context, stream io.ReadWriteCloser, o Options) (err error) {
	h := &handlers{fsys: everything{}, readOnly: o.ReadOnly}
	own := &parts{files: h, blobs: o.Blobs, start: "/", out: sftpwire.NewWriter(stream), turns: make(chan struct{}, mostParts)}
	var options []sftp.RequestServerOption
	if o.Confine != "" {
		root, err := os.OpenRoot(o.Confine)
		if err != nil {
			return errors.Join(fmt.Errorf("serve: %w", err), stream.Close())
		}
		defer root.Close()
		h.fsys, h.confined = root, true
	} else if dir, err := os.Getwd(); err == nil {
		own.start = dir
		options = append(options, sftp.WithStartDirectory(dir))
	}
	server := sftp.NewRequestServer(session{sftpwire.NewReader(stream, wantsPart, own.take), own.out, stream}, sftp.Handlers{FileGet: h, FilePut: h, FileCmd: h, FileList: h}, options...)
	stop := context.AfterFunc(ctx, func() { _ = stream.Close() })
	defer stop()
	err = server.Serve()
	_ = stream.Close() // what is still being answered is for nobody
	own.busy.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = nil // the client is gone
	}
	if err != nil {
		err = fmt.Errorf("serve: %w", err)
	}
	return errors.Join(err, server.Close())
}

// session is the stream, with requests of our own taken out of it.
type session struct {
	io.Reader
	io.Writer
	io.Closer
}

// filesystem is what is served: an [os.Root], or everything.
type filesystem interface {
	OpenFile(name string, flag int, perm fs.FileMode) (*os.File, error)
	Stat(name string) (fs.FileInfo, error)
	Lstat(name string) (fs.FileInfo, error)
	Mkdir(name string, perm fs.FileMode) error
	Remove(name string) error
	Rename(from, to string) error
	Link(from, to string) error
}

// everything is the file system as this process sees it.
type everything struct{}

func (everything) OpenFile(name string, flag int, perm fs.FileMode) (*os.File, error) {
	return os.OpenFile(name, flag, perm)
}
func (everything) Stat(name string) (fs.FileInfo, error)     { return os.Stat(name) }
func (everything) Lstat(name string) (fs.FileInfo, error)    { return os.Lstat(name) }
func (everything) Mkdir(name string, perm fs.FileMode) error { return os.Mkdir(name, perm) }
func (everything) Remove(name string) error                  { return os.Remove(name) }
func (everything) Rename(from, to string) error              { return os.Rename(from, to) }
func (everything) Link(from, to string) error                { return os.Link(from, to) }

type handlers struct {
	fsys     filesystem
	confined bool
	readOnly bool
}

// name returns the name in the file system of a client's path, which is absolute.
func (h *handlers) name(p string) string {
	p = path.Clean("/" + p)
	if !h.confined {
		return p
	}
	if p == "/" {
		return "."
	}
	return p[1:]
}

// Fileread implements sftp.FileReader.
func (h *handlers) Fileread(r *sftp.Request) (io.ReaderAt, error) {
	return h.open(r.Filepath, os.O_RDONLY)
}

// open opens a regular file.
func (h *handlers) open(p string, flags int) (*os.File, error) {
	f, err := h.fsys.OpenFile(h.name(p), flags|syscall.O_NONBLOCK, 0o666) // not to hang on a FIFO
	if err != nil {
		return nil, status(err)
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = fmt.Errorf("%s: not a regular file", p)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// Filewrite implements sftp.FileWriter.
func (h *handlers) Filewrite(r *sftp.Request) (io.WriterAt, error) {
	if h.readOnly {
		return nil, sftp.ErrSSHFxPermissionDenied
	}
	want := r.Pflags()
	flags := os.O_WRONLY
	for flag, given := range map[int]bool{os.O_CREATE: want.Creat, os.O_EXCL: want.Excl, os.O_TRUNC: want.Trunc} {
		if given {
			flags |= flag
		}
	}
	f, err := h.open(r.Filepath, flags)
	if err != nil {
		return nil, err
	}
	return synced{f}, nil
}

// synced is a file that is on the disk when it is closed.
type synced struct{ *os.File }

func (f synced) Close() error { return errors.Join(f.Sync(), f.File.Close()) }

// Filecmd implements sftp.FileCmder.
func (h *handlers) Filecmd(r *sftp.Request) error {
	if h.readOnly {
		return sftp.ErrSSHFxPermissionDenied
	}
	from, to := h.name(r.Filepath), h.name(r.Target)
	var err error
	switch r.Method {
	case "Mkdir":
		err = h.named(from, h.fsys.Mkdir(from, 0o777))
	case "Remove", "Rmdir":
		err = h.fsys.Remove(from)
	case "Link":
		err = h.named(to, h.fsys.Link(from, to))
	case "Rename": // fails where there is a file
		if err = h.named(to, h.fsys.Link(from, to)); err == nil {
			err = h.fsys.Remove(from)
		}
	default:
		return sftp.ErrSSHFxOpUnsupported
	}
	return status(err)
}

// PosixRename implements sftp.PosixRenameFileCmder.
func (h *handlers) PosixRename(r *sftp.Request) error {
	if h.readOnly {
		return sftp.ErrSSHFxPermissionDenied
	}
	to := h.name(r.Target)
	return status(h.named(to, h.fsys.Rename(h.name(r.Filepath), to)))
}

// named returns err, or when there is none once the name given is on the disk.
func (h *handlers) named(name string, err error) error {
	if err != nil {
		return err
	}
	d, err := h.fsys.OpenFile(filepath.Dir(name), os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	if err = d.Sync(); errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOTSUP) {
		err = nil // a file system that cannot
	}
	return errors.Join(err, d.Close())
}

// Filelist implements sftp.FileLister.
func (h *handlers) Filelist(r *sftp.Request) (sftp.ListerAt, error) {
	name := h.name(r.Filepath)
	if r.Method == "Stat" {
		return one(h.fsys.Stat(name))
	}
	if r.Method != "List" {
		return nil, sftp.ErrSSHFxOpUnsupported
	}
	d, err := h.fsys.OpenFile(name, os.O_RDONLY|syscall.O_DIRECTORY, 0)
	if err != nil {
		return nil, status(err)
	}
	infos, err := d.Readdir(-1)
	return lister(infos), status(errors.Join(err, d.Close()))
}

// Lstat implements sftp.LstatFileLister.
func (h *handlers) Lstat(r *sftp.Request) (sftp.ListerAt, error) {
	return one(h.fsys.Lstat(h.name(r.Filepath)))
}

func one(fi fs.FileInfo, err error) (sftp.ListerAt, error) {
	if err != nil {
		return nil, status(err)
	}
	return lister{fi}, nil
}

type lister []fs.FileInfo

// ListAt implements sftp.ListerAt.
func (l lister) ListAt(to []fs.FileInfo, at int64) (int, error) {
	if at >= int64(len(l)) {
		return 0, io.EOF
	}
	n := copy(to, l[at:])
	if n < len(to) {
		return n, io.EOF
	}
	return n, nil
}

// status returns what the client is told of an error: no more of the path than
// it has named.
func status(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return sftp.ErrSSHFxNoSuchFile
	case errors.Is(err, fs.ErrPermission):
		return sftp.ErrSSHFxPermissionDenied
	}
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		err = e.Err
	} else if e, ok := errors.AsType[*os.LinkError](err); ok {
		err = e.Err
	}
	return errors.New(strings.TrimSpace(err.Error()))
}
