package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/ociv2-sync/ociv2-sync/caibx"
	"github.com/ociv2-sync/ociv2-sync/catar"
	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/internal/assemble"
	"github.com/ociv2-sync/ociv2-sync/internal/pipe"
	"github.com/ociv2-sync/ociv2-sync/internal/stores"
	"github.com/ociv2-sync/ociv2-sync/internal/tree"
	"github.com/ociv2-sync/ociv2-sync/store/httpstore"
)

// maxIndex bounds the index that is read from a server, in bytes: some 26
// million chunks.
const maxIndex = 1 << 30

// OpenOptions are the options of reading an archive, index or blob.
type OpenOptions struct {
	// Stdin is what "-" means.
	Stdin io.Reader
	// Stores have the chunks of an index, in the order in which they are
	// asked: directories and URLs. None means DefaultStore.
	Stores []string
	// Client fetches from URLs.
	Client *httpstore.Client
	// Jobs is the number of chunks requested at a time; 0 means 16.
	Jobs int
	// Flags are the features with which a directory is read.
	Flags catar.Flags
}

// Input is an archive or a blob, opened to be read as one stream.
type Input struct {
	// Kind is that of the file; Archive for a directory, Unknown for a blob.
	Kind Kind
	// Index is the index, if it is one.
	Index *caibx.Index
	// Algorithm is the digest of the index, or the default one.
	Algorithm chunk.Algorithm

	name  string
	write func(context.Context, io.Writer) error
	close func() error
}

// fault names the input in an error that says what is wrong with its records.
func (in *Input) fault(err error) error {
	if errors.Is(err, catar.ErrMalformed) || errors.Is(err, catar.ErrUnsupported) {
		return fmt.Errorf("archive: %s: %w", in.name, err)
	}
	return err
}

// Close closes the input.
func (in *Input) Close() error { return in.close() }

// WriteTo writes the whole stream to w.
func (in *Input) WriteTo(ctx context.Context, w io.Writer) error { return in.write(ctx, w) }

// Read has read read the stream.
func (in *Input) Read(ctx context.Context, read func(context.Context, io.Reader) error) error {
	return pipe.Run(ctx, in.write, read)
}

// IsArchive reports whether the stream is a directory tree.
func (in *Input) IsArchive() bool { return in.Kind == Archive || in.Kind == ArchiveIndex }

// Open opens an archive, an index with its store, a directory or a blob, by
// its path, its URL or "-" for a stream, which is taken to be an archive.
func Open(ctx context.Context, name string, opts OpenOptions) (*Input, error) {
	in := &Input{name: name, Kind: KindOf(name), Algorithm: algorithm(opts.Flags), close: func() error { return nil }}
	switch {
	case name == "-":
		in.Kind, in.name = Archive, "standard input"
		in.write = copyFrom(opts.Stdin)
		return in, nil
	case in.Kind == ArchiveIndex || in.Kind == BlobIndex:
		return in, in.openIndex(ctx, name, opts)
	}
	if stores.IsURL(name) {
		return nil, fmt.Errorf("archive: %w: %s is not the URL of an index (.caidx or .caibx)", ErrUsage, name)
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("archive: %w", err)
	}
	fi, err := f.Stat()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("archive: %w", err), f.Close())
	}
	if fi.IsDir() {
		in.Kind = Archive
		in.write = func(ctx context.Context, w io.Writer) error {
			return tree.Encode(ctx, name, tree.EncodeOptions{Flags: opts.Flags}, w)
		}
		return in, f.Close()
	}
	in.write, in.close = copyFrom(f), f.Close
	return in, nil
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
	x, err := readIndex(ctx, name, opts.Client)
	if err != nil {
		return err
	}
	if in.Kind == ArchiveIndex {
		if err := catar.Flags(x.FeatureFlags).Validate(); err != nil {
			return fmt.Errorf("archive: %s: %w", name, err)
		}
	}
	names := opts.Stores
	if len(names) == 0 {
		names = []string{DefaultStore(name)}
	}
	st, closer, err := stores.Open(names, opts.Client)
	if err != nil {
		return err
	}
	in.Index, in.Algorithm, in.close = x, x.Algorithm(), closer.Close
	in.write = func(ctx context.Context, w io.Writer) error {
		return assemble.Copy(ctx, w, x, st, opts.Jobs)
	}
	return nil
}

// readIndex reads the index at a path or a URL.
func readIndex(ctx context.Context, name string, client *httpstore.Client) (*caibx.Index, error) {
	var r io.Reader
	if stores.IsURL(name) {
		b, err := client.Get(ctx, name, maxIndex)
		if err != nil {
			return nil, err
		}
		r = bytes.NewReader(b)
	} else {
		f, err := os.Open(name)
		if err != nil {
			return nil, fmt.Errorf("archive: %w", err)
		}
		defer f.Close()
		r = f
	}
	x, err := caibx.Read(r)
	if err != nil {
		return nil, fmt.Errorf("archive: %s: %w", name, err)
	}
	return x, nil
}
