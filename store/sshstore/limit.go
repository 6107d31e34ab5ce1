package sshstore

import (
	"context"
	"io"

	"golang.org/x/time/rate"
)

// limited reads no faster than its limiter allows.
type limited struct {
	ctx     context.Context //nolint:containedctx // of the session that reads, and not to be cancelled
	r       io.Reader
	limiter *rate.Limiter
	moved   func()
}

func (l *limited) Read(p []byte) (int, error) {
	n, err := l.r.Read(p[:min(len(p), l.limiter.Burst())])
	if n > 0 {
		l.moved()
	}
	if werr := l.limiter.WaitN(l.ctx, n); err == nil {
		err = werr
	}
	return n, err
}

// sending writes no faster than its limiter allows.
type sending struct {
	ctx     context.Context //nolint:containedctx // of the session that writes, and not to be cancelled
	w       io.Writer
	limiter *rate.Limiter
	moved   func()
}

func (s *sending) Write(p []byte) (done int, err error) {
	for done < len(p) {
		part := p[done:min(len(p), done+s.limiter.Burst(), done+64<<10)]
		if err := s.limiter.WaitN(s.ctx, len(part)); err != nil {
			return done, err
		}
		n, err := s.w.Write(part)
		if done += n; err != nil {
			return done, err
		}
		s.moved()
	}
	return done, nil
}

func newLimiter(perSecond int64) *rate.Limiter {
	if perSecond <= 0 {
		return rate.NewLimiter(rate.Inf, 1<<30)
	}
	return rate.NewLimiter(rate.Limit(perSecond), int(min(max(perSecond/8, 1<<10), 256<<10)))
}
