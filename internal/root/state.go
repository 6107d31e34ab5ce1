package root

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// Version is one state that a tag has had (docs/format/root.md section 3).
type Version struct {
	// Manifest is the digest of the image's manifest, which names the tree.
	Manifest digest.Digest `json:"manifest"`
	// Source is the reference that it was pulled from.
	Source string `json:"source"`
	// Time is when it was pulled.
	Time time.Time `json:"time"`
}

// Image is a tag of the root.
type Image struct {
	Name, Tag string
	// Path is the stable path of the tree: a symlink that is switched when the
	// tag changes.
	Path string
	// Current is what Path shows.
	Current Version
	// Predecessors are the versions that are kept for rollback, the latest first.
	Predecessors []Version
}

// Tree is a complete tree of the root (docs/format/root.md section 2).
type Tree struct {
	// Manifest, Config and TOC are the digests of the image's manifest and
	// config and of the canonical table of contents. The blobs are in the root.
	Manifest digest.Digest
	Config   digest.Digest
	TOC      digest.Digest
	// RootFS is the path of the filesystem.
	RootFS string
	// TOCPath is the path of the uncompressed table of contents.
	TOCPath string
}

// treeFile is trees/DIGEST/tree.json.
type treeFile struct {
	Config digest.Digest `json:"config"`
	TOC    digest.Digest `json:"toc"`
}

// refFile is refs/NAME/TAG.json: the versions of a tag, the latest first. The one that
// is current is the one that the symlink shows; those before it were rolled back from,
// or their writer was cut before it switched the symlink.
type refFile struct {
	Versions []Version `json:"versions"`
}

// maxState limits how much of a JSON file of the root is read.
const maxState = 1 << 20

// maxBlob limits how much of a manifest, config or table of contents is read.
const maxBlob = 1 << 30

const (
	rootfsDir = "rootfs"
	treeJSON  = "tree.json"
	hexPrefix = "sha256-"
)

// maxName is the longest escaped name: it is the name of a directory in refs/.
const maxName = 250

