package ocidest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/ociv2-sync/ociv2-sync/internal/durable"
	"github.com/ociv2-sync/ociv2-sync/translate"
)

const (
	blobsDir = ocispec.ImageBlobsDir + "/sha256"
	// maxIndex bounds an index.json that an image is added to.
	maxIndex = 16 << 20
	// lockEvery is how often a lock that somebody has is tried.
	lockEvery = 20 * time.Millisecond
)

// layoutMarker is the content of oci-layout.
func layoutMarker() []byte {
	return []byte(`{"imageLayoutVersion":"` + ocispec.ImageLayoutVersion + `"}`)
}

// checkLayout refuses a directory that has something in it and is no layout.
func checkLayout(dir string) error {
	if _, err := os.Stat(filepath.Join(dir, ocispec.ImageLayoutFile)); err == nil {
		return nil
	}
	return durable.CheckDir(dir, false)
}

// writeLayout adds the image to the layout in dir, or makes that.
func writeLayout(ctx context.Context, dir, ref string, img Image, opts Options) (w *Written, err error) {
	if _, serr := os.Stat(filepath.Join(dir, ocispec.ImageLayoutFile)); serr == nil {
		return addToLayout(ctx, dir, ref, img, opts)
	}
	err = durable.Dir(ctx, dir, false, func(temp string) error {
		if err := os.Chmod(temp, 0o755); err != nil { // it is made for its owner alone
			return err
		}
		if err := os.WriteFile(filepath.Join(temp, ocispec.ImageLayoutFile), layoutMarker(), 0o644); err != nil {
			return err
		}
		w, err = addToLayout(ctx, temp, ref, img, opts)
		return err
	})
	return w, err
}

// addToLayout writes the blobs first and the index last; stopped before that, it
// leaves at most blobs that nothing names.
func addToLayout(ctx context.Context, dir, ref string, img Image, opts Options) (_ *Written, err error) {
	blobs := filepath.Join(dir, filepath.FromSlash(blobsDir))
	if err := os.MkdirAll(blobs, 0o755); err != nil {
		return nil, err
	}
	f, err := durable.Create(filepath.Join(blobs, "layer"), 0o644)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	l, err := writeLayer(ctx, img, opts, f)
	if err != nil {
		return nil, err
	}
	config, manifest, err := documents(img, l)
	if err != nil {
		return nil, err
	}
	if err := f.CommitAs(filepath.Join(blobs, l.Digest.Encoded())); err != nil {
		return nil, err
	}
	for _, b := range [][]byte{config, manifest} {
		if err := durable.WriteFile(filepath.Join(blobs, digest.FromBytes(b).Encoded()), b, 0o644); err != nil {
			return nil, err
		}
	}
	entry := indexEntry(manifest, ref)
	if err := addToIndex(ctx, dir, entry); err != nil {
		return nil, err
	}
	return &Written{Digest: entry.Digest, LayerSize: l.Size, Omitted: l.omitted}, nil
}

// addToIndex puts the image into index.json in place of the one of the same name;
// what else is in there stays as it is. Who else adds one waits.
func addToIndex(ctx context.Context, dir string, entry ocispec.Descriptor) (err error) {
	unlock, err := lockDir(ctx, filepath.Join(dir, ocispec.ImageBlobsDir))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	path := filepath.Join(dir, ocispec.ImageIndexFile)
	members := map[string]json.RawMessage{
		"schemaVersion": json.RawMessage("2"),
		"mediaType":     json.RawMessage(`"` + ocispec.MediaTypeImageIndex + `"`),
	}
	var manifests []json.RawMessage
	b, err := readFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	default:
		if manifests, err = parseIndex(b, members, entry.Annotations[ocispec.AnnotationRefName]); err != nil {
			return fmt.Errorf("%s: %w", ocispec.ImageIndexFile, err)
		}
	}
	text, err := json.Marshal(entry)
	if err != nil {
		return err
	}
	if members["manifests"], err = json.Marshal(append(manifests, text)); err != nil {
		return err
	}
	if b, err = json.Marshal(members); err != nil {
		return err
	}
	return durable.WriteFile(path, b, 0o644)
}

// lockDir waits until no other process has the lock of a directory.
func lockDir(ctx context.Context, dir string) (unlock func() error, err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	tick := time.NewTicker(lockEvery)
	defer tick.Stop()
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return f.Close, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errors.Join(&os.PathError{Op: "lock", Path: dir, Err: err}, f.Close())
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), f.Close())
		}
	}
}

// parseIndex reads an index into members and returns the descriptors of all
// images but those called ref.
func parseIndex(b []byte, members map[string]json.RawMessage, ref string) ([]json.RawMessage, error) {
	var all, kept []json.RawMessage
	if err := json.Unmarshal(b, &members); err != nil {
		return nil, fmt.Errorf("%w: %w", translate.ErrMalformed, err)
	}
	if m, ok := members["manifests"]; ok {
		if err := json.Unmarshal(m, &all); err != nil {
			return nil, fmt.Errorf("%w: %w", translate.ErrMalformed, err)
		}
	}
	for _, m := range all {
		var d ocispec.Descriptor
		if err := json.Unmarshal(m, &d); err != nil {
			return nil, fmt.Errorf("%w: %w", translate.ErrMalformed, err)
		}
		if d.Annotations[ocispec.AnnotationRefName] != ref {
			kept = append(kept, m)
		}
	}
	return kept, nil
}

// readFile reads a regular file of at most maxIndex bytes.
func readFile(path string) ([]byte, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() || fi.Size() > maxIndex {
		return nil, fmt.Errorf("%w: %s is not a regular file of at most %d bytes", translate.ErrLimit, path, maxIndex)
	}
	return os.ReadFile(path)
}
