package sftpstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pkg/sftp"

	"github.com/ociv2-sync/ociv2-sync/internal/sftpwire"
)

// errNoParts says that the far side does not know requests for parts of files.
var errNoParts = errors.New("no such request there")

// parts asks for parts of files in one round trip, where this program is the far side
// (docs/format/protocol.md, section 4.1), beside what the library asks for.
type parts struct {
	out  *sftpwire.Writer
	none atomic.Bool // they are not known there

	mu     sync.Mutex
	last   uint32
	ended  bool
	coming map[uint32]*partRead
}

// partRead is a part on its way. The others are set when done is closed.
type partRead struct {
	sent time.Time
	done chan struct{}
	took time.Duration // until the answer began
	data []byte
	of   string // the version of the file
	err  error
}

// wants and take are those of a [sftpwire.Reader].
func (p *parts) wants(_ byte, id uint32) bool {
	if id < sftpwire.OwnIDs {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if r := p.coming[id]; r != nil {
		r.took = time.Since(r.sent)
	}
	return true
}

func (p *parts) take(kind byte, id uint32, body []byte) bool {
	p.mu.Lock()
	r := p.coming[id]
	delete(p.coming, id)
	p.mu.Unlock()
	if r == nil {
		return false // an answer to nothing, which the library takes for the end
	}
	r.data, r.of, r.err = answer(kind, body)
	if errors.Is(r.err, errNoParts) {
		p.none.Store(true)
	}
	close(r.done)
	return true
}

// answer reads the answer to a request.
func answer(kind byte, body []byte) (data []byte, version string, err error) {
	switch kind {
	case sftpwire.TypeData:
		data, rest, ok := sftpwire.CutString(body)
		of, rest, also := sftpwire.CutString(rest)
		if ok && also && len(rest) == 0 {
			return data, string(of), nil
		}
	case sftpwire.TypeStatus:
		if len(body) < 4 {
			break
		}
		code := binary.BigEndian.Uint32(body)
		text, _, _ := sftpwire.CutString(body[4:])
		switch code {
		case sftpwire.StatusNoSuchFile:
			return nil, "", fs.ErrNotExist
		case sftpwire.StatusPermissionDenied:
			return nil, "", fs.ErrPermission
		case sftpwire.StatusUnsupported:
			return nil, "", errNoParts
		}
		return nil, "", fmt.Errorf("the server says: %q (code %d)", text[:min(len(text), 200)], code)
	}
	return nil, "", fmt.Errorf("%w: answer of type %d", sftpwire.ErrMalformed, kind)
}

// fail ends what is on its way, and whatever is asked for from now on.
func (p *parts) fail() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = true
	for _, r := range p.coming {
		r.err = sftp.ErrSSHFxConnectionLost
		close(r.done)
	}
	p.coming = nil
}

// request asks for a part.
func (p *parts) request(part sftpwire.Part) *partRead {
	r := &partRead{sent: time.Now(), done: make(chan struct{})}
	p.mu.Lock()
	if p.ended {
		p.mu.Unlock()
		r.err = sftp.ErrSSHFxConnectionLost
		close(r.done)
		return r
	}
	p.last++
	id := sftpwire.OwnIDs | p.last
	p.coming[id] = r
	p.mu.Unlock()
	// Where that fails the session ends, and with it what is on its way.
	_ = p.out.Send(sftpwire.TypeExtended, id, part.Append(nil))
	return r
}

// read reads the first size bytes of a file, or all if it has fewer. The error is
// errNoParts if the file was replaced meanwhile.
func (p *parts) read(name string, size int64) (data []byte, took time.Duration, err error) {
	var coming []*partRead
	for at := int64(0); at < size; at += sftpwire.MaxPart {
		coming = append(coming, p.request(sftpwire.Part{Path: name, Offset: at, Size: int(min(size-at, sftpwire.MaxPart))}))
	}
	ended := false
	for _, r := range coming {
		<-r.done
		took = max(took, r.took)
		switch {
		case err != nil:
		case r.err != nil:
			err = r.err
		case r.of != coming[0].of:
			err = errNoParts
		case !ended:
			data = append(data, r.data...)
			ended = len(r.data) < sftpwire.MaxPart
		}
	}
	return data, took, err
}
