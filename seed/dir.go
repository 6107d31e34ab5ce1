package seed

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// DirOptions are the options of [OpenDir]. The zero value works.
type DirOptions struct {
	// Only are patterns of io/fs.Glob for the directories below the seed that
	// are looked into, as the layers in the storage of a container engine; nil
	// means all of them. They are looked up anew at each walk.
	Only []string
	// Jobs is the number of files hashed at a time; 0 means GOMAXPROCS.
	Jobs int
	// Logger is told which files were passed over and why; nil is silent.
	Logger *slog.Logger
	// Memory knows what files hold from earlier runs, and learns it from this
	// one; nil means that every file is read.
	Memory Memory
}

// dirSeed is a directory tree: every regular file below it is a candidate.
type dirSeed struct {
	path string
	opts DirOptions
	log  *slog.Logger
	bigFiles
	passed passed
}

// OpenDir returns the directory tree below path as a seed. Symbolic links in
// it are not followed, and virtual filesystems (proc, sysfs, …) mounted below
// it are left out. It fails if path is not a directory.
func OpenDir(path string, opts DirOptions) (Seed, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("seed: %w", err)
	}
	if !fi.IsDir() {
		return nil, fmt.Errorf("seed: %s is not a directory", path)
	}
	// A relative path would mean another seed after a chdir.
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("seed: %w", err)
	}
	if opts.Jobs <= 0 {
		opts.Jobs = runtime.GOMAXPROCS(0)
	}
	log := opts.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if opts.Memory == nil {
		opts.Memory = noMemory{}
	}
	return &dirSeed{path: abs, opts: opts, log: log}, nil
}

func (s *dirSeed) String() string { return s.path }

func (s *dirSeed) Open(_ context.Context, path string) (io.ReadCloser, error) {
	f, _, err := openRegular(filepath.Join(s.path, path))
	return f, err
}

// candidate is a file whose size is that of a wanted content.
type candidate struct {
	path string // below the seed
	size int64
}

// inode identifies a file among its hard links.
type inode struct {
	dev uint64
	ino uint64
}

func (s *dirSeed) Find(ctx context.Context, want *Wanted, found func(Digest, string)) error {
	return lookThrough(ctx, s, want, found)
}

// look implements looker: it walks the tree.
func (s *dirSeed) look(ctx context.Context, want *Wanted, found func(Digest, string), unread func(int64)) (func(context.Context) error, error) {
	scan := s.opts.Memory.Scan(s.path)
	take := func(c candidate, d Digest) {
		if want.Take(d, c.size) {
			found(d, c.path)
		}
	}
	var likely, others []candidate
	s.reset()
	err := s.walk(ctx, scan, func(c candidate, name string, known *Digest) {
		s.add(c)
		switch {
		case !want.HasSize(c.size):
		case known != nil:
			take(c, *known)
		case want.HasName(c.size, name):
			likely = append(likely, c)
			unread(c.size)
		default:
			others = append(others, c)
			unread(c.size)
		}
	})
	if err != nil {
		return nil, err
	}
	// The likely ones first: once all contents of a size are found, the
	// other files of that size need not be read.
	wanted := func(c candidate) bool { return want.HasSize(c.size) }
	return func(ctx context.Context) error {
		defer s.report()
		if err := s.hashAll(ctx, scan, likely, wanted, take); err != nil {
			return err
		}
		return s.hashAll(ctx, scan, others, wanted, take)
	}, nil
}

// walk calls meet for every regular file of the tree, once for all hard links
// of one, with what is known of it.
func (s *dirSeed) walk(ctx context.Context, scan Scan, meet func(c candidate, name string, known *Digest)) error {
	seen := make(map[inode]struct{})
	whole := true
	visit := func(path string, d fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			if path == s.path {
				return fmt.Errorf("seed: %w", err)
			}
			s.pass(path, err)
			whole = false
			return nil
		}
		if d.IsDir() {
			if isVirtual(path) {
				return filepath.SkipDir
			}
			return nil
		}
		if !d.Type().IsRegular() {
			return nil
		}
		fi, err := d.Info()
		if err != nil {
			s.pass(path, err)
			return nil
		}
		if again(seen, fi) {
			return nil
		}
		rel, err := filepath.Rel(s.path, path)
		if err != nil {
			return fmt.Errorf("seed: %w", err)
		}
		var known *Digest
		if digest, ok := scan.Recall(path, fi); ok {
			known = &digest
		}
		// Rel's is a part of path, which there may be hundreds of thousands of.
		meet(candidate{path: strings.Clone(rel), size: fi.Size()}, d.Name(), known)
		return nil
	}
	tops, err := s.tops()
	if err != nil {
		return err
	}
	for _, top := range tops {
		if err := filepath.WalkDir(top, visit); err != nil {
			return err
		}
	}
	if whole {
		scan.Done()
	}
	return nil
}

// again reports whether a file is a hard link of one that was seen, and notes it.
func again(seen map[inode]struct{}, fi fs.FileInfo) bool {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok || st.Nlink < 2 {
		return false
	}
	key := inode{dev: st.Dev, ino: st.Ino}
	_, dup := seen[key]
	seen[key] = struct{}{}
	return dup
}

