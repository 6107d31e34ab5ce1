// Package local keeps chunks in a directory, in casync's layout
// (docs/format/chunks.md, section 4): DIR/<first 4 hex digits>/<64 hex
// digits>.cacnk, or without the suffix for an uncompressed chunk. With
// Options.Flat they are in DIR itself.
//
// What lies at a chunk's path is a chunk only if it is a regular file and not
// empty. A symbolic link there is casync's mark of a missing chunk, and an empty
// file is what a crash leaves of a chunk that was not yet on the disk; both
// count as missing and give way to the next Put. Any other file is left as it
// is and never rewritten: it is immutable, its size may be published, and only
// verification can tell whether it is corrupt.
//
// Putting a chunk is
//
//	openat(DIR/xxxx, O_TMPFILE, 0444)
//	write
//	fdatasync                                            with Options.Sync
//	linkat(/proc/self/fd/…, DIR/xxxx/ID.cacnk)
//
// so that a chunk is there whole or not at all, two writers do not harm each
// other, and one that is killed leaves nothing behind. Where the file system
// has no files without a name, the file is xxxx/ID.RANDOM.tmp at first and gets
// its name by renameat2(RENAME_NOREPLACE). Directory entries reach the disk with
// [Store.Flush].
package local

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/store"
)

// suffix is what the name of a compressed chunk ends in.
const suffix = ".cacnk"

// Options say how to open a store. The zero value opens an existing one.
type Options struct {
	// Create makes the directory if it does not exist, in one that does.
	Create bool
	// Sync writes each chunk through to the disk before it gets its name, so
	// that a power loss cannot leave a damaged chunk under it.
	Sync bool
	// Flat is another layout, for chunks that do not stay long: all files in DIR
	// itself. casync's makes nearly a directory for each chunk of an image.
	Flat bool
}

// Store is a chunk store in a directory. It implements [store.Store],
// [store.Writer], [store.Checker], [store.Statter] and [store.Deleter].
type Store struct {
	dir  string
	fd   int // of dir; every access starts here
	sync bool
	flat bool
	// tmpfile is O_TMPFILE. In a test it is another flag, which open(2) refuses
	// as a file system does that has no files without a name.
	tmpfile int
}

// Open opens the store in dir. Call [Store.Close] when done with it.
func Open(dir string, o Options) (*Store, error) {
	if o.Create {
		if err := os.Mkdir(dir, 0o777); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("local: %w", err)
		}
	}
	fd, err := again(func() (int, error) {
		return unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return nil, fmt.Errorf("local: %w", &os.PathError{Op: "open", Path: dir, Err: err})
	}
	return &Store{dir: dir, fd: fd, sync: o.Sync, flat: o.Flat, tmpfile: unix.O_TMPFILE}, nil
}

// Close releases the directory. No other method may be running or follow.
func (s *Store) Close() error { return unix.Close(s.fd) }

// String returns the directory as it was given to [Open].
func (s *Store) String() string { return s.dir }

// Flush returns once every chunk that was put before is on the disk, name
// included. It writes out the whole file system that holds the store.
func (s *Store) Flush() error {
	if err := unix.Syncfs(s.fd); err != nil {
		return s.fail("syncfs", "", err)
	}
	return nil
}

// Get implements [store.Store].
func (s *Store) Get(ctx context.Context, id chunk.ID, limit int64) (store.Packed, error) {
	if err := ctx.Err(); err != nil {
		return store.Packed{}, err
	}
	for _, form := range forms {
		data, err := s.read(s.chunkName(id, form), limit)
		switch {
		case err == nil:
			return store.Packed{Form: form, Data: data}, nil
		case !errors.Is(err, store.ErrNotFound):
			return store.Packed{}, err
		}
	}
	return store.Packed{}, store.NotFound(s.dir, id)
}

// read returns the contents of the chunk file name, or an error that wraps
// [store.ErrNotFound] if there is none.
func (s *Store) read(name string, limit int64) (_ []byte, err error) {
	// O_NONBLOCK: not to hang on a FIFO.
	fd, err := again(func() (int, error) {
		return unix.Openat(s.fd, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	})
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENXIO):
		return nil, store.ErrNotFound
	case err != nil:
		return nil, s.fail("open", name, err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, s.fail("stat", name, err)
	}
	switch {
	case !isChunk(&st):
		return nil, store.ErrNotFound
	case st.Size > limit:
		return nil, s.fail("read", name, fmt.Errorf("%w: %d bytes, at most %d expected", store.ErrTooLarge, st.Size, limit))
	}
	data := make([]byte, st.Size)
	for done := 0; done < len(data); {
		n, err := again(func() (int, error) { return unix.Read(fd, data[done:]) })
		if err != nil {
			return nil, s.fail("read", name, err)
		}
		if n == 0 { // it shrank since
			return nil, s.fail("read", name, store.ErrCorrupt)
		}
		done += n
	}
	return data, nil
}

// Put implements [store.Writer].
func (s *Store) Put(ctx context.Context, id chunk.ID, p store.Packed) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if _, err := s.size(id); !errors.Is(err, store.ErrNotFound) {
		return err
	}
	name := s.chunkName(id, p.Form)
	t, err := s.create(id)
	if err != nil {
		return s.fail("put", name, err)
	}
	if err = s.write(t, p.Data); err == nil {
		err = s.publish(&t, name)
	}
	if err != nil {
		_ = s.drop(t) // what is reported is why it was not published
	}
	if err = errors.Join(err, unix.Close(t.fd)); err != nil {
		return s.fail("put", name, err)
	}
	return nil
}

// temp is a file that is to become a chunk.
type temp struct {
	fd   int
	name string // below the store; "" while it has none
}

