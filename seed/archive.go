package seed

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"sync"

	"golang.org/x/sync/errgroup"
)

// ErrUnknown means that a file or directory is nothing that is known as a seed.
var ErrUnknown = errors.New("not a seed")

const (
	// archiveLimit is how much of one archive is read, uncompressed.
	archiveLimit = 64 << 30
	// zstdWindow is the largest window of zstd that is decoded.
	zstdWindow = 128 << 20
	// sniffSize is how much of a stream tells what it is.
	sniffSize = 512
)

// ArchiveOptions are the options of OpenArchive and OpenLayout. The zero value
// works.
type ArchiveOptions struct {
	// SpoolDir is where the contents that were found wait to be copied, in a
	// file without a name: an archive cannot be read at any place. "" is for
	// plans, which copy nothing: Open then fails.
	SpoolDir string
	// Jobs is the number of archives read at a time; 0 means GOMAXPROCS.
	Jobs int
	// Logger is told which archives were passed over and why; nil is silent.
	Logger *slog.Logger
	// Memory knows what archives hold from earlier runs, and learns it from this
	// one; nil means that every archive is read.
	Memory Memory
}

// Archive is a seed whose contents are inside archives: tar, plain or
// compressed by gzip or zstd, casync's catar, and the tars inside the tars of
// oci-archive and docker-archive.
type Archive struct {
	name  string
	files []string
	opts  ArchiveOptions
	log   *slog.Logger

	mu     sync.Mutex
	spool  *spool            // of what was found and does not; no file until there is something to keep
	places map[string]inside // of what was found and lies in a file as it is
	unread map[string]bool   // files of which the rest was passed over
}

// OpenArchive returns the archive at path as a seed; ErrUnknown if it does not
// begin as one.
func OpenArchive(path string, opts ArchiveOptions) (*Archive, error) {
	if fi, err := os.Stat(path); err == nil && !fi.Mode().IsRegular() {
		return nil, fmt.Errorf("seed: %s: %w: not a file", path, ErrUnknown)
	}
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil, fmt.Errorf("seed: %w", err)
	}
	f, _, err := openRegular(path)
	if err != nil {
		return nil, fmt.Errorf("seed: %w", err)
	}
	defer f.Close()
	if kind, err := sniff(bufio.NewReaderSize(f, sniffSize)); err != nil || kind == other {
		return nil, fmt.Errorf("seed: %s: %w: neither a tar nor a catar, plain or compressed", path, ErrUnknown)
	}
	return newArchive(path, []string{path}, opts), nil
}

// OpenLayout returns the blobs of the OCI layout, or of containerd's content
// store, in the directory at path as a seed: every layer among them,
// whichever image it belongs to. It fails with ErrUnknown if it has no blobs.
func OpenLayout(path string, opts ArchiveOptions) (*Archive, error) {
	blobs := filepath.Join(path, "blobs", "sha256")
	entries, err := os.ReadDir(blobs)
	if err != nil {
		return nil, fmt.Errorf("seed: %s: %w: %w", path, ErrUnknown, err)
	}
	var files []string
	for _, e := range entries {
		if e.Type().IsRegular() {
			files = append(files, filepath.Join(blobs, e.Name()))
		}
	}
	return newArchive(path, files, opts), nil
}

func newArchive(name string, files []string, opts ArchiveOptions) *Archive {
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
	return &Archive{name: name, files: files, opts: opts, log: log, spool: newSpool(), places: make(map[string]inside), unread: make(map[string]bool)}
}

func (a *Archive) String() string { return a.name }

// Close frees the contents that were found.
func (a *Archive) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	err := a.spool.close()
	a.spool = newSpool()
	return err
}

// Spooled returns how many bytes of what was found in the archive so far lie in no
// file as they are: what waits in SpoolDir until Close, or would. kept are those
// that are there already.
func (a *Archive) Spooled() (bytes, kept int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.spool.sums()
}

// Unread returns of how many archives the rest was passed over so far, because
// they are truncated, damaged, or cannot be read: nobody knows what was in it.
func (a *Archive) Unread() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.unread)
}

// Leave says how many bytes of SpoolDir's filesystem must stay free. What does not
// fit beside them is found and counted as the rest, but not kept: Open then fails.
func (a *Archive) Leave(bytes int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.spool.leave = bytes
}

// Open implements [Seed].
func (a *Archive) Open(_ context.Context, path string) (io.ReadCloser, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if in, ok := a.places[path]; ok {
		return in.open()
	}
	r, ok := a.spool.content(path)
	if !ok {
		return nil, fmt.Errorf("seed: %s: %s was not kept: %w", a.name, path, fs.ErrNotExist)
	}
	return spooled{r}, nil
}

// spooled is a content in a spool.
type spooled struct{ *io.SectionReader }

// Close implements io.Closer: the spool stays open.
func (spooled) Close() error { return nil }

// Find implements [Seed]: it reads every archive of which is not known what it
// holds, once.
func (a *Archive) Find(ctx context.Context, want *Wanted, found func(Digest, string)) error {
	return lookThrough(ctx, a, want, found)
}

