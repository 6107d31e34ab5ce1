// Package repo is the published side: a directory of static files that holds
// images (docs/format/repository.md).
//
// Open reads an image through Files, be that a directory or a static HTTP
// server: TAG.json, the manifest and the config at once, the other objects when
// they are asked for. Nothing is handed out that has not the digest and size by
// which it was named; what only TAG.json names is as true as the place that it
// came from.
//
// Publish writes an image whose chunks are in the repository's store already.
// A reader sees the old image or the new one, and never a name of something
// that is not there yet.
package repo

import (
	"errors"
	"fmt"
)

var (
	// ErrRef reports a reference that is malformed or that this build has no
	// transport for.
	ErrRef = errors.New("repo: bad reference")
	// ErrMalformed reports an object of a repository that breaks its format.
	ErrMalformed = errors.New("malformed object")
	// ErrMismatch reports an object that has not the digest or the size by
	// which it is named, or that contradicts another.
	ErrMismatch = errors.New("object does not match what names it")
	// ErrNoImage reports that a repository has no image by that name and tag, or
	// digest, and ErrNoRepository that there is no repository. They come with
	// store.ErrNotFound.
	ErrNoImage      = errors.New("no such image or tag")
	ErrNoRepository = errors.New("no repository there")
	// ErrIncomplete reports that what an image is made of is not there, though the image
	// is. It comes with store.ErrNotFound.
	ErrIncomplete = errors.New("a part of the image is not there any more")
	// ErrOutside reports a chunk store outside the origin of its image.
	ErrOutside = errors.New("chunk store outside the image's origin")
)

// objectError says which object of which repository an error is about.
func objectError(files Files, path string, err error) error {
	return fmt.Errorf("repo: %s/%s: %w", files, path, err)
}

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrMalformed, fmt.Errorf(format, args...))
}

func mismatch(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrMismatch, fmt.Sprintf(format, args...))
}
