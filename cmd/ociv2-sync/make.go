package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/internal/archive"
)

type makeOptions struct {
	features    featureFlags
	shift       shiftFlags
	store       string
	chunkSize   string
	packing     compressionFlag
	what        string
	cache       string
	cacheAuto   bool
	printDigest yesNo
}

func newMakeCommand(a *app) *cobra.Command {
	o := makeOptions{printDigest: true}
	cmd := &cobra.Command{
		Use:   "make OUTPUT [PATH]",
		Short: "Make a casync archive or index of a directory or blob",
		Long: `Make writes what casync's verb of that name writes, byte for byte: an archive
of the directory PATH (OUTPUT ends in .catar, or is - for standard output), a
chunk index of that archive (.caidx), or a chunk index of the file PATH
(.caibx). PATH is the current directory if it is not given, and of a blob standard
input, as is -. The digest of the whole stream is printed.

That digest is one long calculation, of 1 GB a second or so, while all else is done
on all processors and holes of a blob are not even read: --print-digest=no leaves it
out. The output is the same.

With --cache, files that did not change since the index of PATH was last made with
the same options are not read again; chunks of theirs that the store has not are
made nevertheless. No digest is printed then. Keep the cache out of PATH.

OUTPUT may be [USER@]HOST:FILE or an ssh:// URL: casync or ociv2-sync, whichever
CASYNC_REMOTE_PATH names, writes it there. The store is on the same machine. Chunks
wait in $TMPDIR (or /var/tmp) until that has said which of them it lacks; only those
are sent, and not again when the connection breaks. --cache is for this machine.`,
		Example: `  ociv2-sync make tree.catar /srv/tree
  ociv2-sync make --store=/srv/default.castr tree.caidx /srv/tree
  ociv2-sync make --with=unix --chunk-size=128K tree.caidx /srv/tree
  ociv2-sync make disk.caibx disk.img
  ociv2-sync make --print-digest=no sparse.caibx sparse.img
  zcat disk.img.gz | ociv2-sync make disk.caibx
  ociv2-sync make --store=host:/srv/store host:/srv/tree.caidx /srv/tree`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error { return a.runMake(cmd, args, &o) },
	}
	o.features.add(cmd)
	o.shift.add(cmd, "number to take off every owner and group")
	f := cmd.Flags()
	f.StringVar(&o.store, "store", "", "`DIR` of the chunk store, where OUTPUT is (default default.castr beside OUTPUT)")
	f.StringVar(&o.chunkSize, "chunk-size", "auto", "`SIZE` of chunks in bytes: AVG, MIN:AVG:MAX or auto, with K, M or G")
	o.packing.add(f)
	f.StringVar(&o.what, "what", "", "`WHAT` to make, whatever OUTPUT ends in: archive, archive-index or blob-index")
	f.Var(&o.printDigest, "print-digest", "compute and print the digest of the whole stream")
	f.StringVar(&o.cache, "cache", "", "`DIR` that remembers which files make which chunks")
	f.BoolVarP(&o.cacheAuto, "cache-auto", "c", false, "have such a directory for PATH among the caches of the user")
	return cmd
}

func (a *app) runMake(cmd *cobra.Command, args []string, o *makeOptions) error {
	output := args[0]
	opts := archive.MakeOptions{Kind: archive.KindOf(output), Store: a.defaultStore(o.store, output), Stdin: os.Stdin}
	var err error
	switch {
	case o.what != "":
		if opts.Kind, err = archive.ParseKind(o.what); err != nil {
			return err
		}
	case output == "-":
		opts.Kind = archive.Archive
	case opts.Kind == archive.Unknown:
		return usageError{fmt.Errorf("%q does not end in .catar, .caidx or .caibx; say --what is to be made", output)}
	}
	source := "."
	switch opts.Kind {
	case archive.BlobIndex:
		source = "-"
	case archive.Unknown, archive.Archive, archive.ArchiveIndex:
	case archive.Blob, archive.Directory:
		return usageError{fmt.Errorf("what is made is an archive, an archive-index or a blob-index, not a %s", o.what)}
	}
	source = arg(args, 1, source)
	if opts.Flags, err = o.features.flags(); err != nil {
		return err
	}
	if opts.Kind == archive.BlobIndex {
		opts.Flags = archive.BlobFlags(opts.Flags, len(o.features.with) > 0)
	}
	if opts.Shift, err = o.shift.options(); err != nil {
		return err
	}
	if opts.Params, err = chunk.ParseParams(o.chunkSize); err != nil {
		return usageError{err}
	}
	opts.Compression, opts.TempDir, opts.Cache, opts.NoDigest = o.packing.Compression, a.tempDir(), o.cache, !bool(o.printDigest)
	opts.SSH = a.ssh()
	if o.cacheAuto && o.cache != "" {
		return usageError{errors.New("--cache names the cache that --cache-auto would choose; one of the two")}
	}
	if o.cacheAuto {
		if opts.Cache, err = autoCache(source); err != nil {
			return err
		}
	}
	m := a.meter(bar{name: "read"})
	last := int64(0)
	opts.Progress = func(done int64) {
		m.add(0, done-last)
		last = done
	}
	made, err := archive.Make(cmd.Context(), source, output, a.stdout, opts)
	m.stop()
	if err != nil {
		return err
	}
	return a.printMade(made, output)
}

// autoCache returns the cache of a directory, below that of the user.
func autoCache(source string) (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the directory of caches: %w", err)
	}
	path, err := filepath.Abs(source)
	if err != nil {
		return "", fmt.Errorf("find the directory of caches: %w", err)
	}
	return filepath.Join(dir, "ociv2-sync", "make", fmt.Sprintf("%x", sha256.Sum256([]byte(path)))), nil
}

func (a *app) printMade(made *archive.Made, output string) error {
	type result struct {
		Digest string `json:"digest,omitempty"`
		Size   int64  `json:"size"`
		Chunks int    `json:"chunks,omitempty"`
		New    int    `json:"newChunks,omitempty"`
		Packed int64  `json:"newBytes,omitempty"`
	}
	r := result{Size: made.Size}
	if made.Digest != (chunk.ID{}) {
		r.Digest = made.Digest.String()
	}
	if x := made.Index; x != nil {
		r.Chunks, r.New, r.Packed = len(x.Index.Chunks), made.New, made.Packed
		a.say("%d chunks, %d of them new, which take %s", r.Chunks, r.New, human(r.Packed))
	}
	if output == "-" {
		if r.Digest != "" {
			a.say("%s", r.Digest) // standard output is the archive
		}
		return nil
	}
	return a.print(r, func(w io.Writer) {
		if r.Digest != "" {
			fmt.Fprintln(w, r.Digest)
		}
	})
}
