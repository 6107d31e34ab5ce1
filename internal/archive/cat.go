package archive

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/ociv2-sync/ociv2-sync/catar"
)

// Cat writes the contents of the file that Enter chose, or of a blob or its
// index.
func Cat(ctx context.Context, in *Input, w io.Writer) error {
	if !in.IsArchive() {
		return in.WriteTo(ctx, w)
	}
	if in.sub == nil {
		return fmt.Errorf("archive: %w: %s is an archive; which of its files?", ErrUsage, in.name)
	}
	seen := false
	return walk(ctx, in, func(path string, e *catar.Entry, r *catar.Reader) error {
		if !e.IsRegular() || seen {
			return fmt.Errorf("archive: %w: %s in %s is not a regular file", ErrUsage, path, in.name)
		}
		seen = true
		_, err := io.Copy(w, r)
		return err
	})
}

// errStop ends the reading of a stream early.
var errStop = errors.New("stop")
