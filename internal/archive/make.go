package archive

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/ociv2-sync/ociv2-sync/catar"
	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/internal/durable"
	"github.com/ociv2-sync/ociv2-sync/internal/ingest"
	"github.com/ociv2-sync/ociv2-sync/internal/pipe"
	"github.com/ociv2-sync/ociv2-sync/internal/stores"
	"github.com/ociv2-sync/ociv2-sync/internal/tree"
	"github.com/ociv2-sync/ociv2-sync/store"
	"github.com/ociv2-sync/ociv2-sync/store/local"
	"github.com/ociv2-sync/ociv2-sync/store/sshstore"
)

// MakeOptions are the options of Make. Flags and Params must be set.
type MakeOptions struct {
	// Kind is what to make.
	Kind Kind
	// Stdin is the blob that the source "-" means.
	Stdin io.Reader
	// Flags are the features of the archive; they also choose the digest. The
	// index of a blob has them as well, for what casync stores there: BlobFlags.
	Flags catar.Flags
	// Params are the chunk sizes of an index.
	Params chunk.Params
	// Store is the directory of the chunk store for an index, made if it is
	// not there, in one that is: on the machine where the output is.
	Store string
	// SSH is how the machine of an output that is not on this one is reached.
	SSH sshstore.Options
	// Compression is that of the chunks that the store lacks.
	Compression store.Compression
	// Shift is applied to the owners of an archive.
	Shift tree.IDShift
	// Cache is a directory that remembers from one time to the next which files
	// make which chunks of an archive, so that those that did not change need not
	// be read; "" has none. A chunk that the store lacks is made all the same.
	// With a cache the stream as a whole has no digest.
	Cache string
	// Now is the clock by which a file has changed too recently for the cache; nil
	// means time.Now.
	Now func() time.Time
	// TempDir is where records of the archive wait with a cache, and chunks to be
	// sent for by another machine; "" means /var/tmp.
	TempDir string
	// NoDigest leaves the digest of the whole stream out, which is one long
	// calculation that no second processor can help with.
	NoDigest bool
	// Jobs is the number of chunks worked on at a time; 0 means GOMAXPROCS.
	Jobs int
	// Progress is called with the number of bytes of the stream so far.
	Progress func(done int64)
}

func (o *MakeOptions) now() time.Time {
	if o.Now != nil {
		return o.Now()
	}
	return time.Now()
}

// BlobFlags are the feature flags that casync gives to the index of a blob: what
// it was told to store (with says whether it was told anything), although a blob
// has no features but the digest, and what it was told to exclude.
func BlobFlags(f catar.Flags, with bool) catar.Flags {
	if with {
		return f
	}
	return f & (catar.SHA512_256 | catar.ExcludeFile | catar.ExcludeSubmounts | catar.ExcludeNoDump)
}

// Made is what Make made.
type Made struct {
	// Digest is that of the whole stream, which casync prints as well. It is zero
	// with NoDigest, and with a cache, where neither casync nor we know it.
	Digest chunk.ID
	// Size is the length of the stream in bytes.
	Size int64
	// Index says more where an index was made; it is nil otherwise.
	Index *ingest.Result
	// New and Packed are the number of chunks that the store lacked and their size
	// in bytes as they are in there.
	New    int
	Packed int64
}

// Make writes an archive of the directory at source, or an index of that or
// of the file at source, to the file at output; "-" is standard output, for an
// archive alone, and HOST:PATH or an ssh URL a file on another machine, which
// casync or this program there writes. The output appears when it is complete.
func Make(ctx context.Context, source, output string, stdout io.Writer, opts MakeOptions) (_ *Made, err error) {
	if opts.Cache != "" && opts.Kind != ArchiveIndex {
		return nil, fmt.Errorf("archive: %w: a cache is for the indexes of trees", ErrUsage)
	}
	opts.TempDir = cmp.Or(opts.TempDir, "/var/tmp")
	at, far, err := stores.SSH(output)
	switch {
	case err != nil:
		return nil, err
	case far && opts.Kind == Archive:
		return makeArchive(ctx, source, opts, func(fill func(io.Writer) error) error {
			return sshstore.PushArchive(ctx, at, fill, opts.SSH)
		})
	case far:
		return makeFar(ctx, source, at, opts)
	case opts.Kind == Archive:
		return makeArchive(ctx, source, opts, func(fill func(io.Writer) error) error {
			return writeOutput(output, stdout, fill)
		})
	case stores.Remote(opts.Store):
		return nil, fmt.Errorf("archive: %w: the store %s is on another machine, the index %s is to be on this one: make both there, or both here", ErrUsage, opts.Store, output)
	}
	if err := places(source, output); err != nil {
		return nil, err
	}
	st, err := local.Open(opts.Store, local.Options{Create: true})
	if err != nil {
		return nil, err
	}
	defer st.Close()
	// No collection may remove what the index will name before it is there.
	unlock, err := st.Lock(ctx, false)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	made, err := makeChunks(ctx, source, st, &opts)
	if err != nil {
		return nil, err
	}
	// The chunks are on the disk before the index that names them.
	if err := st.Flush(); err != nil {
		return nil, err
	}
	return made, writeOutput(output, stdout, func(w io.Writer) error {
		_, err := made.Index.Index.WriteTo(w)
		return err
	})
}

