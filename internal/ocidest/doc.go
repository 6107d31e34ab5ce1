// Package ocidest writes a filesystem as a standard image of one layer: into an
// OCI image layout, into one as a tar, as docker save does, or into a registry. What it writes
// follows from the filesystem, the config and the compression alone:
// docs/format/export.md. Nothing partial has its final name, and an error leaves
// what was there.
package ocidest

import (
	"context"
	"fmt"
	"io"
	"regexp"

	"github.com/opencontainers/go-digest"

	"github.com/ociv2-sync/ociv2-sync/internal/registry"
	"github.com/ociv2-sync/ociv2-sync/toc"
)

// ErrReference says that an image cannot have the name that was given.
var ErrReference = registry.ErrReference

// Image is what is to be written.
type Image struct {
	// Source is the filesystem.
	Source *toc.Source
	// Config is the config of the image that it is from, of which all but
	// rootfs.diff_ids and the history is kept.
	Config []byte
}

// Options are the options of writing. The zero value works.
type Options struct {
	// Compression of the layer; docker archives have none.
	Compression Compression
	// Replace allows a file to be replaced by an archive.
	Replace bool
	// Registry says how the registry is talked to.
	Registry registry.Options
	// TempDir is where the layer waits for the registry, in a file without a name;
	// "" means /var/tmp.
	TempDir string
	// Progress, if not nil, is called with the bytes of the layer, uncompressed,
	// that were written since the last call.
	Progress func(n int64)
	// Sending, if not nil, is called with the bytes of the layer that were sent to a
	// registry since the last call, and with how many there are.
	Sending func(n, total int64)
}

// Written is what was written.
type Written struct {
	// Digest names the manifest; for docker archives, which have none, the config.
	Digest digest.Digest
	// LayerSize is the size of the layer as it is stored, in bytes.
	LayerSize int64
	// Sent are the bytes that a registry did not have; 0 elsewhere.
	Sent int64
	// Omitted are the nodes that no layer can hold.
	Omitted []int
}

// Write writes the image to where kind, path and ref say: "oci", a directory, and the
// image's name in it, or ""; "oci-archive" and a file, likewise; "docker-archive",
// a file and NAME[:TAG], or ""; or "docker", //HOST/NAME[:TAG], and nothing.
func Write(ctx context.Context, kind, path, ref string, img Image, opts Options) (*Written, error) {
	if err := Check(kind, path, ref, opts.Replace); err != nil {
		return nil, err
	}
	write := map[string]func(context.Context, string, string, Image, Options) (*Written, error){
		"oci": writeLayout, "oci-archive": writeOCIArchive, "docker-archive": writeDockerArchive, "docker": writeRegistry,
	}[kind]
	w, err := write(ctx, path, ref, img, opts)
	if err != nil {
		return nil, fmt.Errorf("ocidest: %s:%s: %w", kind, path, err)
	}
	return w, nil
}

// Check fails as Write would for what it is told, before anything is done for it.
func Check(kind, path, ref string, replace bool) error {
	var err error
	switch kind {
	case "oci":
		if err = checkRef(ref); err == nil {
			err = checkLayout(path)
		}
	case "oci-archive":
		if err = checkRef(ref); err == nil {
			err = checkArchive(path, replace)
		}
	case "docker-archive":
		if _, err = dockerTag(ref); err == nil {
			err = checkArchive(path, replace)
		}
	case "docker":
		err = registry.CheckTarget(path)
	default:
		err = fmt.Errorf("%w: no kind of image %q", ErrReference, kind)
	}
	if err != nil {
		return fmt.Errorf("ocidest: %w", err)
	}
	return nil
}

// refs are the names that the image specification has for the index of a layout.
var refs = regexp.MustCompile(`^[A-Za-z0-9]+((--|[-._:@/+])[A-Za-z0-9]+)*$`)

func checkRef(ref string) error {
	if ref != "" && !refs.MatchString(ref) {
		return fmt.Errorf("%w: %q cannot be the name of an image in a layout", ErrReference, ref)
	}
	return nil
}

// dockerTags are the names of docker, with or without a registry and a tag.
var dockerTags = regexp.MustCompile(`^([A-Za-z0-9.-]+(:[0-9]+)?/)?` +
	`[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*(:[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?$`)

// writeCounter passes on the number of bytes that are written.
type writeCounter struct {
	w    io.Writer
	note func(int64)
}

func (c writeCounter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	if c.note != nil {
		c.note(int64(n))
	}
	return n, err
}
