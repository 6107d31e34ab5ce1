package sftpstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/pkg/sftp"

	"github.com/ociv2-sync/ociv2-sync/internal/flow"
	"github.com/ociv2-sync/ociv2-sync/store"
)

const (
	// packet is how much of a file one request asks for. Where more is asked for, it
	// is in several requests at once, and a short answer is the end of the file.
	packet = 32 << 10
	// small is the limit up to which a file is asked for whole before its size is
	// known.
	small = 1 << 20
	// maxWhole is how much of a file of known size is asked for at once.
	maxWhole = 16 << 20
)

// ReadFile returns the contents of a file, of at most limit bytes: the error
// wraps [store.ErrNotFound] or [store.ErrTooLarge] else. From this program it takes one
// round trip, up to 1 MiB; and 256 KiB where the limit is more. Elsewhere it takes two,
// one to open the file and one for what is in it, and a third for the rest of a file
// of more than 32 KiB whose limit is more than 1 MiB. What has come when the
// connection breaks is kept there, if the file is still the same.
func (d *Dir) ReadFile(ctx context.Context, name string, limit int64) ([]byte, error) {
	w := &whole{limit: limit, flow: d.conn.flow}
	tried := false
	err := d.doLink(ctx, name, func(l *link) error {
		// Where a connection does not last for all parts, it is read on elsewhere.
		if l.parts != nil && !l.parts.none.Load() && !tried {
			tried = true
			whole, err := w.readParts(ctx, l.parts, d.path(name))
			if whole || err != nil && !errors.Is(err, errNoParts) {
				return err
			}
		}
		sent := time.Now()
		f, err := l.client.Open(d.path(name))
		d.conn.flow.Answered(time.Since(sent))
		if err != nil {
			return err
		}
		defer d.conn.release(f)
		// Files are opened ahead of their turn: were all of those that are asked for at
		// a time read at once, they would be opened at once as well, while the link has
		// nothing to do.
		return w.inTurn(ctx, func() error { return w.read(f) })
	})
	if err != nil {
		return nil, err
	}
	if cap(w.data) > 2*len(w.data) {
		return slices.Clone(w.data), nil
	}
	return slices.Clip(w.data), nil
}

// whole reads a file, in several sessions if need be.
type whole struct {
	limit int64
	flow  *flow.Window
	data  []byte      // what has come, from the beginning on
	info  os.FileInfo // of the file that this is of; nil: not known
}

// inTurn has read read when the link has use for it.
func (w *whole) inTurn(ctx context.Context, read func() error) error {
	cost, err := w.flow.Enter(ctx, w.limit)
	if err != nil {
		return err
	}
	had, brought := len(w.data), int64(-1)
	if err = read(); err == nil || errors.Is(err, fs.ErrNotExist) {
		brought = int64(len(w.data) - had)
	}
	w.flow.Leave(cost, w.limit, brought)
	return err
}

// readParts reads the file in parts, and reports whether that is all of it.
func (w *whole) readParts(ctx context.Context, p *parts, name string) (all bool, err error) {
	err = w.inTurn(ctx, func() error {
		data, ended, err := p.read(name, w.limit)
		switch {
		case err != nil:
		case ended && int64(len(data)) <= w.limit:
			w.data, all = data, true
		case ended || w.limit <= small:
			err = fmt.Errorf("%w: more than %d bytes", store.ErrTooLarge, w.limit)
		}
		return err
	})
	return all, err
}

// read reads the rest of the file, which has been opened anew.
func (w *whole) read(f *sftp.File) error {
	first := max(w.limit, packet) + 1
	if w.limit > small {
		first = packet + 1
	}
	kept := len(w.data)
	var info os.FileInfo
	var asking sync.WaitGroup
	if w.limit > packet { // or nothing is kept: it comes at once or not at all
		asking.Go(func() { info, _ = f.Stat() }) // without it nothing is kept either
	}
	end, err := w.fill(f, max(first, int64(kept)+packet+1))
	asking.Wait()
	if kept > 0 && !same(w.info, info) {
		if info == nil && err != nil {
			w.data = w.data[:kept] // the connection broke before it was known
			return err
		}
		w.data = nil
		end, err = w.fill(f, first)
	}
	w.info = info
	for err == nil && !end && int64(len(w.data)) <= w.limit {
		next := 2 * int64(len(w.data))
		if info != nil {
			next = max(next, info.Size()+1)
		}
		end, err = w.fill(f, min(next, w.limit+1))
	}
	if err != nil && w.info == nil {
		w.data = nil
	}
	if err == nil && int64(len(w.data)) > w.limit {
		err = fmt.Errorf("%w: more than %d bytes", store.ErrTooLarge, w.limit)
	}
	return err
}

