package transfer

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/ociv2-sync/ociv2-sync/internal/root"
	"github.com/ociv2-sync/ociv2-sync/seed"
	"github.com/ociv2-sync/ociv2-sync/store/local"
)

// kind is a kind of seeds.
type kind struct {
	// names are those by which KIND:PATH asks for it.
	names []string
	// open opens the seed at a path, or fails with what is wrong.
	open func(o *seedOpener, path string) error
}

// kinds are those that a path can be said to be.
func kinds() []kind {
	list := []kind{
		{[]string{"dir", "rootfs"}, (*seedOpener).dir},
		{[]string{"images"}, (*seedOpener).images},
		{[]string{"root"}, func(o *seedOpener, path string) error {
			ok, err := o.otherRoot(path)
			if err == nil && !ok {
				err = fmt.Errorf("seed: %s: %w", path, root.ErrNotRoot)
			}
			return err
		}},
		{[]string{"oci"}, (*seedOpener).layout},
		{[]string{"archive", "oci-archive", "docker-archive", "tar", "catar"}, (*seedOpener).archive},
		{[]string{"blob", "device"}, (*seedOpener).blob},
		{[]string{"store"}, (*seedOpener).store},
	}
	for _, e := range engines {
		list = append(list, kind{[]string{e.name}, func(o *seedOpener, path string) error { return o.engine(e, path) }})
	}
	return list
}

// engine is how a container engine lays its storage out.
type engine struct {
	name string
	// marks are paths of which each storage has at least one, and nothing else
	// has any.
	marks []string
	// layers are patterns for the directories with the files of layers. Beside
	// them lie mounts, in which the same files appear again.
	layers []string
	// blobs is the directory that has compressed layers below blobs/sha256, ""
	// for none.
	blobs string
}

var engines = []engine{
	{
		name:   "containers-storage",
		marks:  []string{"overlay-layers", "vfs-layers"},
		layers: []string{"overlay/*/diff", "vfs/dir/*"},
	},
	{
		name:   "docker",
		marks:  []string{"image/overlay2", "image/vfs"},
		layers: []string{"overlay2/*/diff", "vfs/dir/*"},
	},
	{
		name:   "containerd",
		marks:  []string{contentStore, "io.containerd.snapshotter.v1.overlayfs", "io.containerd.snapshotter.v1.native"},
		layers: []string{"io.containerd.snapshotter.v1.overlayfs/snapshots/*/fs", "io.containerd.snapshotter.v1.native/snapshots/*"},
		blobs:  contentStore,
	},
}

const contentStore = "io.containerd.content.v1.content"

// named opens a seed given as PATH or KIND:PATH.
func (o *seedOpener) named(name string) error {
	if prefix, path, ok := strings.Cut(name, ":"); ok {
		for _, k := range kinds() {
			if slices.Contains(k.names, prefix) {
				return k.open(o, path)
			}
		}
	}
	fi, err := os.Stat(name)
	if err != nil {
		return fmt.Errorf("seed: %w", err)
	}
	if !fi.IsDir() {
		return o.file(name)
	}
	ok, err := o.image(name)
	if err != nil || ok {
		return err
	}
	if err := o.dir(name); err != nil {
		return err
	}
	// As a tree a directory of images has the files of those that lie there
	// unpacked, and of the others none.
	return o.images(name)
}

// file opens an archive or, if it is none, a blob.
func (o *seedOpener) file(path string) error {
	err := o.archive(path)
	if errors.Is(err, seed.ErrUnknown) {
		err = o.blob(path)
	}
	return err
}

// images opens what lies in a directory of images, but no trees.
func (o *seedOpener) images(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("seed: %w", err)
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		switch {
		case e.IsDir():
			if _, err = o.image(path); errors.Is(err, fs.ErrPermission) {
				err = nil // the walk through the tree counts it
			}
		case e.Type().IsRegular() && archiveName.MatchString(e.Name()):
			err = o.archive(path)
		case e.Type().IsRegular() && strings.HasSuffix(e.Name(), ".caibx"):
			err = o.blob(path)
		}
		if err != nil {
			o.log.Warn("seed passed over", "seed", path, "reason", err)
		}
	}
	return nil
}

