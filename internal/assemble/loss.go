package assemble

import (
	"errors"
	"io"
	"io/fs"

	"github.com/ociv2-sync/ociv2-sync/store"
)

// Loss is why a piece was not where the plan said. Its text is for people and for
// programs.
type Loss string

// The reasons.
const (
	// Gone: the file, or the chunk of a store, is no longer there.
	Gone Loss = "gone"
	// Resized: the file has another length.
	Resized Loss = "size changed"
	// Changed: the bytes are others, or were never what the seed said.
	Changed Loss = "bytes changed"
	// Unreadable: permission, or the disk, or an archive that is damaged.
	Unreadable Loss = "unreadable"
	// NotMade: the delta does not make it.
	NotMade Loss = "not made by the delta"
)

var (
	errSize  = errors.New("its size changed")
	errBytes = errors.New("its bytes changed")
)

// lossOf says which loss the error of a seed is.
func lossOf(err error) Loss {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, store.ErrNotFound):
		return Gone
	case errors.Is(err, errSize), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return Resized
	case errors.Is(err, errBytes), errors.Is(err, store.ErrCorrupt):
		return Changed
	}
	return Unreadable
}
