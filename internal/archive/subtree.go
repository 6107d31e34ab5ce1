package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/ociv2-sync/ociv2-sync/catar"
)

// subtree is the one node of an archive that is read, with all below it.
type subtree struct {
	path       string // from the root, clean
	node       catar.Node
	head, tail []byte // make an archive of it
}

// Enter makes the node at path, and all below it, all that is read of an
// archive. It is found by the tables of the directories on its way, so that
// only they and the node itself are read, and of an index only their chunks are
// fetched. A stream that cannot be read out of order is kept in an unnamed
// temporary file. "", "." and "/" are the whole archive; a path that is not
// there is an error that wraps [fs.ErrNotExist].
func (in *Input) Enter(ctx context.Context, path string) error {
	names, err := components(path)
	if err != nil || len(names) == 0 {
		return err
	}
	if !in.IsArchive() {
		return fmt.Errorf("archive: %w: %s is not an archive that could have %q", ErrUsage, in.name, path)
	}
	if in.at == nil {
		if err := in.spool(ctx); err != nil {
			return err
		}
	}
	r := in.at(ctx)
	s := &subtree{path: strings.Join(names, "/"), node: catar.Node{End: in.size}}
	for _, name := range names {
		if s.node, err = catar.Lookup(r, s.node, name); errors.Is(err, catar.ErrNoNode) {
			return fmt.Errorf("archive: %w", &fs.PathError{Op: "find in " + in.name, Path: s.path, Err: fs.ErrNotExist})
		} else if err != nil {
			return in.fault(err)
		}
	}
	flags, err := in.flags(r)
	if err != nil {
		return err
	}
	s.head, s.tail = catar.Wrap(flags, names[len(names)-1], s.node.End-s.node.Start)
	in.sub = s
	return nil
}

// flags returns the feature flags of an archive.
func (in *Input) flags(r io.ReaderAt) (catar.Flags, error) {
	if in.Index != nil {
		return catar.Flags(in.Index.FeatureFlags), nil
	}
	root := catar.NewReader(io.NewSectionReader(r, 0, int64(in.size)))
	_, err := root.Next()
	return root.Flags(), in.fault(err)
}

// components splits a path into its names.
func components(path string) ([]string, error) {
	var names []string
	for name := range strings.SplitSeq(path, "/") {
		switch {
		case name == "" || name == ".":
		case name == "..":
			return nil, fmt.Errorf("archive: %w: %q leads out of an archive", ErrUsage, path)
		default:
			names = append(names, name)
		}
	}
	return names, nil
}

// spool keeps a stream in a file, to be read in any order.
func (in *Input) spool(ctx context.Context) error {
	f, err := tempFile(in.tempDir)
	if err != nil {
		return err
	}
	old := in.close
	in.close = func() error { return errors.Join(old(), f.Close()) }
	if err := in.write(ctx, f); err != nil {
		return err
	}
	fi, err := f.Stat()
	if err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	in.seekable(f, uint64(fi.Size()))
	return nil
}

// tempFile returns a file without a name.
func tempFile(dir string) (*os.File, error) {
	f, err := os.CreateTemp(dir, "ociv2-sync-")
	if err != nil {
		return nil, fmt.Errorf("archive: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(fmt.Errorf("archive: %w", err), f.Close())
	}
	return f, nil
}
