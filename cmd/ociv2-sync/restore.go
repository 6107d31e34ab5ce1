package main

import (
	"fmt"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/ociv2-sync/ociv2-sync/internal/tree"
)

// maxNotes is how many attributes that could not be restored are named.
const maxNotes = 20

// unrestored names what a tree was to have and does not. For root that is a
// failure; an ordinary user may not set owners or make devices and is told,
// unless strict says that it is a failure too.
func (a *app) unrestored(notes []tree.Unrestored, strict bool) error {
	a.warnUnrestored(notes)
	return unrestoredError(notes, strict)
}

// unrestoredError is the failure, if it is one.
func unrestoredError(notes []tree.Unrestored, strict bool) error {
	if len(notes) > 0 && (strict || unix.Geteuid() == 0) {
		return fmt.Errorf("%d attributes could not be restored", len(notes))
	}
	return nil
}

// warnUnrestored names attributes that could not be restored.
func (a *app) warnUnrestored(notes []tree.Unrestored) {
	for _, n := range notes[:min(len(notes), maxNotes)] {
		fmt.Fprintf(a.stderr, "ociv2-sync: warning: %s\n", message(n))
	}
	if more := len(notes) - maxNotes; more > 0 {
		fmt.Fprintf(a.stderr, "ociv2-sync: warning: and %d more attributes not restored\n", more)
	}
}

// warnOmitted names what an image cannot hold.
func (a *app) warnOmitted(paths []string) {
	for _, p := range paths[:min(len(paths), maxNotes)] {
		fmt.Fprintf(a.stderr, "ociv2-sync: warning: left out, no layer can hold it: %s\n", strconv.Quote(p))
	}
	if more := len(paths) - maxNotes; more > 0 {
		fmt.Fprintf(a.stderr, "ociv2-sync: warning: and %d more left out\n", more)
	}
}

// umask returns the file mode creation mask of the process.
func umask() uint32 {
	m := syscall.Umask(0)
	syscall.Umask(m)
	return uint32(m)
}
