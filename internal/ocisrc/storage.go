package ocisrc

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/ociv2-sync/ociv2-sync/translate"
)

// storageDrivers are the drivers whose layers can be read, and where below the
// driver's directory a layer has its files.
var storageDrivers = map[string]func(layer string) string{
	"overlay": func(layer string) string { return "overlay/" + layer + "/diff" },
	"vfs":     func(layer string) string { return "vfs/dir/" + layer },
}

// storedImage is an element of DRIVER-images/images.json.
type storedImage struct {
	ID     string        `json:"id"`
	Digest digest.Digest `json:"digest"`
	Names  []string      `json:"names"`
	Layer  string        `json:"layer"`
}

// storedLayer is an element of DRIVER-layers/layers.json.
type storedLayer struct {
	ID     string `json:"id"`
	Parent string `json:"parent"`
	// Size is that of the uncompressed layer.
	Size int64 `json:"diff-size"`
}

// storage is the storage of podman, buildah and CRI-O. It is only read, without its
// locks: what changes meanwhile no longer has the digests that it should have.
type storage struct {
	root   *os.Root
	driver string
}

// openStorage opens an image in a storage. ref is [[DRIVER@]DIR[+RUN][:OPTIONS]]NAME as
// in containers-transports(5), where the first pair of brackets is meant as it is
// written; home is the storage where ref names none.
func openStorage(ctx context.Context, ref, home string) (*Image, error) {
	driver, name := "", ref
	if spec, ok := strings.CutPrefix(ref, "["); ok {
		if spec, name, ok = strings.Cut(spec, "]"); !ok {
			return nil, fmt.Errorf("%w: no ] after [", ErrReference)
		}
		if d, rest, ok := strings.Cut(spec, "@"); ok {
			driver, spec = d, rest
		}
		spec, _, _ = strings.Cut(spec, "+")
		if spec, _, _ = strings.Cut(spec, ":"); spec != "" {
			home = spec
		}
	}
	if _, known := storageDrivers[driver]; driver != "" && !known {
		return nil, fmt.Errorf("%w: storage driver %q is neither overlay nor vfs", translate.ErrUnsupported, driver)
	}
	if name == "" || home == "" {
		return nil, fmt.Errorf("%w: want containers-storage:[[DRIVER@]DIR]NAME, or NAME in the storage of this user", ErrReference)
	}
	root, err := os.OpenRoot(home)
	if err != nil {
		return nil, missing(err)
	}
	img, err := findStored(ctx, root, driver, name)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("storage %s: %w", home, err), root.Close())
	}
	img.close = root.Close
	return img, nil
}

// findStored opens the image in the first driver's part that has it.
func findStored(ctx context.Context, root *os.Root, driver, name string) (*Image, error) {
	err := fmt.Errorf("%w: no images of the drivers overlay and vfs", ErrNotFound)
	for _, d := range []string{"overlay", "vfs"} {
		if driver != "" && d != driver {
			continue
		}
		if _, serr := root.Stat(d + "-images"); errors.Is(serr, fs.ErrNotExist) {
			continue
		}
		var img *Image
		if img, err = (&storage{root, d}).open(ctx, name); !errors.Is(err, ErrNotFound) {
			return img, err
		}
	}
	return nil, err
}

// open opens the image that name means.
func (s *storage) open(ctx context.Context, name string) (*Image, error) {
	var images []storedImage
	if err := readJSON(rootFS{s.root}, s.driver+"-images/images.json", &images); err != nil {
		return nil, err
	}
	found, err := pickStored(images, name)
	if err != nil {
		return nil, err
	}
	var m ocispec.Manifest
	manifest, err := readDocument(rootFS{s.root}, s.data(found.ID, "manifest"), &m)
	if err != nil {
		return nil, err
	}
	if m.Config.MediaType != ocispec.MediaTypeImageConfig && m.Config.MediaType != dockerConfig {
		return nil, fmt.Errorf("%w: a config of media type %q, it is no image", translate.ErrUnsupported, m.Config.MediaType)
	}
	l := &layout{blobs: stored{s, found.ID}}
	config, err := l.document(ctx, "config", m.Config, &struct{}{})
	if err != nil {
		return nil, err
	}
	chain, err := s.layers(found.Layer)
	if err != nil {
		return nil, err
	}
	layers := make([]translate.Layer, len(chain))
	for i, c := range chain {
		layers[i] = translate.Layer{Size: c.Size, MediaType: ocispec.MediaTypeImageLayer}
	}
	info, err := translate.NewImageInfo(config, m.Config.MediaType, digest.FromBytes(manifest), layers)
	if err != nil {
		return nil, err
	}
	return &Image{
		info: info,
		open: func(_ context.Context, i int) (io.ReadCloser, error) { return s.layer(chain[i].ID) },
	}, nil
}

