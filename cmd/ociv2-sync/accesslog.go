package main

import (
	"io"
	"sync"
	"time"
)

const (
	logDelay = time.Second
	logBytes = 32 << 10
)

// lineBuffer writes the lines of an access log many at once, at the latest a second
// after they came: one at a time they take as long as opening the files.
type lineBuffer struct {
	mu    sync.Mutex
	w     io.Writer
	lines []byte
	timer *time.Timer
	err   error // of the last write
}

func newLineBuffer(w io.Writer) *lineBuffer {
	b := &lineBuffer{w: w}
	b.timer = time.AfterFunc(logDelay, b.flush)
	b.timer.Stop()
	return b
}

// Write implements [io.Writer], of whole lines.
func (b *lineBuffer) Write(line []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.lines) == 0 {
		b.timer.Reset(logDelay)
	}
	b.lines = append(b.lines, line...)
	if len(b.lines) >= logBytes {
		b.write()
	}
	return len(line), nil
}

func (b *lineBuffer) flush() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.write()
}

// write writes what there is. The lock is held.
func (b *lineBuffer) write() {
	if len(b.lines) > 0 {
		_, b.err = b.w.Write(b.lines)
		b.lines = b.lines[:0]
	}
}

// Close writes the rest, and returns the error of the last write.
func (b *lineBuffer) Close() error {
	b.timer.Stop()
	b.flush()
	return b.err
}
