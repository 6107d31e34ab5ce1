package translate

import (
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"
)

var (
	// ErrMalformed says that a layer or a config is not what its format
	// demands, or asks for something no filesystem can hold.
	ErrMalformed = errors.New("malformed image")
	// ErrMismatch says that bytes do not have the digest or the size that the
	// image gives for them.
	ErrMismatch = errors.New("does not match the image")
	// ErrLimit says that a layer exceeds one of the Limits.
	ErrLimit = errors.New("limit exceeded")
	// ErrUnsupported says that an image is of a kind that cannot be merged:
	// unknown media types, layers that are kept elsewhere.
	ErrUnsupported = errors.New("not supported")
)

// LayerError says where in an image something is wrong.
type LayerError struct {
	Index, Count int           // the layer, counted from 0, and how many there are
	Digest       digest.Digest // of the layer, or its diff_id if that is all that is known, or empty
	Entry        string        // the name in the tar, empty if the error is of the layer
	Err          error
}

func (e *LayerError) Error() string {
	where := fmt.Sprintf("translate: layer %d of %d", e.Index+1, e.Count)
	if e.Digest != "" {
		where += fmt.Sprintf(" (%s)", e.Digest)
	}
	if e.Entry != "" {
		where += fmt.Sprintf(": entry %q", e.Entry)
	}
	return where + ": " + e.Err.Error()
}

func (e *LayerError) Unwrap() error { return e.Err }

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrMalformed, fmt.Errorf(format, args...))
}

func exceeded(what string, limit int64) error {
	return fmt.Errorf("%w: %s above %d", ErrLimit, what, limit)
}