// tops returns the directories where walks begin.
func (s *dirSeed) tops() ([]string, error) {
	if s.opts.Only == nil {
		return []string{s.path}, nil
	}
	if _, err := os.ReadDir(s.path); err != nil {
		return nil, fmt.Errorf("seed: %w", err) // which Glob would pass over
	}
	var tops []string
	for _, pattern := range s.opts.Only {
		found, err := fs.Glob(os.DirFS(s.path), pattern)
		if err != nil {
			return nil, fmt.Errorf("seed: %s: %w", pattern, err)
		}
		for _, f := range found {
			tops = append(tops, filepath.Join(s.path, f))
		}
	}
	return tops, nil
}

// hashAll hashes the candidates that are wanted when their turn comes, and
// calls hashed, from several goroutines, with the digest of each.
func (s *dirSeed) hashAll(ctx context.Context, scan Scan, cands []candidate, wanted func(candidate) bool, hashed func(candidate, Digest)) error {
	// Directory order is hash order on most filesystems; by size, the files
	// that can satisfy the same content come together, and the rest of a size
	// is skipped as soon as it is satisfied. The largest first, so that no
	// core is left with one of them at the end.
	slices.SortStableFunc(cands, func(a, b candidate) int { return cmp.Compare(b.size, a.size) })
	g, ctx := errgroup.WithContext(ctx)
	work := make(chan candidate)
	g.Go(func() error {
		defer close(work)
		for _, c := range cands {
			if !wanted(c) {
				continue
			}
			select {
			case work <- c:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	for range s.opts.Jobs {
		g.Go(func() error {
			h, buf := sha256.New(), make([]byte, 256<<10)
			for c := range work {
				d, err := hashFile(ctx, scan, filepath.Join(s.path, c.path), c.size, h, buf)
				switch {
				case ctx.Err() != nil:
					return ctx.Err()
				case err != nil:
					s.pass(c.path, err)
				default:
					hashed(c, d)
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// hashFile returns the SHA-256, which h is for, of a file that still has the size it had.
func hashFile(ctx context.Context, scan Scan, path string, size int64, h hash.Hash, buf []byte) (Digest, error) {
	f, before, err := openRegular(path)
	if err != nil {
		return Digest{}, err
	}
	defer f.Close()
	if before.Size() != size {
		return Digest{}, errors.New("its size changed")
	}
	started := time.Now()
	h.Reset()
	var n int64
	for n < size {
		if ctx.Err() != nil {
			return Digest{}, ctx.Err()
		}
		m, err := f.Read(buf[:min(int64(len(buf)), size-n)])
		h.Write(buf[:m])
		n += int64(m)
		if err != nil {
			return Digest{}, err
		}
	}
	d := Digest(h.Sum(buf[:0]))
	after, err := f.Stat()
	if err != nil {
		return Digest{}, err
	}
	scan.Learn(path, before, after, started, d)
	return d, nil
}

// pass notes a file that is of no use.
func (s *dirSeed) pass(path string, err error) {
	s.log.Info("seed file passed over", "seed", s.path, "file", path, "reason", err)
	s.passed.add(path, err)
}

// report says what was passed over since the last report.
func (s *dirSeed) report() { s.passed.report(s.log, "seed", s.path) }

// passed are files that are of no use: of a large tree there may be thousands.
type passed struct {
	mu    sync.Mutex
	n     map[string]int // by reason
	first string
}

func (p *passed) add(path string, err error) {
	why := "changed"
	switch {
	case errors.Is(err, fs.ErrNotExist):
		why = "gone"
	case errors.Is(err, fs.ErrPermission):
		why = "not readable"
	case errors.Is(err, unix.EIO):
		why = "read error"
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.n == nil {
		p.n, p.first = make(map[string]int), path
	}
	p.n[why]++
}

// report says how many files were passed over since the last report, and why; where
// says of what.
func (p *passed) report(log *slog.Logger, where ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.n == nil {
		return
	}
	args := where
	for _, why := range slices.Sorted(maps.Keys(p.n)) {
		args = append(args, why, p.n[why])
	}
	log.Warn("seed files passed over", append(args, "first", p.first)...)
	p.n = nil
}

// openRegular opens path if it is a regular file. It neither follows a
// symbolic link in the last component nor blocks on a FIFO that took the
// file's place. Where we may, reading leaves the file's access time as it is.
func openRegular(path string) (*os.File, os.FileInfo, error) {
	const flags = os.O_RDONLY | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_CLOEXEC
	f, err := os.OpenFile(path, flags|unix.O_NOATIME, 0)
	if errors.Is(err, unix.EPERM) {
		f, err = os.OpenFile(path, flags, 0)
	}
	if err != nil {
		return nil, nil, err
	}
	fi, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	if !fi.Mode().IsRegular() {
		f.Close()
		return nil, nil, &os.PathError{Op: "open", Path: path, Err: errors.New("no longer a regular file")}
	}
	return f, fi, nil
}

// isVirtual reports whether dir lies on a filesystem whose files are made up
// by the kernel when they are read.
func isVirtual(dir string) bool {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return false
	}
	switch int64(st.Type) {
	case unix.PROC_SUPER_MAGIC, unix.SYSFS_MAGIC, unix.CGROUP_SUPER_MAGIC,
		unix.CGROUP2_SUPER_MAGIC, unix.DEBUGFS_MAGIC, unix.DEVPTS_SUPER_MAGIC,
		unix.TRACEFS_MAGIC, unix.SECURITYFS_MAGIC, unix.SELINUX_MAGIC,
		unix.SMACK_MAGIC, unix.PSTOREFS_MAGIC, unix.BPF_FS_MAGIC,
		unix.BINFMTFS_MAGIC, unix.EFIVARFS_MAGIC, unix.NSFS_MAGIC:
		return true
	}
	return false
}