// look implements looker: of an archive that is remembered, and of one with a
// table of contents, all is known, of a plain tar the sizes.
func (a *Archive) look(ctx context.Context, want *Wanted, found func(Digest, string), unread func(int64)) (func(context.Context) error, error) {
	scan := a.opts.Memory.Scan(a.name)
	var jobs []func(context.Context) error
	whole := true
	for _, path := range a.files {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		known, err := a.recall(scan, path)
		switch {
		case err != nil:
			a.pass(path, err)
			whole = whole && errors.Is(err, fs.ErrNotExist)
			continue
		case known != nil:
			if job := a.take(path, known, want, found); job != nil {
				unread(0)
				jobs = append(jobs, job)
			}
			continue
		}
		if needed, err := a.foresee(path, want, unread); err != nil {
			a.pass(path, err)
		} else if needed {
			jobs = append(jobs, func(ctx context.Context) error { return a.read(ctx, scan, path, want, found, nil) })
		}
	}
	if whole {
		scan.Done()
	}
	return func(ctx context.Context) error { return a.run(ctx, jobs) }, nil
}

// recall returns what is known of an archive without reading it through; nil if
// nothing is.
func (a *Archive) recall(scan Scan, path string) ([]member, error) {
	fi, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if list, ok := scan.RecallList(path, fi); ok {
		if members, err := parseList(list); err == nil {
			return members, nil
		}
	}
	f, fi, err := openRegular(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return tableOf(f, fi.Size()), nil
}

// take takes what is wanted of the contents of an archive. What does not lie in
// it as it is, the job that it returns gets out; nil if there is nothing to do.
func (a *Archive) take(path string, members []member, want *Wanted, found func(Digest, string)) func(context.Context) error {
	only := make(map[string]Digest)
	for _, m := range members {
		if !want.HasSize(m.size) || !want.Take(m.digest, m.size) {
			continue
		}
		at := m.path(path)
		if m.plain() {
			a.place(at, m.inside(path))
		} else if !a.spool.note(at, m.size) {
			only[at] = m.digest
		}
		found(m.digest, at)
	}
	if len(only) == 0 || a.opts.SpoolDir == "" {
		return nil
	}
	return func(ctx context.Context) error { return a.read(ctx, noMemory{}, path, &Wanted{}, nil, only) }
}

// place remembers where a content lies that was found.
func (a *Archive) place(at string, in inside) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.places[at] = in
}

// anySize stands for the sizes of files of which they are not known.
const anySize = -1

// foresee reports whether an archive has to be read, and calls unread with what
// is known of the sizes in it.
func (a *Archive) foresee(path string, want *Wanted, unread func(int64)) (needed bool, err error) {
	f, fi, err := openRegular(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	kind, err := sniff(bufio.NewReaderSize(f, sniffSize))
	switch {
	case err != nil || kind == other:
		return false, err
	case kind != tarStream:
		unread(anySize)
		return true, nil
	}
	meet := func(size int64) {
		if size == anySize || want.HasSize(size) {
			needed = true
			unread(size)
		}
	}
	// One that is cut short has what comes before.
	_ = tarSizes(io.NewSectionReader(f, 0, fi.Size()), true, meet)
	return needed, nil
}

// run runs jobs, several at a time, with a spool if the contents that they find
// are to be kept.
func (a *Archive) run(ctx context.Context, jobs []func(context.Context) error) error {
	if len(jobs) == 0 {
		return nil
	}
	if a.opts.SpoolDir != "" {
		a.mu.Lock()
		var err error
		if a.spool.f == nil {
			err = a.spool.open(a.opts.SpoolDir)
		}
		a.mu.Unlock()
		if err != nil {
			return err
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(a.opts.Jobs)
	for _, job := range jobs {
		g.Go(func() error { return job(ctx) })
	}
	return g.Wait()
}

// read reads one archive: for what is wanted, or for the contents of only, which
// are known to be in it.
func (a *Archive) read(ctx context.Context, scan Scan, path string, want *Wanted, found func(Digest, string), only map[string]Digest) error {
	if only == nil && want.Left() == 0 {
		return nil
	}
	_, forgets := scan.(noMemory)
	s := &archiveScan{a: a, want: want, found: found, only: only, learn: !forgets, buf: make([]byte, spoolBuffer)}
	err := s.file(ctx, scan, path)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if errors.Is(err, errSpool) {
		return err
	}
	if err != nil && !errors.Is(err, errEnough) {
		// What was found in it so far is good.
		a.pass(path, err)
	}
	return nil
}

// pass logs an archive that is of no further use.
func (a *Archive) pass(path string, err error) {
	a.mu.Lock()
	a.unread[path] = true
	a.mu.Unlock()
	a.log.Warn("rest of a seed archive passed over", "seed", a.name, "file", path, "reason", err)
}

// index implements indexer.
func (a *Archive) index(ctx context.Context) (Indexed, error) {
	var out Indexed
	scan := a.opts.Memory.Scan(a.name)
	var mu sync.Mutex
	var jobs []func(context.Context) error
	for _, path := range a.files {
		jobs = append(jobs, func(ctx context.Context) error {
			known, err := a.recall(scan, path)
			if err != nil {
				a.pass(path, err)
				return nil
			}
			read := known == nil
			if read {
				s := &archiveScan{a: a, want: &Wanted{}, learn: true, buf: make([]byte, spoolBuffer)}
				err = s.file(ctx, scan, path)
				known = s.members
			}
			mu.Lock()
			defer mu.Unlock()
			for _, m := range known {
				out.Files++
				out.Bytes += m.size
				if read {
					out.Read++
					out.ReadBytes += m.size
				}
			}
			if err != nil && ctx.Err() == nil {
				a.pass(path, err)
			}
			return ctx.Err()
		})
	}
	err := a.run(ctx, jobs)
	return out, err
}
