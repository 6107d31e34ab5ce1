package repo

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"time"

	"github.com/ociv2-sync/ociv2-sync/store"
)

// MirrorOptions say how mirrors are used. The zero value works.
type MirrorOptions struct {
	// Retries is how often all are asked again when all fail. 0 means 5, negative
	// means never.
	Retries int
	// RetryWait is the wait before the first of those, doubled for each further
	// one, up to a minute, and jittered. 0 means 500 ms.
	RetryWait time.Duration
	// Logger is told when one fails. nil means nobody is.
	Logger *slog.Logger
}

// Mirrors returns the repository of which files are copies. What may change is read
// from the first that answers: they may be of different age. What is named by its
// digest comes from the one that answered last, or the next one, and is verified to
// be what it is named. A transfer that breaks continues with the next one.
func Mirrors(files []Files, o MirrorOptions) Files {
	if len(files) == 1 {
		return files[0]
	}
	return &mirrors{
		all:     files,
		retries: max(cmp.Or(o.Retries, 5), 0),
		wait:    cmp.Or(o.RetryWait, 500*time.Millisecond),
		logger:  cmp.Or(o.Logger, slog.New(slog.DiscardHandler)),
	}
}

const maxMirrorWait = time.Minute

type mirrors struct {
	all     []Files
	retries int
	wait    time.Duration
	logger  *slog.Logger
	good    atomic.Int32 // the one that answered last
}

// String names the first.
func (m *mirrors) String() string { return m.all[0].String() }

// each has ask ask one after the other until one gives what is at path.
func (m *mirrors) each(ctx context.Context, path string, ask func(Files) error) error {
	_, immutable := digestIn(path)
	for round := 0; ; round++ {
		var failed, absent error
		first := 0
		if immutable {
			first = int(m.good.Load())
		}
		for i := range m.all {
			n := (first + i) % len(m.all)
			err := ask(m.all[n])
			switch {
			case err == nil:
				m.good.Store(int32(n))
				return nil
			case ctx.Err() != nil:
				return ctx.Err()
			case errors.Is(err, store.ErrNotFound) && immutable:
				absent = err
				continue
			case errors.Is(err, store.ErrNotFound) && failed == nil:
				return err // an older copy is none of an image that is gone
			case errors.Is(err, store.ErrNotFound):
				absent = err
				continue
			}
			m.logger.Info("a mirror fails, the next one is asked", "repository", m.all[n].String(), "reason", err)
			if failed == nil || errors.Is(err, store.ErrNetwork) {
				failed = err
			}
		}
		switch {
		case failed == nil:
			return absent
		case round >= m.retries || !errors.Is(failed, store.ErrNetwork):
			return fmt.Errorf("no mirror gives it: %w", failed)
		}
		pause := min(m.wait<<min(round, 16), maxMirrorWait)
		timer := time.NewTimer(pause/2 + rand.N(pause/2+1))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
	}
}

// digestIn returns the SHA-256 that names the file at path, if one does.
func digestIn(path string) (sum string, ok bool) {
	dir, sum, _ := strings.Cut(path, "/blobs/sha256/")
	return sum, dir != "" && len(sum) == 2*sha256.Size
}

// ReadFile implements Files.
func (m *mirrors) ReadFile(ctx context.Context, path string, limit int64) (b []byte, err error) {
	err = m.each(ctx, path, func(f Files) error {
		var err error
		if b, err = f.ReadFile(ctx, path, limit); err != nil {
			return err
		}
		if want, ok := digestIn(path); ok {
			if sum := sha256.Sum256(b); hex.EncodeToString(sum[:]) != want {
				return mismatch("%s/%s: %d bytes of another digest", f, path, len(b))
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return b, nil
}

// OpenAt implements Files.
func (m *mirrors) OpenAt(ctx context.Context, path string, offset, size int64) (io.ReadCloser, error) {
	r := &mirrorReader{ctx: ctx, m: m, path: path, at: offset, end: offset + size}
	if err := r.open(); err != nil {
		return nil, err
	}
	return r, nil
}

// mirrorReader reads a part of a file, from several mirrors if need be.
type mirrorReader struct {
	ctx     context.Context //nolint:containedctx // a reader has no other way to get that of its opener
	m       *mirrors
	path    string
	at, end int64
	body    io.ReadCloser
	breaks  int // since a byte came
}

func (r *mirrorReader) open() error {
	return r.m.each(r.ctx, r.path, func(f Files) (err error) {
		r.body, err = f.OpenAt(r.ctx, r.path, r.at, r.end-r.at)
		return err
	})
}

func (r *mirrorReader) Read(p []byte) (int, error) {
	for {
		if r.at == r.end {
			return 0, io.EOF
		}
		n, err := r.body.Read(p)
		if r.at += int64(n); n > 0 {
			r.breaks = 0
			return n, nil
		}
		if err == nil {
			continue
		}
		if r.breaks++; r.ctx.Err() != nil || r.breaks > len(r.m.all)+r.m.retries {
			return 0, err
		}
		r.m.good.Add(1) // the next one, by the remainder
		_ = r.body.Close()
		r.body = io.NopCloser(bytes.NewReader(nil)) // for Close, if that fails
		if err := r.open(); err != nil {
			return 0, err
		}
	}
}

func (r *mirrorReader) Close() error { return r.body.Close() }