// places reports an index that cannot be made, before the store is: by default that
// lies where the index will.
func places(source, output string) error {
	for _, name := range []string{source, filepath.Dir(output)} {
		if name == "-" { // standard input
			continue
		}
		if _, err := os.Stat(name); err != nil {
			return fmt.Errorf("archive: %w", err)
		}
	}
	return nil
}

// makeChunks makes an index, and in st the chunks of it.
func makeChunks(ctx context.Context, source string, st *local.Store, opts *MakeOptions) (*Made, error) {
	in := ingest.Options{
		Params: opts.Params, FeatureFlags: uint64(opts.Flags), Store: st, Compression: opts.Compression, Jobs: opts.Jobs, Digest: !opts.NoDigest, Progress: opts.Progress,
	}
	var x *ingest.Result
	var err error
	if opts.Kind == BlobIndex {
		x, err = ingestFile(ctx, source, opts.Stdin, in)
	} else if opts.Cache != "" {
		x, err = makeCached(ctx, source, st, opts)
	} else {
		err = pipe.Run(ctx, func(ctx context.Context, w io.Writer) error {
			return opts.encode(ctx, source, w)
		}, func(ctx context.Context, r io.Reader) (err error) {
			x, err = ingest.Stream(ctx, r, in)
			return err
		})
	}
	if err != nil {
		return nil, err
	}
	return &Made{Digest: x.Digest, Size: int64(x.Index.Size()), Index: x, New: x.New.Chunks, Packed: x.Packed}, nil
}

// ingestFile makes the chunks of a file, a device or standard input.
func ingestFile(ctx context.Context, name string, stdin io.Reader, opts ingest.Options) (*ingest.Result, error) {
	if name == "-" {
		return ingest.Stream(ctx, stdin, opts)
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("archive: %w", err)
	}
	defer f.Close()
	r, err := streamOf(f)
	if err != nil {
		return nil, err
	}
	return ingest.Stream(ctx, r, opts)
}

// makeArchive makes an archive, which write is to put into its place.
func makeArchive(ctx context.Context, source string, opts MakeOptions, write func(fill func(io.Writer) error) error) (*Made, error) {
	made := &Made{}
	h := algorithm(opts.Flags).New()
	err := write(func(w io.Writer) error {
		n := &counter{progress: opts.Progress}
		to := []io.Writer{w, n}
		if !opts.NoDigest {
			to = append(to, h)
		}
		err := opts.encode(ctx, source, io.MultiWriter(to...))
		made.Size = n.n
		return err
	})
	if err != nil {
		return nil, err
	}
	if !opts.NoDigest {
		made.Digest = chunk.ID(h.Sum(nil))
	}
	return made, nil
}

// encode writes the archive of a directory.
func (o *MakeOptions) encode(ctx context.Context, source string, w io.Writer) error {
	return tree.Encode(ctx, source, tree.EncodeOptions{Flags: o.Flags, Shift: o.Shift}, w)
}

// algorithm returns the digest that feature flags choose.
func algorithm(f catar.Flags) chunk.Algorithm {
	if f&catar.SHA512_256 != 0 {
		return chunk.SHA512_256
	}
	return chunk.SHA256
}

// counter counts what is written.
type counter struct {
	n        int64
	progress func(int64)
}

func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	if c.progress != nil {
		c.progress(c.n)
	}
	return len(p), nil
}

// writeOutput has write write a file that appears when it is complete.
func writeOutput(output string, stdout io.Writer, write func(io.Writer) error) error {
	if output == "-" {
		return write(stdout)
	}
	f, err := durable.Create(output, 0o644)
	if err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	defer f.Close()
	if err := write(f); err != nil {
		return err
	}
	if err := f.Commit(); err != nil {
		return fmt.Errorf("archive: %w", err)
	}
	return nil
}
