// Package delta makes and applies deltas: one file that turns the contents of
// one tree into those of another (docs/format/delta.md).
//
// A delta begins with a head, which says what it is for: the new table of
// contents as a patch of the old one, and for each new content the base
// contents that it is made of. The body is a sequence of groups, in the order
// in which they are used; it is read once, from its first byte to its last.
//
// Nothing in a delta is trusted. A content counts only with the SHA-256 that
// the new table of contents gives it; whatever goes wrong before that concerns
// the contents that it touches, which the caller gets from elsewhere.
package delta

import (
	"errors"
	"fmt"
	"io"
)

var (
	// ErrMalformed reports a delta that breaks its format.
	ErrMalformed = errors.New("delta: malformed")
	// ErrBase reports a base that is not at hand, or not the right one.
	ErrBase = errors.New("wrong base")
	// ErrContent reports instructions that make a content with another SHA-256
	// than it must have: of a forged delta, or from a base that has changed.
	ErrContent = errors.New("delta: content has another digest")
	// ErrTooLarge reports something that is beyond the limits of the format.
	ErrTooLarge = errors.New("too large")
)

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrMalformed, fmt.Errorf(format, args...))
}

// readError tells a delta that is cut off from one that cannot be read, whose
// error may wrap the end of some other file.
func readError(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF { //nolint:errorlint // see above
		return malformed("%w", io.ErrUnexpectedEOF)
	}
	return fmt.Errorf("delta: %w", err)
}
