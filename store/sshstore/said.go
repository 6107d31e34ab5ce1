package sshstore

import (
	"bytes"
	"io"
	"sync"
)

const (
	mostLines = 64  // of one run that are known again
	longLine  = 512 // a longer one is not
)

// Said passes on what runs of ssh have to say, but not again the lines that one has
// said which failed before: a host that cannot be reached is told of once, not once an
// attempt. It may be used by several goroutines.
type Said struct {
	to io.Writer

	mu          sync.Mutex
	now, before map[string]struct{}
}

// NewSaid returns one that passes on to w.
func NewSaid(w io.Writer) *Said { return &Said{to: w} }

// Write passes on what is new in p. Parts of lines are, as they may be questions.
func (s *Said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fresh := make([]byte, 0, len(p))
	for line := range bytes.Lines(p) {
		if _, known := s.before[string(line)]; known {
			continue
		}
		fresh = append(fresh, line...)
		if len(s.now) < mostLines && len(line) <= longLine && bytes.HasSuffix(line, []byte("\n")) {
			if s.now == nil {
				s.now = make(map[string]struct{})
			}
			s.now[string(line)] = struct{}{}
		}
	}
	if len(fresh) > 0 {
		if _, err := s.to.Write(fresh); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// Failed notes that a run has failed: what it said is not said again.
func (s *Said) Failed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.before == nil {
		s.before = make(map[string]struct{})
	}
	for line := range s.now {
		if len(s.before) < mostLines {
			s.before[line] = struct{}{}
		}
	}
	s.now = nil
}

// Worked notes that something has arrived: failures from here on are others.
func (s *Said) Worked() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now, s.before = nil, nil
}
