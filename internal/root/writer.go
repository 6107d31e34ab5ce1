package root

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/ociv2-sync/ociv2-sync/internal/durable"
)

// LockedError means that another process writes to the root.
type LockedError struct {
	Path   string // of the root
	Holder string // who has the lock, as it said itself: "pid 123 (…)"
}

// Error says who holds the lock.
func (e *LockedError) Error() string {
	return fmt.Sprintf("root: %s is being written to by %s", e.Path, e.Holder)
}

// Writer is the lock of a root, and with it the right to change the root. Its methods
// may not be called at the same time.
type Writer struct {
	root   *Root
	lock   *os.File
	leased []digest.Digest // see Leased
	stale  bool            // a writer that died left something: objects that no tree has, maybe
}

// Lock makes the caller the writer of the root until [Writer.Unlock]; a *LockedError when
// another one is, whether in this process or not. holder says in a few words who
// asks, for the error that others get. What writers that died left half done is removed.
func (r *Root) Lock(holder string) (*Writer, error) {
	f, err := os.OpenFile(r.join(lockFile), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("root: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer f.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("root: lock %s: %w", r.path, err)
		}
		text, _ := io.ReadAll(io.LimitReader(f, 256))
		who := strings.TrimSpace(string(text))
		if who == "" { // it has the lock and has not written its name yet
			who = "another process"
		}
		return nil, &LockedError{Path: r.path, Holder: who}
	}
	w := &Writer{root: r, lock: f}
	text := fmt.Appendf(nil, "pid %d (%.200s)\n", os.Getpid(), holder)
	if err := errors.Join(f.Truncate(0), writeAt(f, text)); err != nil {
		return nil, errors.Join(fmt.Errorf("root: %w", err), w.Unlock())
	}
	if err := w.removeStale(); err != nil {
		return nil, errors.Join(err, w.Unlock())
	}
	return w, nil
}

func writeAt(f *os.File, p []byte) error {
	_, err := f.WriteAt(p, 0)
	return err
}

// Unlock gives the lock up.
func (w *Writer) Unlock() error {
	// An empty file names nobody; the file itself stays, or two processes could lock
	// two files of the same name. Closing alone would leave the lock, for a moment, to
	// a child that is being started and has not got rid of what it inherited.
	err := errors.Join(w.lock.Truncate(0), unix.Flock(int(w.lock.Fd()), unix.LOCK_UN), w.lock.Close())
	if err != nil {
		return fmt.Errorf("root: unlock: %w", err)
	}
	return nil
}

// removeStale empties tmp/, where only the holder of the lock works.
func (w *Writer) removeStale() error {
	entries, err := os.ReadDir(w.root.join(tmpDir))
	if err != nil {
		return fmt.Errorf("root: %w", err)
	}
	for _, e := range entries {
		w.stale = true
		if err := removeAll(w.root.join(tmpDir, e.Name())); err != nil {
			return fmt.Errorf("root: %w", err)
		}
	}
	return nil
}

// TempTree is a tree that is being built.
type TempTree struct {
	// Path is a new directory, mode 0700, to build the filesystem in. It is the root of
	// the filesystem: its own attributes become those of "/".
	Path string

	dir string // the directory in tmp/ that becomes one of trees/; "" once it has
}

// TempTree returns a place for a new tree, on the file system where it will stay. Call
// [TempTree.Remove] on every way out.
func (w *Writer) TempTree() (*TempTree, error) {
	dir, err := os.MkdirTemp(w.root.join(tmpDir), "tree-")
	if err != nil {
		return nil, fmt.Errorf("root: %w", err)
	}
	t := &TempTree{Path: filepath.Join(dir, rootfsDir), dir: dir}
	// tmp/ is closed; in trees/ the mode of the root itself decides who comes here.
	if err := errors.Join(os.Chmod(dir, 0o755), os.Mkdir(t.Path, 0o700)); err != nil {
		return nil, errors.Join(fmt.Errorf("root: %w", err), t.Remove())
	}
	return t, nil
}

// Remove removes the tree unless it has been committed; then it does nothing.
func (t *TempTree) Remove() error {
	if t.dir == "" {
		return nil
	}
	if err := removeAll(t.dir); err != nil {
		return fmt.Errorf("root: %w", err)
	}
	return nil
}

// Blobs are the bytes that describe an image. They are kept by digest.
type Blobs struct {
	Manifest []byte
	Config   []byte // the image's own config
	TOC      []byte // the table of contents, canonical and uncompressed
}

// Commit makes the tree that was built at t.Path the tree of its manifest and shows it
// under the name and the tag; source is the reference that it was pulled from. The steps
// are those of docs/format/root.md section 4. On error the tag shows what it
// showed before, and t is the caller's to remove.
//
// A tree of this manifest that the root has already is replaced.
func (w *Writer) Commit(t *TempTree, b Blobs, name, tag, source string) error {
	if err := w.checkTag(name, tag); err != nil {
		return err
	}
	manifest := digest.FromBytes(b.Manifest)
	if err := w.place(t, b, manifest); err != nil {
		return fmt.Errorf("root: commit %s:%s: %w", name, tag, err)
	}
	return w.Tag(name, tag, manifest, source)
}

