package sftpserve

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/pkg/sftp"

	"github.com/ociv2-sync/ociv2-sync/internal/sftpwire"
)

// mostParts is how many parts of files are read at a time.
const mostParts = 64

// parts answers requests for parts of files, which a client gets in one round trip
// (docs/format/protocol.md, sections 4.1 and 4.2), beside what the library serves.
type parts struct {
	files *handlers
	blobs func([]byte, string) ([]string, error)
	start string // what relative paths are relative to
	out   *sftpwire.Writer

	turns chan struct{}
	busy  sync.WaitGroup
}

func wantsPart(kind byte, _ uint32) bool { return kind == sftpwire.TypeExtended }

// take is that of a [sftpwire.Reader].
func (p *parts) take(_ byte, id uint32, body []byte) bool {
	part, mine, err := sftpwire.ParsePart(body)
	if !mine {
		return false
	}
	if part.Blob > 0 && p.blobs == nil {
		return false
	}
	p.turns <- struct{}{}
	p.busy.Go(func() {
		defer func() { <-p.turns }()
		var data []byte
		var version, blob string
		if err == nil && part.Blob > 0 {
			blob, err = p.blob(part)
			part.Path = path.Join(path.Dir(part.Path), blob)
		}
		if err == nil {
			data, version, err = p.read(part)
		}
		if err != nil {
			data = binary.BigEndian.AppendUint32(nil, code(err))
			data = sftpwire.AppendString(sftpwire.AppendString(data, err.Error()), "")
			_ = p.out.Send(sftpwire.TypeStatus, id, data) // or the client is gone
			return
		}
		data = sftpwire.AppendString(sftpwire.AppendString(nil, data), version)
		if part.Blob > 0 {
			data = sftpwire.AppendString(data, blob)
		}
		_ = p.out.Send(sftpwire.TypeData, id, data) // as well
	})
	return true
}

// maxTag is the size of the largest TAG.json that is looked into.
const maxTag = 1 << 20

// blob returns the path of a blob, relative to the directory of the TAG.json that is
// asked about.
func (p *parts) blob(part sftpwire.Part) (string, error) {
	tag, _, err := p.read(sftpwire.Part{Path: part.Path, Size: maxTag})
	if err != nil {
		return "", err
	}
	names, err := p.blobs(tag, part.Platform)
	if err != nil {
		return "", err
	}
	if part.Blob > len(names) {
		return "", sftp.ErrSSHFxNoSuchFile
	}
	name := names[part.Blob-1]
	if !filepath.IsLocal(name) {
		return "", sftp.ErrSSHFxPermissionDenied
	}
	return name, nil
}

// read reads a part, and returns what tells the file from others that had or will have
// its name.
func (p *parts) read(part sftpwire.Part) (_ []byte, version string, err error) {
	name := part.Path
	if !path.IsAbs(name) {
		name = path.Join(p.start, name)
	}
	f, err := p.files.open(name, os.O_RDONLY)
	if err != nil {
		return nil, "", err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return nil, "", status(err)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		version = fmt.Sprintf("%x-%x-%x", st.Ino, info.Size(), info.ModTime().UnixNano())
	}
	data := make([]byte, max(0, min(int64(part.Size), info.Size()-part.Offset)))
	n, err := f.ReadAt(data, part.Offset)
	if errors.Is(err, io.EOF) {
		err = nil // it is shorter now
	}
	return data[:n], version, status(err)
}

// code returns the code of an error that [status] has returned.
func code(err error) uint32 {
	switch {
	case errors.Is(err, sftp.ErrSSHFxNoSuchFile):
		return sftpwire.StatusNoSuchFile
	case errors.Is(err, sftp.ErrSSHFxPermissionDenied):
		return sftpwire.StatusPermissionDenied
	}
	return sftpwire.StatusFailure
}