// same reports whether a file that was opened twice is the same.
func same(a, b os.FileInfo) bool {
	return a != nil && b != nil && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}

// fill reads on until there are size bytes or the file ends.
func (w *whole) fill(f *sftp.File, size int64) (end bool, err error) {
	at := len(w.data)
	b := slices.Grow(w.data, int(size)-at)[:size]
	n, err := f.ReadAt(b[at:], int64(at))
	w.data = b[:at+n]
	w.flow.Arrived(n)
	if err == io.EOF { //nolint:errorlint // the bare value alone is the end
		return true, nil
	}
	return false, err
}

// OpenAt opens size bytes of a file from an offset on; the error of reading to
// their end says when the file is shorter. Reading goes on where it was when the
// connection breaks.
func (d *Dir) OpenAt(ctx context.Context, name string, offset, size int64) (io.ReadCloser, error) {
	s := &section{d: d, name: name, at: offset, left: size}
	s.ctx, s.stop = context.WithCancel(ctx)
	if err := d.do(s.ctx, name, func(c *sftp.Client) error { _, err := s.open(c); return err }); err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}

const (
	// block is how much of a section is waited for at a time.
	block = 512 << 10
	// ahead is how many blocks are requested at a time: more than the product of
	// bandwidth and delay of any link worth trying.
	ahead = 8
)

// section reads a part of a file, ahead of its reader.
type section struct {
	ctx      context.Context //nolint:containedctx // of OpenAt, as that of a response body
	stop     context.CancelFunc
	d        *Dir
	name     string
	at, left int64        // of what is requested next
	coming   []*blockRead // in their order
	data     []byte       // of the first of them, to be read
	err      error

	mu     sync.Mutex // guards the file
	client *sftp.Client
	file   *sftp.File
}

// blockRead is a block on its way; the others are set when done is closed.
type blockRead struct {
	done chan struct{}
	data []byte
	err  error
}

// open returns the file in a session, which it opens there if it has to.
func (s *section) open(c *sftp.Client) (*sftp.File, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.client != c {
		f, err := c.Open(s.d.path(s.name))
		if err != nil {
			return nil, err
		}
		s.client, s.file = c, f
	}
	return s.file, nil
}

func (s *section) Read(p []byte) (int, error) {
	for len(s.data) == 0 && s.err == nil {
		s.request()
		if len(s.coming) == 0 {
			return 0, io.EOF
		}
		first := s.coming[0]
		<-first.done
		s.coming = s.coming[1:]
		s.data, s.err = first.data, first.err
	}
	n := copy(p, s.data)
	s.data = s.data[n:]
	if n == 0 && len(p) > 0 {
		return 0, s.err
	}
	return n, nil
}

// request asks for as much as is wanted ahead.
func (s *section) request() {
	for len(s.coming) < ahead && s.left > 0 {
		at, size := s.at, min(s.left, block)
		s.at, s.left = s.at+size, s.left-size
		b := &blockRead{done: make(chan struct{})}
		s.coming = append(s.coming, b)
		go func() { // Close waits for it
			defer close(b.done)
			b.data, b.err = s.block(at, size)
		}()
	}
}

// block reads a block, and when the connection breaks the rest of it.
func (s *section) block(at, size int64) ([]byte, error) {
	b := make([]byte, size)
	have := 0
	err := s.d.do(s.ctx, s.name, func(c *sftp.Client) error {
		f, err := s.open(c)
		if err != nil {
			return err
		}
		n, err := f.ReadAt(b[have:], at+int64(have))
		if have += n; have == len(b) {
			return nil
		}
		if err == io.EOF { //nolint:errorlint // the bare value alone is the end
			err = io.ErrUnexpectedEOF
		}
		return err
	})
	return b[:have], err
}

// Close ends the reading. What has not come by then costs the connection.
func (s *section) Close() error {
	s.stop()
	for _, b := range s.coming {
		<-b.done
	}
	s.coming, s.data, s.err = nil, nil, errors.New("sftpstore: it has been closed")
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file != nil {
		s.d.conn.release(s.file)
		s.file, s.client = nil, nil
	}
	return nil
}
