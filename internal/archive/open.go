package archive

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"

	"github.com/ociv2-sync/ociv2-sync/caibx"
	"github.com/ociv2-sync/ociv2-sync/catar"
	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/internal/assemble"
	"github.com/ociv2-sync/ociv2-sync/internal/pipe"
	"github.com/ociv2-sync/ociv2-sync/internal/stores"
	"github.com/ociv2-sync/ociv2-sync/internal/tree"
	"github.com/ociv2-sync/ociv2-sync/store"
	"github.com/ociv2-sync/ociv2-sync/store/sshstore"
)

// maxIndex bounds the index that is read from a server, in bytes: some 26
// million chunks.
const maxIndex = 1 << 30

// ErrNoStore says that an index has no store beside it, where none was named.
var ErrNoStore = errors.New("no chunk store beside")

// OpenOptions are the options of reading an archive, index or blob.
type OpenOptions struct {
	// What is the kind of the input; Unknown has its name say it.
	What Kind
	// Stdin is what "-" means.
	Stdin io.Reader
	// Stores have the chunks of an index, in the order in which they are
	// asked: directories, URLs and HOST:PATH. None means DefaultStore.
	Stores []string
	// ExtraStores are asked after them.
	ExtraStores []string
	// Clients reach other machines.
	Clients stores.Clients
	// Jobs is the number of chunks requested at a time; 0 means 16.
	Jobs int
	// IndexOnly opens no store: of what is opened nothing but the index may be used.
	IndexOnly bool
	// Flags are the features with which a directory is read.
	Flags catar.Flags
	// TempDir is where a stream waits that has to be read out of order, for
	// Enter, and chunks that are about to be written over, for ExtractBlob; ""
	// means /var/tmp.
	TempDir string
}

// Input is an archive or a blob, opened to be read as one stream.
type Input struct {
	// Kind is that of the file; Archive for a directory, Unknown or Blob for a
	// blob.
	Kind Kind
	// Index is the index, if it is one.
	Index *caibx.Index
	// Algorithm is the digest of the index, or the default one.
	Algorithm chunk.Algorithm

	name  string
	write func(context.Context, io.Writer) error
	// part writes a part of the stream, and at reads anywhere in it; nil if the
	// input can only be read from its start.
	part func(ctx context.Context, w io.Writer, from, to uint64) error
	at   func(context.Context) io.ReaderAt
	size uint64

	store   store.Store // of an index
	near    bool        // it answers at once
	live    bool        // a directory, read as an archive
	device  *os.File    // a block device
	tempDir string
	sub     *subtree
	close   func() error
}

// fault names the input in an error that says what is wrong with its records.
func (in *Input) fault(err error) error {
	if errors.Is(err, catar.ErrMalformed) || errors.Is(err, catar.ErrUnsupported) {
		return fmt.Errorf("archive: %s: %w", in.name, err)
	}
	return err
}

// reader reads the records of an archive; those of an index must have its
// features.
func (in *Input) reader(r io.Reader) *catar.Reader {
	cr := catar.NewReader(r)
	if in.Index != nil {
		cr.Require(catar.Flags(in.Index.FeatureFlags))
	}
	return cr
}

// Close closes the input.
func (in *Input) Close() error { return in.close() }

// WriteTo writes the whole stream to w, or the bytes of the node that Enter
// chose.
func (in *Input) WriteTo(ctx context.Context, w io.Writer) error {
	if in.sub != nil {
		return in.part(ctx, w, in.sub.node.Start, in.sub.node.End)
	}
	return in.write(ctx, w)
}

// Read has read read the stream, or an archive that has but the node that
// Enter chose.
func (in *Input) Read(ctx context.Context, read func(context.Context, io.Reader) error) error {
	return pipe.Run(ctx, func(ctx context.Context, w io.Writer) error {
		if in.sub == nil {
			return in.write(ctx, w)
		}
		if _, err := w.Write(in.sub.head); err != nil {
			return err
		}
		if err := in.WriteTo(ctx, w); err != nil {
			return err
		}
		_, err := w.Write(in.sub.tail)
		return err
	}, read)
}

// IsArchive reports whether the stream is a directory tree.
func (in *Input) IsArchive() bool { return in.Kind == Archive || in.Kind == ArchiveIndex }

