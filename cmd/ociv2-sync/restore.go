package main

import (
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/ociv2-sync/ociv2-sync/internal/tree"
)

// maxNotes is how many attributes that could not be restored are named.
const maxNotes = 20

// unrestored names what a tree was to have and does not. For root that is a
// failure; an ordinary user may not set owners or make devices and is told.
func (a *app) unrestored(notes []tree.Unrestored) error {
	for _, n := range notes[:min(len(notes), maxNotes)] {
		fmt.Fprintf(a.stderr, "ociv2-sync: warning: %s: %s not restored: %v\n", oneLine(errString(n.Path)), n.What, n.Err)
	}
	if more := len(notes) - maxNotes; more > 0 {
		fmt.Fprintf(a.stderr, "ociv2-sync: warning: and %d more attributes not restored\n", more)
	}
	if len(notes) > 0 && unix.Geteuid() == 0 {
		return fmt.Errorf("%d attributes could not be restored", len(notes))
	}
	return nil
}

// errString is a text as an error, for oneLine.
type errString string

func (s errString) Error() string { return string(s) }

// umask returns the file mode creation mask of the process.
func umask() uint32 {
	m := syscall.Umask(0)
	syscall.Umask(m)
	return uint32(m)
}
