package transfer

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/ociv2-sync/ociv2-sync/internal/bundle"
	"github.com/ociv2-sync/ociv2-sync/internal/durable"
	"github.com/ociv2-sync/ociv2-sync/internal/ocidest"
	"github.com/ociv2-sync/ociv2-sync/toc"
)

// The kinds of destinations, as they are written before the colon.
const (
	RootFS        = "rootfs"
	Bundle        = "bundle"
	OCI           = "oci"
	OCIArchive    = "oci-archive"
	DockerArchive = "docker-archive"
	Docker        = "docker"
	Repo          = "repo"
)

// Dest is where an image goes. The zero value is the root of this device.
type Dest struct {
	Kind string // one of the constants above
	// Path is a directory or a file; for Docker and Repo a reference.
	Path string
	// Ref is the name of the image in a layout or an archive, or "".
	Ref string
}

// String returns the destination as ParseDest takes it.
func (d Dest) String() string {
	s := d.Kind + ":" + d.Path
	if d.Ref != "" {
		s += ":" + d.Ref
	}
	return s
}

// ParseDest reads a destination:
//
//	rootfs:DIR                 a directory that becomes the filesystem
//	bundle:DIR                 an OCI runtime bundle
//	oci:DIR[:REF]              an OCI image layout, made or added to
//	oci-archive:FILE[:REF]     the same as a tar
//	docker-archive:FILE[:REF]  what docker load reads
//	docker://HOST/NAME[:TAG]   an image in a registry
//	repo:REPO/NAME[:TAG]       a repository; for Convert alone
//
// Anything else is ErrUsage.
func ParseDest(s string) (Dest, error) {
	kind, rest, _ := strings.Cut(s, ":")
	d := Dest{Kind: kind, Path: rest}
	switch kind {
	case RootFS, Bundle, Docker, Repo:
	case OCI, OCIArchive, DockerArchive:
		var tagged bool
		d.Path, d.Ref, tagged = strings.Cut(rest, ":")
		if tagged && d.Ref == "" {
			return Dest{}, fmt.Errorf("transfer: %w: no name after the last colon of %q", ErrUsage, s)
		}
	default:
		return Dest{}, fmt.Errorf("transfer: %w: the destination is KIND:PATH, with KIND rootfs, bundle, oci, oci-archive, docker-archive or docker, not %q", ErrUsage, s)
	}
	if d.Path == "" {
		return Dest{}, fmt.Errorf("transfer: %w: no path in %q", ErrUsage, s)
	}
	return d, nil
}

// tree reports whether a tree of files is to be made there.
func (d Dest) tree() bool { return d.Kind == RootFS || d.Kind == Bundle }

// check refuses a destination that cannot be made, before any work is done.
func (d Dest) check(replace bool) error {
	switch {
	case d.Kind == "":
		return nil
	case d.tree():
		return durable.CheckDir(d.Path, replace)
	case d.Kind == Repo:
		return fmt.Errorf("transfer: %w: images get into a repository by push or convert", ErrUsage)
	}
	return ocidest.Check(d.Kind, d.Path, d.Ref, replace)
}

// writeTree makes the filesystem, which build makes in an empty directory, and
// for a bundle what is beside it.
func (d Dest) writeTree(ctx context.Context, replace bool, nodes []toc.Node, config []byte, build func(dir string) error) error {
	return durable.Dir(ctx, d.Path, replace, func(temp string) error {
		if d.Kind == RootFS {
			return build(temp)
		}
		rootfs := filepath.Join(temp, "rootfs")
		if err := os.Mkdir(rootfs, 0o700); err != nil {
			return err
		}
		if err := build(rootfs); err != nil {
			return err
		}
		spec, err := bundle.Config(config, func(path string) ([]byte, error) { return readInTree(nodes, rootfs, path) })
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(temp, "config.json"), spec, 0o644)
	})
}

// Written is an image that was made.
type Written struct {
	// Digest names its manifest; for a docker archive, which has none, its config.
	Digest digest.Digest
	// LayerSize is the size of its layer as it is stored, in bytes.
	LayerSize int64
	// Sent are the bytes that a registry did not have; 0 elsewhere.
	Sent int64
	// Omitted are the paths of what no layer can hold: sockets, and names that
	// mean deletions.
	Omitted []string
}

// writeImage makes an image of the filesystem src.
func (d Dest) writeImage(ctx context.Context, src *toc.Source, config []byte, opts PullOptions) (*Written, error) {
	img := ocidest.Image{Source: src, Config: config}
	w, err := ocidest.Write(ctx, d.Kind, d.Path, d.Ref, img, ocidest.Options{
		Compression: opts.Compression, Replace: opts.Replace, Progress: opts.Wrote, Sending: opts.Sending,
		Registry: opts.Registry, TempDir: opts.TempDir,
	})
	if err != nil {
		return nil, err
	}
	out := &Written{Digest: w.Digest, LayerSize: w.LayerSize, Sent: w.Sent}
	for _, i := range w.Omitted {
		out.Omitted = append(out.Omitted, toc.Path(src.Nodes, i))
	}
	return out, nil
}