var nameComponent = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$`)

// checkName refuses names and tags that are not fit to be paths of directories and
// of the files that belong to them.
func checkName(name, tag string) error {
	if len(url.PathEscape(name)) > maxName {
		return fmt.Errorf("root: %w: the name %.40q... is too long", ErrName, name)
	}
	for component := range strings.SplitSeq(name, "/") {
		if !nameComponent.MatchString(component) {
			return fmt.Errorf("root: %w: name %q", ErrName, name)
		}
	}
	if !nameComponent.MatchString(tag) {
		return fmt.Errorf("root: %w: tag %q", ErrName, tag)
	}
	return nil
}

// treeName returns the directory of a tree in trees/. The colon of a digest would
// end a path in overlayfs options, PATH and the like.
func treeName(d digest.Digest) string { return hexPrefix + d.Encoded() }

func checkDigest(d digest.Digest) error {
	if err := d.Validate(); err != nil || d.Algorithm() != digest.SHA256 {
		return fmt.Errorf("%q is not a sha256 digest", d)
	}
	return nil
}

// refPath returns the path of refs/NAME/TAG.json. A slash in the name is escaped: the
// records of "a/b" are not below those of "a".
func (r *Root) refPath(name, tag string) string {
	return r.join(refsDir, url.PathEscape(name), tag+".json")
}

func (r *Root) linkPath(name, tag string) string {
	return r.join(imagesDir, filepath.FromSlash(name), tag)
}

// linkTarget returns what the symlink of a tag says: relative, so that the root can be
// moved.
func linkTarget(name string, manifest digest.Digest) string {
	return strings.Repeat("../", strings.Count(name, "/")+2) + filepath.Join(treesDir, treeName(manifest), rootfsDir)
}

// parseTarget returns the manifest digest that a name's symlink shows.
func parseTarget(name, target string) (digest.Digest, error) {
	encoded := strings.TrimPrefix(filepath.Base(filepath.Dir(target)), hexPrefix)
	d := digest.NewDigestFromEncoded(digest.SHA256, encoded)
	if d.Validate() != nil || linkTarget(name, d) != target {
		return "", fmt.Errorf("%w: %q is not the path of a tree", ErrCorrupt, target)
	}
	return d, nil
}

// readState reads a JSON file of the root into v, strictly.
func readState(path string, v any) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxState+1))
	if err != nil {
		return err
	}
	if err := decodeState(data, v); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

func decodeState(data []byte, v any) error {
	if len(data) > maxState {
		return fmt.Errorf("%w: more than %d bytes", ErrCorrupt, maxState)
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: something follows the JSON object", ErrCorrupt)
	}
	var digests []digest.Digest
	switch v := v.(type) {
	case *treeFile:
		digests = []digest.Digest{v.Config, v.TOC}
	case *refFile:
		if len(v.Versions) == 0 {
			return fmt.Errorf("%w: no version", ErrCorrupt)
		}
		for _, version := range v.Versions {
			digests = append(digests, version.Manifest)
		}
	}
	for _, d := range digests {
		if err := checkDigest(d); err != nil {
			return fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
	}
	return nil
}

// image reads one tag and all versions of its record. The symlink decides what is
// current.
func (r *Root) image(name, tag string) (*Image, []Version, error) {
	const attempts = 5
	link := r.linkPath(name, tag)
	for attempt := 1; ; attempt++ {
		// The symlink is read before the record: a writer writes the record first, so it
		// names what the symlink shows, unless several commits came between the two.
		target, linkErr := os.Readlink(link)
		var ref refFile
		if err := readState(r.refPath(name, tag), &ref); errors.Is(err, fs.ErrNotExist) {
			return nil, nil, fmt.Errorf("root: %s:%s: %w", name, tag, ErrNotFound)
		} else if err != nil {
			return nil, nil, fmt.Errorf("root: %w", err)
		}
		if errors.Is(linkErr, fs.ErrNotExist) {
			// The first commit of this tag was cut before the symlink: there is no image yet.
			return nil, ref.Versions, fmt.Errorf("root: %s:%s: %w", name, tag, ErrNotFound)
		} else if linkErr != nil {
			return nil, nil, fmt.Errorf("root: %w", linkErr)
		}
		current, err := parseTarget(name, target)
		if err != nil {
			return nil, nil, fmt.Errorf("root: %s: %w", link, err)
		}
		i := slices.IndexFunc(ref.Versions, func(v Version) bool { return v.Manifest == current })
		if i >= 0 {
			img := &Image{Name: name, Tag: tag, Path: link, Current: ref.Versions[i], Predecessors: ref.Versions[i+1:]}
			return img, ref.Versions, nil
		}
		if attempt == attempts {
			return nil, nil, fmt.Errorf("root: %s: %w: it shows %s, which %s does not name", link, ErrCorrupt, current, r.refPath(name, tag))
		}
	}
}

// Image returns one tag, ErrNotFound when the root does not have it.
func (r *Root) Image(name, tag string) (*Image, error) {
	if err := checkName(name, tag); err != nil {
		return nil, err
	}
	img, _, err := r.image(name, tag)
	return img, err
}

// Images returns all tags in the order of their names. One that cannot be read is in
// the error, and does not hide the others.
func (r *Root) Images() ([]*Image, error) {
	var images []*Image
	var errs []error
	err := r.eachRef(func(name, tag string) {
		img, _, err := r.image(name, tag)
		if err == nil {
			images = append(images, img)
		} else if !errors.Is(err, ErrNotFound) {
			errs = append(errs, err)
		}
	})
	slices.SortFunc(images, func(a, b *Image) int {
		return strings.Compare(a.Name+":"+a.Tag, b.Name+":"+b.Tag)
	})
	return images, errors.Join(append(errs, err)...)
}

// eachRef calls f with every name and tag that has a record.
func (r *Root) eachRef(f func(name, tag string)) error {
	names, err := os.ReadDir(r.join(refsDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // whoever made the root was cut
	} else if err != nil {
		return fmt.Errorf("root: %w", err)
	}
	var errs []error
	for _, dir := range names {
		name, err := url.PathUnescape(dir.Name())
		if err != nil || !dir.IsDir() {
			continue // not made by this package
		}
		files, err := os.ReadDir(r.join(refsDir, dir.Name()))
		if err != nil {
			errs = append(errs, fmt.Errorf("root: %w", err))
			continue
		}
		for _, file := range files {
			// What a cut write left begins with a dot and is no name.
			tag, ok := strings.CutSuffix(file.Name(), ".json")
			if ok && checkName(name, tag) == nil {
				f(name, tag)
			}
		}
	}
	return errors.Join(errs...)
}

// Trees returns every complete tree, whether a tag shows it or not: each of them is
// a seed. One that cannot be read is in the error, and does not hide the others.
func (r *Root) Trees() ([]*Tree, error) {
	entries, err := os.ReadDir(r.join(treesDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // whoever made the root was cut
	} else if err != nil {
		return nil, fmt.Errorf("root: %w", err)
	}
	var trees []*Tree
	var errs []error
	for _, e := range entries {
		name, ok := strings.CutPrefix(e.Name(), hexPrefix)
		d := digest.NewDigestFromEncoded(digest.SHA256, name)
		if !ok || d.Validate() != nil {
			continue
		}
		t, err := r.Tree(d)
		if err == nil {
			trees = append(trees, t)
		} else if !errors.Is(err, ErrNotFound) { // pruned meanwhile
			errs = append(errs, err)
		}
	}
	return trees, errors.Join(errs...)
}

// Tree returns the tree of a manifest, ErrNotFound when the root does not have it.
func (r *Root) Tree(manifest digest.Digest) (*Tree, error) {
	if err := checkDigest(manifest); err != nil {
		return nil, fmt.Errorf("root: tree: %w", err)
	}
	dir := r.join(treesDir, treeName(manifest))
	var f treeFile
	if err := readState(filepath.Join(dir, treeJSON), &f); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("root: tree %s: %w", manifest, ErrNotFound)
	} else if err != nil {
		return nil, fmt.Errorf("root: %w", err)
	}
	rootfs := filepath.Join(dir, rootfsDir)
	fi, err := os.Lstat(rootfs)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) { // pruned since
			return nil, fmt.Errorf("root: tree %s: %w", manifest, ErrNotFound)
		}
	}
	if err == nil && !fi.IsDir() || errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("root: tree %s: %w: there is no %s", manifest, ErrCorrupt, rootfs)
	} else if err != nil {
		return nil, fmt.Errorf("root: %w", err)
	}
	return &Tree{
		Manifest: manifest, Config: f.Config, TOC: f.TOC,
		RootFS: rootfs, TOCPath: r.blobPath(f.TOC),
	}, nil
}

func (r *Root) blobPath(d digest.Digest) string { return r.join(blobsDir, d.Encoded()) }

// Blob returns a manifest, image config or table of contents that the root keeps, verified
// against its digest; ErrNotFound when it is not there, ErrCorrupt when it is not what
// was stored.
func (r *Root) Blob(d digest.Digest) ([]byte, error) {
	if err := checkDigest(d); err != nil {
		return nil, fmt.Errorf("root: blob: %w", err)
	}
	f, err := os.Open(r.blobPath(d))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("root: blob %s: %w", d, ErrNotFound)
	} else if err != nil {
		return nil, fmt.Errorf("root: %w", err)
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("root: %w", err)
	}
	data := make([]byte, min(fi.Size(), maxBlob)) // exactly: some are large
	if _, err := io.ReadFull(f, data); err != nil {
		return nil, fmt.Errorf("root: %w", err)
	}
	if digest.FromBytes(data) != d {
		return nil, fmt.Errorf("root: blob %s: %w: its content has another digest", d, ErrCorrupt)
	}
	return data, nil
}