// spare returns a new name for a file beside the chunk id's.
func (s *Store) spare(id string) string {
	return s.inDir(id[:64] + "." + rand.Text()[:16] + ".tmp")
}

// create makes a file, and the directory for it if necessary.
func (s *Store) create(id chunk.ID) (temp, error) {
	hex := id.String()
	open := func(name string, flags int) (int, error) {
		return again(func() (int, error) {
			return unix.Openat(s.fd, name, flags|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o444)
		})
	}
	dir := path.Dir(s.inDir(hex))
	fd, err := open(dir, s.tmpfile)
	if errors.Is(err, unix.ENOENT) {
		if err := unix.Mkdirat(s.fd, dir, 0o777); err != nil && !errors.Is(err, unix.EEXIST) {
			return temp{}, err
		}
		fd, err = open(dir, s.tmpfile)
	}
	if err == nil {
		return temp{fd: fd}, nil
	}
	// A file system without such files, or a kernel: open(2) has three errors for it.
	if !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.ENOENT) {
		return temp{}, err
	}
	name := s.spare(hex)
	fd, err = open(name, unix.O_CREAT|unix.O_EXCL)
	return temp{fd, name}, err
}

// write fills the file t.
func (s *Store) write(t temp, data []byte) error {
	for len(data) > 0 {
		n, err := again(func() (int, error) { return unix.Write(t.fd, data) })
		if err != nil {
			return err
		}
		data = data[n:]
	}
	if s.sync {
		_, err := again(func() (int, error) { return 0, unix.Fdatasync(t.fd) })
		return err
	}
	return nil
}

// name gives the file t the name name, unless that is taken (EEXIST).
func (s *Store) name(t temp, name string) error {
	if t.name == "" {
		return unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", t.fd), s.fd, name, unix.AT_SYMLINK_FOLLOW)
	}
	err := unix.Renameat2(s.fd, t.name, s.fd, name, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) { // a file system without it
		if err = unix.Linkat(s.fd, t.name, s.fd, name, 0); err == nil {
			return unix.Unlinkat(s.fd, t.name, 0)
		}
		if !errors.Is(err, unix.EEXIST) { // nor with hard links: what is replaced is no better
			err = unix.Renameat(s.fd, t.name, s.fd, name)
		}
	}
	return err
}

// publish makes the file t the chunk name, unless there is one meanwhile.
func (s *Store) publish(t *temp, name string) error {
	err := s.name(*t, name)
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstatat(s.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err == nil && isChunk(&st) {
		return s.drop(*t)
	}
	// A symbolic link or an empty file. Should another writer replace it at the
	// same moment, either chunk is good.
	if t.name == "" {
		other := s.spare(filepath.Base(name))
		if err := s.name(*t, other); err != nil {
			return err
		}
		t.name = other
	}
	return unix.Renameat(s.fd, t.name, s.fd, name)
}

// drop removes a file that does not become a chunk.
func (s *Store) drop(t temp) error {
	if t.name == "" {
		return nil // closing it does
	}
	return unix.Unlinkat(s.fd, t.name, 0)
}

// Missing implements [store.Checker].
func (s *Store) Missing(ctx context.Context, ids []chunk.ID) ([]chunk.ID, error) {
	var missing []chunk.ID
	for _, id := range ids {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		_, err := s.size(id)
		switch {
		case errors.Is(err, store.ErrNotFound):
			missing = append(missing, id)
		case err != nil:
			return nil, err
		}
	}
	return missing, nil
}

// StoredSize implements [store.Statter].
func (s *Store) StoredSize(ctx context.Context, id chunk.ID) (int64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	return s.size(id)
}

// Delete implements [store.Deleter].
func (s *Store) Delete(ctx context.Context, id chunk.ID) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	found := false
	for _, form := range forms {
		name := s.chunkName(id, form)
		err := unix.Unlinkat(s.fd, name, 0)
		switch {
		case err == nil:
			found = true
		case !errors.Is(err, unix.ENOENT):
			return s.fail("delete", name, err)
		}
	}
	if !found {
		return store.NotFound(s.dir, id)
	}
	return nil
}

// size returns the length of chunk id's file.
func (s *Store) size(id chunk.ID) (int64, error) {
	for _, form := range forms {
		var st unix.Stat_t
		name := s.chunkName(id, form)
		err := unix.Fstatat(s.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW)
		switch {
		case err == nil && isChunk(&st):
			return st.Size, nil
		case err != nil && !errors.Is(err, unix.ENOENT):
			return 0, s.fail("stat", name, err)
		}
	}
	return 0, store.NotFound(s.dir, id)
}

// fail names the operation and the file in err.
func (s *Store) fail(op, name string, err error) error {
	return fmt.Errorf("local: %w", &os.PathError{Op: op, Path: filepath.Join(s.dir, name), Err: err})
}

// forms are the forms of a chunk, in the order in which they are looked for.
var forms = [...]store.Form{store.Compressed, store.Raw}

// chunkName returns the path below the store of a chunk file.
func (s *Store) chunkName(id chunk.ID, form store.Form) string {
	name := s.inDir(id.String())
	if form == store.Raw {
		return name
	}
	return name + suffix
}

// inDir returns the path below the store of a name that begins with a chunk's ID.
func (s *Store) inDir(name string) string {
	if s.flat {
		return name
	}
	return name[:4] + "/" + name
}

// isChunk reports whether a file can be a chunk: see the package comment.
func isChunk(st *unix.Stat_t) bool {
	return st.Mode&unix.S_IFMT == unix.S_IFREG && st.Size > 0
}

// again calls f until no signal interrupts it.
func again(f func() (int, error)) (int, error) {
	for {
		n, err := f()
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}
