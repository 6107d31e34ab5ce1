package root

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/ociv2-sync/ociv2-sync/internal/durable"
)

// versionText is the whole content of ROOT/version. Every format begins with
// versionPrefix.
const (
	versionPrefix = "ociv2-sync root "
	versionText   = versionPrefix + "1\n"
)

// The directories and files of a root (docs/format/root.md section 1).
const (
	versionFile = "version"
	lockFile    = "lock"
	imagesDir   = "images"
	treesDir    = "trees"
	refsDir     = "refs"
	blobsDir    = "blobs/sha256"
	tmpDir      = "tmp"
	chunksDir   = "chunks.castr"
	// catalogueDir is made by whoever has something to keep there.
	catalogueDir = "catalogue"
	// objectsDir likewise.
	objectsDir = "objects"
)

var (
	// ErrNotRoot means that a directory has something in it and is not a root.
	ErrNotRoot = errors.New("not a root of images")
	// ErrVersion means that the root has a format that this program does not know.
	ErrVersion = errors.New("unknown version of the root's format")
	// ErrNotFound means that the root has no such image, tag, tree or blob.
	ErrNotFound = errors.New("not found in the root")
	// ErrCorrupt means that a file of the root is not what was written there.
	ErrCorrupt = errors.New("corrupt")
	// ErrName means that an image cannot have this name or tag.
	ErrName = errors.New("invalid name or tag")
	// ErrNoPredecessor means that there is nothing to roll back to.
	ErrNoPredecessor = errors.New("no predecessor is kept")
)

// DefaultKeep is how many predecessors of each tag are kept for rollback.
const DefaultKeep = 2

// Options are the options of [Open]. The zero value works.
type Options struct {
	// Keep is how many predecessors of each tag are kept for rollback; 0 means
	// DefaultKeep, less than 0 none.
	Keep int
	// ReadOnly opens a root that exists and makes nothing. A root that does not
	// exist is then an error that is fs.ErrNotExist.
	ReadOnly bool
	// Now is the clock for the times of images; nil means time.Now.
	Now func() time.Time
}

// Root is an open root. Its methods may be called from any goroutine; none of them
// writes.
type Root struct {
	path string
	keep int
	now  func() time.Time
}

// DefaultPath returns where the images are when nobody says: /var/lib/images for the
// user 0, ociv2-sync/images in the XDG data directory for others. getenv returns the
// value of an environment variable, "" where it is not set.
func DefaultPath(uid int, getenv func(name string) string) (string, error) {
	if uid == 0 {
		return "/var/lib/images", nil
	}
	// The XDG base directory specification has relative paths ignored.
	if data := getenv("XDG_DATA_HOME"); filepath.IsAbs(data) {
		return filepath.Join(data, "ociv2-sync", "images"), nil
	}
	if home := getenv("HOME"); filepath.IsAbs(home) {
		return filepath.Join(home, ".local", "share", "ociv2-sync", "images"), nil
	}
	return "", errors.New("root: neither XDG_DATA_HOME nor HOME says where the images are")
}

// Open opens the root at path and makes what is missing of it. A directory that is
// not empty and not a root is refused (ErrNotRoot), so that no mistyped path is taken over.
func Open(path string, o Options) (*Root, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("root: %w", err)
	}
	r := &Root{path: path, keep: max(o.Keep, 0), now: o.Now}
	if o.Keep == 0 {
		r.keep = DefaultKeep
	}
	if r.now == nil {
		r.now = time.Now
	}
	if !o.ReadOnly {
		if err := r.create(); err != nil {
			return nil, err
		}
	}
	switch state, err := r.version(); {
	case err != nil:
		return nil, err
	case state == versionNewer:
		return nil, fmt.Errorf("root: %s: %w", path, ErrVersion)
	case state != versionOurs:
		return nil, fmt.Errorf("root: %s: %w", path, ErrNotRoot)
	}
	return r, nil
}

// versionState is what the version file says of a directory.
type versionState int

const (
	versionNone  versionState = iota // there is none, or it is not one of ours
	versionCut                       // empty, or a beginning of ours: its writer was cut
	versionOurs                      // this format
	versionNewer                     // another format of ours
)

