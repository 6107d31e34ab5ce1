package catar

import (
	"errors"
	"fmt"
)

var (
	// ErrMalformed is what every *Error unwraps to: the bytes are not a catar.
	// An error that does not match it came from the underlying reader.
	ErrMalformed = errors.New("catar: malformed archive")

	// ErrUnsupported means that an entry, or a set of feature flags, cannot be
	// expressed in a catar. Only Writer, Validate and ParseNames return it.
	ErrUnsupported = errors.New("catar: not representable")
)

// Error says where a stream breaks the format and how.
type Error struct {
	Offset uint64 // of the record at fault, in bytes from the start of the stream
	Record string // its name in docs/format/catar.md, such as "FILENAME"
	Reason string // what is wrong with it
	Err    error  // a cause, such as io.ErrUnexpectedEOF; may be nil
}

func (e *Error) Error() string {
	s := fmt.Sprintf("catar: %s record at offset %d: %s", e.Record, e.Offset, e.Reason)
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap returns ErrMalformed and, where there is one, the cause.
func (e *Error) Unwrap() []error {
	if e.Err == nil {
		return []error{ErrMalformed}
	}
	return []error{ErrMalformed, e.Err}
}

// refusal is the reason why something cannot be expressed in a catar.
type refusal string

func (r refusal) Error() string { return ErrUnsupported.Error() + ": " + string(r) }

func (r refusal) Is(target error) bool { return target == ErrUnsupported }

func unsupported(format string, a ...any) error { return refusal(fmt.Sprintf(format, a...)) }
