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

// Extract makes the directory at dest from an archive. A directory
// that is not there appears when it is complete; one that is there is changed
// in place, as casync does. The node that Enter chose becomes a node of its name
// in the directory, of which nothing else is changed. What the system did not let
// us restore is returned.
func Extract(ctx context.Context, in *Input, dest string, opts tree.ExtractOptions) ([]tree.Unrestored, error) {
	if !in.IsArchive() {
		return nil, fmt.Errorf("archive: %w: %s is not an archive", ErrUsage, in.name)
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
		// What is not an archive is to be found out before anything changes.
		if err := in.precheck(ctx); err != nil {
			return nil, err
		}
		if err = build(dest); err != nil {
			err = fmt.Errorf("%w (%s was being changed and is now partly old, partly new)", err, dest)
		}
		return notes, err
	case errors.Is(err, fs.ErrNotExist):
		opts.New = true
		err = durable.Dir(ctx, dest, false, build)
		return notes, err
	}
	return nil, fmt.Errorf("archive: %w", err)
}

// precheck reads an archive that is a local file to its end; others would have
// to be fetched twice.
func (in *Input) precheck(ctx context.Context) error {
	if in.at == nil || in.Index != nil {
		return nil
	}
	return walk(ctx, in, func(string, *catar.Entry, *catar.Reader) error { return nil })
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