// archiveName is what archives in a directory of images are called; other files
// there are not looked into.
var archiveName = regexp.MustCompile(`\.(tar|tgz|catar|tar\.(gz|zst|zstd))$`)

// image opens a directory that is more than a tree, and reports whether it is.
func (o *seedOpener) image(path string) (bool, error) {
	if ok, err := o.otherRoot(path); err != nil || ok {
		return ok, err
	}
	for _, e := range engines {
		if slices.ContainsFunc(e.marks, func(mark string) bool { return exists(path, mark) }) {
			return true, o.engine(e, path)
		}
	}
	switch {
	case exists(path, "blobs/sha256"):
		return true, o.layout(path)
	case isStore(path):
		return true, o.store(path)
	}
	return false, nil
}

func exists(dir, below string) bool {
	_, err := os.Stat(filepath.Join(dir, below))
	return err == nil
}

// isStore reports whether dir is a chunk store: all that is in it, as far as one
// looks, is called as the directories of a store are, and one of them has a chunk.
// (A directory for each year looks the same from afar.)
func isStore(dir string) bool {
	const some = 64
	shelves := 0
	full := false
	for _, name := range firstNames(dir, some) {
		switch {
		case shelf.MatchString(name):
			shelves++
			full = full || slices.ContainsFunc(firstNames(filepath.Join(dir, name), some), func(c string) bool {
				return chunkName.MatchString(c) && strings.HasPrefix(c, name)
			})
		case !strings.HasPrefix(name, "."):
			return false
		}
	}
	return full || shelves == 0 && filepath.Ext(dir) == ".castr"
}

// firstNames returns up to n names in a directory.
func firstNames(dir string, n int) []string {
	f, err := os.Open(dir)
	if err != nil {
		return nil
	}
	defer f.Close()
	names, _ := f.Readdirnames(n) // at the end of an empty one there is an error
	return names
}

// What the directories in a chunk store are called, and the chunks in these.
var (
	shelf     = regexp.MustCompile(`^[0-9a-f]{4}$`)
	chunkName = regexp.MustCompile(`^[0-9a-f]{64}(\.cacnk)?$`)
)

func (o *seedOpener) dir(path string) error {
	return o.keep(seed.OpenDir(path, seed.DirOptions{Logger: o.log, Memory: o.memory}))
}

func (o *seedOpener) blob(path string) error {
	return o.keep(seed.OpenBlob(path, seed.DirOptions{Logger: o.log, Memory: o.memory}))
}

// engine opens the storage of a container engine: what it has unpacked, and
// after that, since it takes more, what it has not.
func (o *seedOpener) engine(e engine, path string) error {
	err := o.keep(seed.OpenDir(path, seed.DirOptions{Only: e.layers, Logger: o.log, Memory: o.memory}))
	if err == nil && e.blobs != "" {
		if err = o.layout(filepath.Join(path, e.blobs)); errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
	}
	return err
}

func (o *seedOpener) archive(path string) error {
	return o.add(seed.OpenArchive(path, o.archives()))
}

func (o *seedOpener) layout(path string) error {
	return o.add(seed.OpenLayout(path, o.archives()))
}

func (o *seedOpener) archives() seed.ArchiveOptions {
	return seed.ArchiveOptions{SpoolDir: o.spool, Logger: o.log, Memory: o.memory}
}

func (o *seedOpener) store(path string) error {
	s, err := local.Open(path, local.Options{})
	if err != nil {
		return err
	}
	o.closers = append(o.closers, s)
	return o.keep(seed.NewStore(s))
}

func (o *seedOpener) keep(s seed.Seed, err error) error {
	if err == nil {
		o.seeds = append(o.seeds, s)
	}
	return err
}

func (o *seedOpener) add(a *seed.Archive, err error) error {
	if err == nil {
		o.seeds, o.closers, o.archived = append(o.seeds, a), append(o.closers, a), append(o.archived, a)
	}
	return err
}
