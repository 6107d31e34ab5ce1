package archive

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/ociv2-sync/ociv2-sync/catar"
	"github.com/ociv2-sync/ociv2-sync/internal/durable"
	"github.com/ociv2-sync/ociv2-sync/internal/tree"
)

// Extract makes the directory or the file at dest from an input. A directory
// that is not there appears when it is complete; one that is there is changed
// in place, as casync does. A file appears, or is replaced, when it is
// complete. What the system did not let us restore is returned.
func Extract(ctx context.Context, in *Input, dest string, opts tree.ExtractOptions) ([]tree.Unrestored, error) {
	if !in.IsArchive() {
		return nil, writeOutput(dest, nil, func(w io.Writer) error { return in.WriteTo(ctx, w) })
	}
	var notes []tree.Unrestored
	build := func(path string) error {
		return in.Read(ctx, func(ctx context.Context, r io.Reader) (err error) {
			dir, err := tree.OpenDir(path)
			if err != nil {
				return err
			}
			notes, err = tree.Extract(ctx, catar.NewReader(r), dir, opts)
			return errors.Join(in.fault(err), dir.Close())
		})
	}
	_, err := os.Lstat(dest)
	switch {
	case err == nil:
		err = build(dest)
		return notes, err
	case errors.Is(err, fs.ErrNotExist):
		err = durable.Dir(ctx, dest, false, build)
		return notes, err
	}
	return nil, fmt.Errorf("archive: %w", err)
}

// Digest returns the digest of the whole stream, in hex.
func Digest(ctx context.Context, in *Input) (string, error) {
	h := in.Algorithm.New()
	if err := in.WriteTo(ctx, h); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
