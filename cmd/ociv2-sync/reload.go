package main

import (
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"
)

// reloaded is what some files say, read again when one of them has changed: users
// that were taken out are out, and a certificate is renewed, without a restart.
type reloaded[T any] struct {
	paths  []string
	load   func() (T, error)
	logger *slog.Logger

	mu     sync.Mutex
	looked time.Time // when the files were looked at
	state  string    // what they looked like when they were read
	value  T
}

// newReloaded reads the files for the first time.
func newReloaded[T any](logger *slog.Logger, load func() (T, error), paths ...string) (*reloaded[T], error) {
	r := &reloaded[T]{paths: paths, load: load, logger: logger, looked: time.Now()}
	r.state = r.look()
	value, err := load()
	if err != nil {
		return nil, err
	}
	r.value = value
	return r, nil
}

// get returns what the files say, at most a second ago. When they make no sense, being
// written at the moment perhaps, what they said before holds, and the log says so.
func (r *reloaded[T]) get() T {
	r.mu.Lock()
	defer r.mu.Unlock()
	if time.Since(r.looked) < time.Second {
		return r.value
	}
	r.looked = time.Now()
	if state := r.look(); state != r.state {
		r.state = state
		value, err := r.load()
		if err != nil {
			r.logger.Error("cannot read a file that has changed; what it said before still holds", "file", r.paths[0], "error", err)
			return r.value
		}
		r.value = value
	}
	return r.value
}

// look says what distinguishes the files from what they may be later.
func (r *reloaded[T]) look() string {
	var b strings.Builder
	for _, p := range r.paths {
		if fi, err := os.Stat(p); err == nil {
			fmt.Fprintf(&b, "%d %d\n", fi.ModTime().UnixNano(), fi.Size())
		} else {
			fmt.Fprintln(&b, "absent")
		}
	}
	return b.String()
}
