package sftpserve

import (
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path"
	"sync"

	"github.com/pkg/sftp"

	"github.com/ociv2-sync/ociv2-sync/internal/sftpwire"
)

// mostParts is how many parts of files are read at a time.
const mostParts = 64

// parts answers requests for parts of files, which a client gets in one round trip
// (docs/format/protocol.md, section 4.1), beside what the library serves.
type parts struct {
	files *handlers
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
	p.turns <- struct{}{}
	p.busy.Go(func() {
		defer func() { <-p.turns }()
		var data []byte
		if err == nil {
			data, err = p.read(part)
		}
		if err != nil {
			data = binary.BigEndian.AppendUint32(nil, code(err))
			data = sftpwire.AppendString(sftpwire.AppendString(data, err.Error()), "")
			_ = p.out.Send(sftpwire.TypeStatus, id, data) // or the client is gone
			return
		}
		_ = p.out.Send(sftpwire.TypeData, id, sftpwire.AppendString(nil, data)) // as well
	})
	return true
}

func (p *parts) read(part sftpwire.Part) (_ []byte, err error) {
	name := part.Path
	if !path.IsAbs(name) {
		name = path.Join(p.start, name)
	}
	f, err := p.files.open(name, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return nil, status(err)
	}
	data := make([]byte, max(0, min(int64(part.Size), info.Size()-part.Offset)))
	n, err := f.ReadAt(data, part.Offset)
	if errors.Is(err, io.EOF) {
		err = nil // it is shorter now
	}
	return data[:n], status(err)
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