// place stores the blobs and moves the tree to trees/.
func (w *Writer) place(t *TempTree, b Blobs, manifest digest.Digest) error {
	r := w.root
	f := treeFile{Config: digest.FromBytes(b.Config), TOC: digest.FromBytes(b.TOC)}
	for d, data := range map[digest.Digest][]byte{manifest: b.Manifest, f.Config: b.Config, f.TOC: b.TOC} {
		if err := durable.WriteFile(r.blobPath(d), data, 0o644); err != nil {
			return err
		}
	}
	text, err := json.Marshal(f)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(t.dir, treeJSON), text, 0o644); err != nil {
		return err
	}
	if err := durable.SyncFS(r.path); err != nil { // the tree and tree.json
		return err
	}
	to := r.join(treesDir, treeName(manifest))
	switch err := unix.Renameat2(unix.AT_FDCWD, t.dir, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE); {
	case err == nil:
		t.dir = ""
	case errors.Is(err, unix.EEXIST):
		// The old tree of the same image takes the new one's place in tmp/, where t
		// removes it.
		if err := unix.Renameat2(unix.AT_FDCWD, t.dir, unix.AT_FDCWD, to, unix.RENAME_EXCHANGE); err != nil {
			return &os.LinkError{Op: "exchange", Old: t.dir, New: to, Err: err}
		}
	default:
		return &os.LinkError{Op: "rename", Old: t.dir, New: to, Err: err}
	}
	return durable.SyncDir(r.join(treesDir))
}

// Tag shows the tree of a manifest, which the root must have, under a name and a tag. What
// the tag showed before becomes its latest predecessor.
func (w *Writer) Tag(name, tag string, manifest digest.Digest, source string) error {
	if err := w.checkTag(name, tag); err != nil {
		return err
	}
	if _, err := w.root.Tree(manifest); err != nil {
		return err
	}
	next := []Version{{Manifest: manifest, Source: source, Time: w.root.now().UTC()}}
	var old []Version
	switch img, _, err := w.root.image(name, tag); {
	case err == nil:
		old = append([]Version{img.Current}, img.Predecessors...)
		old = slices.DeleteFunc(old, func(v Version) bool { return v.Manifest == manifest })
	case !errors.Is(err, ErrNotFound) && !errors.Is(err, ErrCorrupt):
		return err // a corrupt state is lost: the new one does not depend on it
	}
	// The record comes first: until the symlink is switched, it is read as the old state
	// with the new version set aside. For that it must name what the symlink shows, also
	// where that is not to be kept.
	record := append(slices.Clone(next), old[:min(len(old), max(w.root.keep, 1))]...)
	if err := w.writeRef(name, tag, record); err != nil {
		return err
	}
	if err := w.switchLink(name, tag, manifest); err != nil {
		return err
	}
	if w.root.keep == 0 && len(record) > 1 {
		return w.writeRef(name, tag, next)
	}
	return nil
}

// Rollback shows the latest predecessor of a tag again and returns the tag as it is then;
// ErrNoPredecessor when none is kept. What it showed is kept until the next commit.
func (w *Writer) Rollback(name, tag string) (*Image, error) {
	img, err := w.root.Image(name, tag)
	if err != nil {
		return nil, err
	}
	if len(img.Predecessors) == 0 {
		return nil, fmt.Errorf("root: %s:%s: %w", name, tag, ErrNoPredecessor)
	}
	to := img.Predecessors[0]
	if _, err := w.root.Tree(to.Manifest); err != nil {
		return nil, err
	}
	if err := w.switchLink(name, tag, to.Manifest); err != nil {
		return nil, err
	}
	img.Current, img.Predecessors = to, img.Predecessors[1:]
	return img, nil
}

// checkTag refuses a tag that has no place: a name is a directory in images/, a tag is a
// symlink.
func (w *Writer) checkTag(name, tag string) error {
	if err := checkName(name, tag); err != nil {
		return err
	}
	path := w.root.join(imagesDir)
	for component := range strings.SplitSeq(name, "/") {
		path = filepath.Join(path, component)
		if st, err := os.Lstat(path); err == nil && !st.IsDir() {
			return fmt.Errorf("root: %w: %s:%s is in the way of another image, %s", ErrName, name, tag, path)
		}
	}
	if st, err := os.Lstat(filepath.Join(path, tag)); err == nil && st.Mode().Type() != fs.ModeSymlink {
		return fmt.Errorf("root: %w: %s:%s is in the way of the images below %s", ErrName, name, tag, filepath.Join(path, tag))
	}
	return nil
}

func (w *Writer) writeRef(name, tag string, versions []Version) error {
	text, err := json.MarshalIndent(refFile{Versions: versions}, "", "\t")
	if err != nil {
		return fmt.Errorf("root: %w", err)
	}
	if err := w.mkdirs(refsDir, url.PathEscape(name)); err != nil {
		return err
	}
	if err := durable.WriteFile(w.root.refPath(name, tag), append(text, '\n'), 0o644); err != nil {
		return fmt.Errorf("root: %w", err)
	}
	return nil
}

// switchLink makes the symlink of a tag show a tree, in one rename.
func (w *Writer) switchLink(name, tag string, manifest digest.Digest) error {
	if err := w.mkdirs(imagesDir, strings.Split(name, "/")...); err != nil {
		return err
	}
	link := w.root.linkPath(name, tag)
	// tmp/ and images/ are one file system, and what is left in tmp/ is cleaned up.
	tmp := w.root.join(tmpDir, "link")
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("root: %w", err)
	}
	if err := os.Symlink(linkTarget(name, manifest), tmp); err != nil {
		return fmt.Errorf("root: %w", err)
	}
	if err := os.Rename(tmp, link); err != nil {
		return fmt.Errorf("root: %w", err)
	}
	if err := durable.SyncDir(filepath.Dir(link)); err != nil {
		return fmt.Errorf("root: %w", err)
	}
	return nil
}

// mkdirs makes directories, one in the other, that last.
func (w *Writer) mkdirs(parent string, names ...string) error {
	path := w.root.join(parent)
	for _, name := range names {
		above := path
		path = filepath.Join(path, name)
		err := os.Mkdir(path, 0o755)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err == nil {
			err = durable.SyncDir(above)
		}
		if err != nil {
			return fmt.Errorf("root: %w", err)
		}
	}
	return nil
}