// Open opens an archive, an index with its store, a directory or a blob, by
// its path, its URL, HOST:PATH (an archive or an index) or "-" for a stream,
// which is taken to be an archive unless the options say otherwise.
func Open(ctx context.Context, name string, opts OpenOptions) (*Input, error) {
	in := &Input{name: name, Kind: cmp.Or(opts.What, KindOf(name)), Algorithm: algorithm(opts.Flags), close: func() error { return nil }, tempDir: cmp.Or(opts.TempDir, "/var/tmp")}
	switch {
	case in.Kind == ArchiveIndex || in.Kind == BlobIndex:
		return in, in.openIndex(ctx, name, opts)
	case name == "-" && in.Kind != Directory:
		in.Kind, in.name = cmp.Or(opts.What, Archive), "standard input"
		in.write = copyFrom(opts.Stdin)
		return in, nil
	}
	if stores.IsURL(name) {
		in.write = func(ctx context.Context, w io.Writer) error { return opts.Clients.HTTP.Copy(ctx, name, w) }
		return in, nil
	}
	at, remote, err := stores.SSH(name)
	switch {
	case err != nil:
		return nil, err
	case remote && in.Kind != Archive:
		return nil, fmt.Errorf("archive: %w: %s is neither an archive (.catar) nor an index (.caidx or .caibx)", ErrUsage, name)
	case remote:
		in.write = func(ctx context.Context, w io.Writer) error { return sshstore.Archive(ctx, at, w, opts.Clients.SSH) }
		return in, nil
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("archive: %w", err)
	}
	fi, err := f.Stat()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("archive: %w", err), f.Close())
	}
	if fi.IsDir() != (in.Kind == Directory) && opts.What != Unknown {
		return nil, errors.Join(fmt.Errorf("archive: %w: %s is not what it is said to be", ErrUsage, name), f.Close())
	}
	if fi.IsDir() {
		in.Kind, in.live = Archive, true
		in.write = func(ctx context.Context, w io.Writer) error {
			return tree.Encode(ctx, name, tree.EncodeOptions{Flags: opts.Flags}, w)
		}
		return in, f.Close()
	}
	in.close = f.Close
	if fi.Mode().IsRegular() {
		in.seekable(f, uint64(fi.Size()))
	} else {
		in.write = copyFrom(f)
	}
	if fi.Mode()&(os.ModeDevice|os.ModeCharDevice) == os.ModeDevice {
		in.device = f
	}
	return in, nil
}

// seekable makes an open file the input.
func (in *Input) seekable(f *os.File, size uint64) {
	in.size = size
	in.at = func(context.Context) io.ReaderAt { return f }
	in.part = func(ctx context.Context, w io.Writer, from, to uint64) error {
		return copyFrom(io.NewSectionReader(f, int64(from), int64(to-from)))(ctx, w)
	}
	in.write = func(ctx context.Context, w io.Writer) error { return in.part(ctx, w, 0, size) }
}

func copyFrom(r io.Reader) func(context.Context, io.Writer) error {
	return func(_ context.Context, w io.Writer) error {
		if _, err := io.Copy(w, r); err != nil {
			return fmt.Errorf("archive: %w", err)
		}
		return nil
	}
}

// openIndex reads an index and opens the stores of its chunks.
func (in *Input) openIndex(ctx context.Context, name string, opts OpenOptions) error {
	x, err := readInput(ctx, name, opts)
	if err != nil {
		return err
	}
	if in.Kind == ArchiveIndex {
		if err := catar.Flags(x.FeatureFlags).Validate(); err != nil {
			return fmt.Errorf("archive: %s: %w", name, err)
		}
	}
	in.Index, in.Algorithm = x, x.Algorithm()
	if opts.IndexOnly {
		return nil
	}
	names := opts.Stores
	if len(names) == 0 {
		names = []string{DefaultStore(name)}
	}
	names = slices.Concat(names, opts.ExtraStores)
	st, closer, err := stores.Open(names, opts.Clients)
	if len(opts.Stores) == 0 && errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w %s: %w", ErrNoStore, name, err)
	}
	if err != nil {
		return err
	}
	in.close = closer.Close
	in.size, in.store = x.Size(), st
	in.near = !slices.ContainsFunc(names, stores.Remote)
	in.at = func(ctx context.Context) io.ReaderAt { return assemble.NewReaderAt(ctx, x, in.store) }
	in.part = func(ctx context.Context, w io.Writer, from, to uint64) error {
		return assemble.CopyRange(ctx, w, x, in.store, opts.Jobs, in.near, from, to)
	}
	in.write = func(ctx context.Context, w io.Writer) error {
		return assemble.Copy(ctx, w, x, in.store, opts.Jobs, in.near)
	}
	return nil
}

// readInput reads the index that is an input.
func readInput(ctx context.Context, name string, opts OpenOptions) (*caibx.Index, error) {
	if name == "-" {
		return parseIndex("standard input", opts.Stdin)
	}
	return readIndex(ctx, name, opts.Clients)
}

// readIndex reads the index at a path, a URL or HOST:PATH.
func readIndex(ctx context.Context, name string, clients stores.Clients) (*caibx.Index, error) {
	var r io.Reader
	at, ssh, err := stores.SSH(name)
	switch {
	case err != nil:
		return nil, err
	case stores.IsURL(name):
		b, err := clients.HTTP.Get(ctx, name, maxIndex)
		if err != nil {
			return nil, err
		}
		r = bytes.NewReader(b)
	case ssh:
		b, err := sshstore.Index(ctx, at, maxIndex, clients.SSH)
		if err != nil {
			return nil, err
		}
		r = bytes.NewReader(b)
	default:
		return readIndexFile(name)
	}
	return parseIndex(name, r)
}

// readIndexFile reads the index in a file.
func readIndexFile(path string) (*caibx.Index, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("archive: %w", err)
	}
	defer f.Close()
	return parseIndex(path, f)
}

func parseIndex(name string, r io.Reader) (*caibx.Index, error) {
	x, err := caibx.Read(r)
	if err != nil {
		return nil, fmt.Errorf("archive: %s: %w", name, err)
	}
	return x, nil
}
