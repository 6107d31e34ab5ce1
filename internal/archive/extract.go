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
// in place, as casync does. The node that Enter chose becomes a node of its name
// in the directory, of which nothing else is changed. A file appears, or is
// replaced, when it is complete. What the system did not let us restore is
// returned.
func Extract(ctx context.Context, in *Input, dest string, opts tree.ExtractOptions) ([]tree.Unrestored, error) {
	if !in.IsArchive() {
		return nil, writeOutput(dest, nil, func(w io.Writer) error { return in.WriteTo(ctx, w) })
	}
	opts.Below = in.sub != nil
	var notes []tree.Unrestored
	build := func(path string) error {
		if opts.Below && path != dest { // nothing else gives the new directory its mode
			if err := os.Chmod(path, 0o777&^fs.FileMode(opts.Umask)); err != nil {
				return fmt.Errorf("archive: %w", err)
			}
		}
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

// Digest returns the digest of the whole stream, in hex, or of what Enter chose
// of it: of a directory all its records, of a file its contents.
func Digest(ctx context.Context, in *Input) (string, error) {
	h := in.Algorithm.New()
	digest := in.WriteTo
	if in.sub != nil {
		err := walk(ctx, in, func(_ string, e *catar.Entry, _ *catar.Reader) error {
			if !e.IsDir() {
				digest = func(ctx context.Context, w io.Writer) error { return Cat(ctx, in, w) }
			}
			return errStop
		})
		if !errors.Is(err, errStop) {
			return "", err
		}
	}
	if err := digest(ctx, h); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
