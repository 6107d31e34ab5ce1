package archive

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strings"

	"github.com/ociv2-sync/ociv2-sync/catar"
	"github.com/ociv2-sync/ociv2-sync/internal/durable"
	"github.com/ociv2-sync/ociv2-sync/internal/tree"
)

// ExtractOptions say how an archive becomes files.
type ExtractOptions struct {
	// Tree says what is restored. Below, New, Filled and Twin are set by Extract.
	Tree tree.ExtractOptions
	// Seeds may have chunks of the archive, which are then not fetched:
	// directories, archives and other files, devices, and indexes (.caidx, .caibx)
	// with the default store beside them. They are read before anything is fetched.
	Seeds []string
	// SeedOutput takes the destination for a seed, too, if it is there.
	SeedOutput bool
	// Reflink shares blocks with the seeds where the filesystem can and the
	// bytes lie alike.
	Reflink bool
	// Hardlink makes a file another name of a seed's file that is the same in all
	// that the archive records, instead of a copy: who writes to one writes to
	// both.
	Hardlink bool
	// DryRun changes nothing: seeds are read, and what the archive is made of is
	// checked, as far as that fetches nothing.
	DryRun bool
	// Logger is told of seeds that are of less use than they were to be; nil
	// drops it.
	Logger *slog.Logger
}

// Restored says what Extract did.
type Restored struct {
	// Seeded and Fetched count the chunks that came from seeds and from the store.
	// An archive that is no index has none.
	Seeded, Fetched int
	// Notes name what the system did not let us restore.
	Notes []tree.Unrestored
}

// Extract makes the directory at dest from an archive. A directory
// that is not there appears when it is complete; one that is there is changed
// in place, as casync does, except that files that are what they should be stay;
// what is wrong with the archive is then found before the first change, unless it
// is a stream: what an index of another machine's store needs is fetched into a temporary
// file first. An error after that is a *[tree.PartialError].
// The node that Enter chose becomes a node of its name in the directory, of which
// nothing else is changed.
func Extract(ctx context.Context, in *Input, dest string, opts ExtractOptions) (_ *Restored, err error) {
	if !in.IsArchive() {
		return nil, fmt.Errorf("archive: %w: %s is not an archive", ErrUsage, in.name)
	}
	_, err = os.Lstat(dest)
	there := err == nil
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("archive: %w", err)
	}
	done := &Restored{}
	if in.Index != nil {
		s, err := in.openSeeds(ctx, dest, there, opts)
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, s.Close()) }()
		opts.use(ctx, in, s)
		defer func() { done.count(in, s) }()
		if opts.DryRun || there {
			if err := in.lacking(ctx, s); err != nil {
				return nil, err
			}
		}
	}
	if opts.DryRun && in.Index != nil && !in.near {
		return done, nil // all there is to check would have to be fetched
	}
	if opts.DryRun {
		return done, in.precheck(ctx)
	}
	opts.Tree.Below, opts.Tree.New = in.sub != nil, !there
	build := func(path string) (err error) {
		done.Notes, err = in.build(ctx, path, dest, opts.Tree)
		return err
	}
	if !there {
		return done, durable.Dir(ctx, dest, false, build)
	}
	// What is not an archive is to be found out before anything changes.
	if err := in.precheck(ctx); err != nil {
		return nil, err
	}
	return done, build(dest)
}

// openSeeds opens the seeds of an archive that is an index. Chunks for a directory that is
// there are kept as they come from afar: the archive is read twice, before the first
// change and for it.
func (in *Input) openSeeds(ctx context.Context, dest string, there bool, opts ExtractOptions) (*seeds, error) {
	if there && !opts.DryRun && !in.near {
		if err := in.keep(); err != nil {
			return nil, err
		}
	}
	from := opts.Seeds
	if there && opts.SeedOutput {
		from = append(slices.Clip(from), dest)
	}
	return in.seed(ctx, from, opts)
}

// build extracts the archive to a directory that is there, at path, and is to be at dest.
func (in *Input) build(ctx context.Context, path, dest string, opts tree.ExtractOptions) (notes []tree.Unrestored, err error) {
	if opts.Below && path != dest { // nothing else gives the new directory its mode
		if err := os.Chmod(path, 0o777&^fs.FileMode(opts.Umask)); err != nil {
			return nil, fmt.Errorf("archive: %w", err)
		}
	}
	err = in.Read(ctx, func(ctx context.Context, r io.Reader) (err error) {
		dir, err := tree.OpenDir(path)
		if err != nil {
			return err
		}
		notes, err = tree.Extract(ctx, in.reader(r), dir, opts)
		return errors.Join(in.fault(err), dir.Close())
	})
	for i := range notes { // by the name that it will have
		if rel, ok := strings.CutPrefix(notes[i].Path, path); ok {
			notes[i].Path = dest + rel
		}
	}
	return notes, err
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