// version reads the version file. That the directory is not there, or is empty, is fs.ErrNotExist.
func (r *Root) version() (versionState, error) {
	st, err := os.Stat(r.join(versionFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		entries, err := os.ReadDir(r.path)
		if err == nil && len(entries) == 0 {
			err = &fs.PathError{Op: "open", Path: r.join(versionFile), Err: fs.ErrNotExist}
		}
		if err != nil {
			return versionNone, fmt.Errorf("root: %w", err)
		}
		return versionNone, nil
	case errors.Is(err, syscall.ENOTDIR): // a file
		return versionNone, nil
	case err != nil:
		return versionNone, fmt.Errorf("root: %w", err)
	case !st.Mode().IsRegular() || st.Size() > 100:
		return versionNone, nil
	}
	content, err := os.ReadFile(r.join(versionFile))
	if err != nil {
		return versionNone, fmt.Errorf("root: %w", err)
	}
	switch text := string(content); {
	case text == versionText:
		return versionOurs, nil
	case strings.HasPrefix(versionText, text):
		return versionCut, nil
	case strings.HasPrefix(text, versionPrefix):
		return versionNewer, nil
	}
	return versionNone, nil
}

// create makes what is missing of the structure. The version file comes first: a
// directory with anything else in it and without that file is not ours.
func (r *Root) create() error {
	if err := os.MkdirAll(filepath.Dir(r.path), 0o755); err != nil {
		return fmt.Errorf("root: %w", err)
	}
	// Old images hold programs with known holes, setuid ones among them: only the
	// owner may reach them. Whoever wants otherwise changes this one mode.
	if err := os.Mkdir(r.path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("root: %w", err)
	} else if err != nil {
		if fi, err := os.Stat(r.path); err == nil && !fi.IsDir() {
			return fmt.Errorf("root: %s: %w", r.path, ErrNotRoot)
		}
	}
	if err := r.createVersion(); err != nil {
		return err
	}
	made := false
	for _, d := range []struct {
		name string
		mode fs.FileMode
	}{
		{imagesDir, 0o755}, {treesDir, 0o755}, {refsDir, 0o755}, {filepath.Dir(blobsDir), 0o755}, {blobsDir, 0o755}, {tmpDir, 0o700}, {chunksDir, 0o700},
	} {
		err := os.Mkdir(r.join(d.name), d.mode)
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("root: %w", err)
		}
		made = made || err == nil
	}
	if !made {
		return nil
	}
	if err := durable.SyncDir(r.path); err != nil {
		return fmt.Errorf("root: %w", err)
	}
	return nil
}

// createVersion writes the version file unless it is there. Two processes may do so at
// once, and one may have died on the way: a file that is empty or has the
// beginning of the text is written over with the same bytes.
func (r *Root) createVersion() (err error) {
	// What is in use at one look may be the work of another process that makes this
	// very root: the next look then sees how far it has come.
	const looks = 3
	for look := 1; ; look++ {
		state, err := r.version()
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if state == versionOurs || state == versionNewer { // Open refuses the latter
			return nil
		}
		used, err := r.inUse(state)
		if err != nil {
			return err
		}
		if !used {
			break
		}
		if look == looks {
			return fmt.Errorf("root: %s: %w", r.path, ErrNotRoot)
		}
	}
	f, err := os.OpenFile(r.join(versionFile), os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		return fmt.Errorf("root: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.WriteAt([]byte(versionText), 0); err != nil {
		return fmt.Errorf("root: %w", err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("root: %w", err)
	}
	if err := durable.SyncDir(r.path); err != nil {
		return fmt.Errorf("root: %w", err)
	}
	return nil
}

// inUse reports whether the directory holds anything but what a new file system has
// and what a cut Open left.
func (r *Root) inUse(state versionState) (bool, error) {
	entries, err := os.ReadDir(r.path)
	if err != nil {
		return false, fmt.Errorf("root: %w", err)
	}
	return slices.ContainsFunc(entries, func(e fs.DirEntry) bool {
		return e.Name() != "lost+found" && (e.Name() != versionFile || state != versionCut)
	}), nil
}

// Path returns the absolute path of the root.
func (r *Root) Path() string { return r.path }

// ChunkCache returns the path of a casync chunk store for what a pull has fetched, so
// that the next one continues where this one was cut. Only the holder of the lock may
// write to it; see [Writer.ClearChunkCache].
func (r *Root) ChunkCache() string { return r.join(chunksDir) }

// Catalogue returns the path of the directory, which may not exist yet, for what is known
// of seed files. It may be written to beside a writer: whoever does takes a lock there.
func (r *Root) Catalogue() string { return r.join(catalogueDir) }

// Objects returns the path of the directory, which may not exist yet, for the files that
// trees share. Only the holder of the lock may write to it.
func (r *Root) Objects() string { return ObjectsOf(r.path) }

// ObjectsOf is Root.Objects for a path where there may be no root yet.
func ObjectsOf(path string) string { return filepath.Join(path, objectsDir) }

func (r *Root) join(names ...string) string {
	return filepath.Join(append([]string{r.path}, names...)...)
}
