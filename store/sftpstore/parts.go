package sftpstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pkg/sftp"

	"github.com/ociv2-sync/ociv2-sync/internal/flow"
	"github.com/ociv2-sync/ociv2-sync/internal/sftpwire"
)

// errNoParts says that the far side does not know requests for parts of files.
var errNoParts = errors.New("no such request there")

// parts asks for parts of files in one round trip, where this program is the far side
// (docs/format/protocol.md, sections 4.1 and 4.2), beside what the library asks for.
type parts struct {
	out  *sftpwire.Writer
	flow *flow.Window
	none atomic.Bool // they are not known there

	mu       sync.Mutex
	last     uint32
	ended    bool
	coming   map[uint32]*partRead
	expected []*partRead // those asked for beforehand and not read yet, in order
}

func newParts(out *sftpwire.Writer, window *flow.Window) *parts {
	return &parts{out: out, flow: window, coming: make(map[uint32]*partRead)}
}

// partRead is a part on its way. The others are set when done is closed.
type partRead struct {
	part  sftpwire.Part
	early bool // before the session was opened
	sent  time.Time
	done  chan struct{}
	data  []byte
	of    string // the version of the file
	blob  string // its path, if the request does not tell
	err   error
}

// whole reports whether the file ends in what has come.
func (r *partRead) whole() bool { return len(r.data) < r.part.Size }

// wants and take are those of a [sftpwire.Reader].
func (p *parts) wants(_ byte, id uint32) bool {
	if id < sftpwire.OwnIDs {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.coming[id]
	switch {
	case r == nil:
	case r.early: // ssh has gone there and back several times since it was sent
		p.flow.Guess(time.Since(r.sent) / openTrips)
	default:
		p.flow.Answered(time.Since(r.sent))
	}
	return true
}

// openTrips is about how many round trips OpenSSH takes to open a session.
const openTrips = 8

func (p *parts) take(kind byte, id uint32, body []byte) bool {
	p.mu.Lock()
	r := p.coming[id]
	delete(p.coming, id)
	p.mu.Unlock()
	if r == nil {
		return false // an answer to nothing, which the library takes for the end
	}
	r.data, r.of, r.blob, r.err = answer(kind, body)
	if errors.Is(r.err, errNoParts) && r.part.Blob == 0 {
		p.none.Store(true)
	}
	p.flow.Arrived(len(r.data))
	close(r.done)
	return true
}

// answer reads the answer to a request. blob is "" where the request is for a file.
func answer(kind byte, body []byte) (data []byte, version, blob string, err error) {
	switch kind {
	case sftpwire.TypeData:
		data, rest, ok := sftpwire.CutString(body)
		of, rest, also := sftpwire.CutString(rest)
		if !ok || !also {
			break
		}
		if len(rest) == 0 {
			return data, string(of), "", nil
		}
		if name, rest, ok := sftpwire.CutString(rest); ok && len(rest) == 0 {
			return data, string(of), string(name), nil
		}
	case sftpwire.TypeStatus:
		if len(body) < 4 {
			break
		}
		code := binary.BigEndian.Uint32(body)
		text, _, _ := sftpwire.CutString(body[4:])
		switch code {
		case sftpwire.StatusNoSuchFile:
			return nil, "", "", fs.ErrNotExist
		case sftpwire.StatusPermissionDenied:
			return nil, "", "", fs.ErrPermission
		case sftpwire.StatusUnsupported:
			return nil, "", "", errNoParts
		}
		return nil, "", "", fmt.Errorf("the server says: %q (code %d)", text[:min(len(text), 200)], code)
	}
	return nil, "", "", fmt.Errorf("%w: answer of type %d", sftpwire.ErrMalformed, kind)
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

// request asks for a part; early says that the session is not open yet.
func (p *parts) request(part sftpwire.Part, early bool) *partRead {
	r := &partRead{part: part, early: early, sent: time.Now(), done: make(chan struct{})}
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

// expect asks for what will be read first.
func (p *parts) expect(all []sftpwire.Part) {
	reads := make([]*partRead, len(all))
	for i, part := range all {
		reads[i] = p.request(part, true)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.expected = reads
}

// claim returns what was asked for beforehand of a file, in the order of its parts.
func (p *parts) claim(name string) (claimed []*partRead) {
	p.mu.Lock()
	all := p.expected
	p.mu.Unlock()
	if len(all) == 0 {
		return nil
	}
	is := func(r *partRead) bool { return r.part.Blob == 0 && r.part.Path == name }
	if !slices.ContainsFunc(all, is) {
		// It may be a blob: what they are is only known from the answers.
		is = func(r *partRead) bool {
			<-r.done
			return r.err == nil && r.part.Blob > 0 && path.Join(path.Dir(r.part.Path), r.blob) == name
		}
	}
	for _, r := range all {
		if is(r) && r.part.Offset == int64(len(claimed))*sftpwire.MaxPart {
			claimed = append(claimed, r)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.expected = slices.DeleteFunc(slices.Clone(p.expected), func(r *partRead) bool { return slices.Contains(claimed, r) })
	return claimed
}

// read reads a file, or the beginning of one of more than limit bytes; where that is
// much, and the size of the file not known, up to 256 KiB. ended reports whether that is
// all of it. The error is errNoParts if the file was replaced meanwhile.
func (p *parts) read(name string, limit int64) (data []byte, ended bool, err error) {
	coming := p.claim(name)
	size := min(limit+1, maxWhole)
	if limit > small && (len(coming) == 0 || coming[0].part.Blob == 0) {
		size = sftpwire.MaxPart
	}
	// What was asked for of a blob has come.
	if n := len(coming); n == 0 || coming[0].part.Blob > 0 && !coming[n-1].whole() {
		for at := int64(n) * sftpwire.MaxPart; at < size; at += sftpwire.MaxPart {
			part := sftpwire.Part{Path: name, Offset: at, Size: int(min(size-at, sftpwire.MaxPart))}
			coming = append(coming, p.request(part, false))
		}
	}
	for _, r := range coming {
		<-r.done
		switch {
		case err != nil:
		case r.err != nil:
			err = r.err
		case r.of != coming[0].of:
			err = errNoParts
		case !ended:
			data, ended = append(data, r.data...), r.whole()
		}
	}
	return data, ended, err
}