// data is the path of something that is kept for an image.
func (s *storage) data(id, key string) string {
	if strings.ContainsFunc(key, func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '.' }) {
		key = "=" + base64.StdEncoding.EncodeToString([]byte(key))
	}
	return s.driver + "-images/" + id + "/" + key
}

// stored are the objects that are kept for an image.
type stored struct {
	s  *storage
	id string
}

// Fetch implements fetcher.
func (o stored) Fetch(_ context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	f, err := rootFS{o.s.root}.Open(o.s.data(o.id, d.Digest.String()))
	return f, missing(err)
}

// pickStored returns the image that name means: NAME[:TAG][@DIGEST], with or without
// the registry and path at its beginning, or @ID, or a part of an ID.
func pickStored(images []storedImage, name string) (*storedImage, error) {
	name, id, _ := strings.Cut(name, "@")
	want := digest.Digest(id)
	if want.Validate() == nil {
		id = ""
	} else {
		want = ""
	}
	if name != "" {
		name = familiar(name)
	}
	var found, partly []*storedImage
	for i := range images {
		m := &images[i]
		if want != "" && m.Digest != want || id != "" && !strings.HasPrefix(m.ID, id) {
			continue
		}
		switch {
		case name == "", slices.ContainsFunc(m.Names, func(n string) bool { return familiar(n) == name }):
			found = append(found, m)
		case slices.ContainsFunc(m.Names, func(n string) bool { return strings.HasSuffix(n, "/"+name) }):
			partly = append(partly, m)
		}
	}
	if len(found) == 0 {
		found = partly
	}
	switch len(found) {
	case 0:
		return nil, fmt.Errorf("%w: no image %q", ErrNotFound, name+id+want.String())
	case 1:
		return found[0], nil
	}
	return nil, fmt.Errorf("%w: which of %q and %q?", ErrReference, found[0].Names, found[1].Names)
}

// layers returns the layers below and with top, the lowest first.
func (s *storage) layers(top string) (chain []storedLayer, err error) {
	var list []storedLayer
	if err := readJSON(rootFS{s.root}, s.driver+"-layers/layers.json", &list); err != nil {
		return nil, err
	}
	byID := make(map[string]storedLayer, len(list))
	for _, l := range list {
		byID[l.ID] = l
	}
	for id := top; id != ""; {
		l, ok := byID[id]
		if !ok || !fs.ValidPath(id) || strings.Contains(id, "/") {
			return nil, fmt.Errorf("%w: layer %q", ErrNotFound, id)
		}
		delete(byID, id) // each once: there are no circles
		chain = append(chain, l)
		id = l.Parent
	}
	slices.Reverse(chain)
	return chain, nil
}

// layer opens the tar of a layer, put together from the files and the record of all else
// that the engine keeps. It is not verified.
func (s *storage) layer(id string) (io.ReadCloser, error) {
	record, err := rootFS{s.root}.Open(s.driver + "-layers/" + id + ".tar-split.gz")
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("%w: the storage does not keep what the layer's archive was like: %w", translate.ErrUnsupported, err)
		}
		return nil, err
	}
	files, err := s.root.OpenRoot(storageDrivers[s.driver](id))
	if err != nil {
		return nil, errors.Join(missing(err), record.Close())
	}
	return newSplitTar(record, files), nil
}
