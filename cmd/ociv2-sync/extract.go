package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/ociv2-sync/ociv2-sync/catar"
	"github.com/ociv2-sync/ociv2-sync/internal/archive"
	"github.com/ociv2-sync/ociv2-sync/internal/tree"
)

type extractOptions struct {
	input         inputFlags
	with, without []string
	delete        yesNo
	punchHoles    yesNo
	undoImmutable yesNo
	seedOutput    yesNo
	reflink       yesNo
	hardlink      yesNo
	seeds         []string
	dryRun        bool
	shift         shiftFlags
	strict        bool
}

func newExtractCommand(a *app) *cobra.Command {
	o := extractOptions{delete: true, punchHoles: true, seedOutput: true, reflink: true}
	cmd := &cobra.Command{
		Use:   "extract INPUT [PATH [SUBPATH]]",
		Short: "Extract a casync archive or blob",
		Long: `Extract makes the directory PATH what an archive (.catar, or - for standard
input) or the index of one (.caidx) says, or writes the file PATH from the index
of a blob (.caibx). The input may be a URL, or
[USER@]HOST:PATH as casync takes it. With SUBPATH that node alone, with
all below it, is extracted into PATH, under its name; of an index only the chunks
that it needs are fetched. A directory that is not there appears
when it is complete; one that is there is changed in place, and what the archive
does not have is deleted from it unless --delete=no. Without PATH it is the current
directory, if that is empty or --delete=yes. Files in it that are what
they should be stay as they are. Before the first change the whole archive is looked
over, and all chunks are; those of a store on another machine are fetched, once, into
a temporary file ($TMPDIR). Only a stream, from a pipe or a server, is checked as it
comes. If it fails half-way all the same, each path that was changed is named.

Of an index, the chunks are not fetched that PATH has, if it is there, or that a
--seed has: a directory, an archive or any other file, a device, or an index with
its default.castr beside it. Seeds of trees are read as casync reads them: with the
features of the archive, so that chunks match where metadata does, too.

A blob becomes a new file when it is complete. A file or block device PATH that
is there is changed in place: of what it has, wherever that lies in it, nothing is
fetched. Nor is of what a --seed has, which is read as a whole unless its index
lies beside it under its name and .caibx.

--hardlink=yes makes files that are in a seed directory, with the same contents and
metadata, other names of the seed's: whoever writes to one writes to both.

What the system does not let us restore is named. For root, or with --strict,
that is an error.`,
		Example: `  ociv2-sync extract tree.caidx /srv/tree
  ociv2-sync extract --store=https://images.example/default.castr \
      https://images.example/app/v1.caidx /srv/app
  ociv2-sync extract --seed=/srv/app.old https://images.example/app/v2.caidx /srv/app
  ociv2-sync extract build.example:trees/app.caidx /srv/app
  ociv2-sync extract disk.caibx disk.img`,
		Args: cobra.RangeArgs(1, 3),
		RunE: func(cmd *cobra.Command, args []string) error { return a.runExtract(cmd, args, &o) },
	}
	o.input.add(cmd)
	f := cmd.Flags()
	f.StringArrayVar(&o.with, "with", nil, "restore this `FEATURE` or set of features, and no others; repeatable")
	f.StringArrayVar(&o.without, "without", nil, "do not restore this `FEATURE` or set of features; repeatable")
	f.Var(&o.delete, "delete", "delete what the archive does not have")
	f.Var(&o.punchHoles, "punch-holes", "make files sparse where they are zero")
	f.Var(&o.undoImmutable, "undo-immutable", "take the immutable attribute from what has to go")
	f.StringArrayVar(&o.seeds, "seed", nil, "`PATH` that may have chunks: a directory, an archive, a file, a device or an index; repeatable")
	f.Var(&o.seedOutput, "seed-output", "use what PATH has already")
	f.Var(&o.reflink, "reflink", "share blocks with the seeds where that is possible")
	f.Var(&o.hardlink, "hardlink", "link files of a tree to the same files of seeds")
	f.BoolVarP(&o.dryRun, "dry-run", "n", false, "write and fetch nothing, say where the chunks would come from")
	f.BoolVar(&o.strict, "strict", false, "fail if anything could not be restored")
	o.shift.add(cmd, "number to add to every owner and group")
	return cmd
}

func (a *app) runExtract(cmd *cobra.Command, args []string, o *extractOptions) error {
	dest := arg(args, 1, ".")
	input := []string{args[0], arg(args, 2, "")}
	flags, err := catar.ParseNames(o.with, o.without)
	if err != nil {
		return usageError{err}
	}
	shift, err := o.shift.options()
	if err != nil {
		return err
	}
	return a.withInput(cmd, input, &o.input, 0, func(in *archive.Input) error {
		if in.IsArchive() && bool(o.delete) && !o.dryRun && input[1] == "" {
			implied := len(args) < 2 && !cmd.Flags().Changed("delete")
			if err := sparesOthers(dest, implied, append([]string{args[0]}, a.defaultStores(o.input.stores)...)); err != nil {
				return err
			}
		}
		if in.Kind == archive.BlobIndex {
			if cmd.Flags().Lookup("hardlink").Changed {
				return usageError{errors.New("--hardlink is for trees; a blob is one file")}
			}
			return a.extractBlob(cmd, in, dest, o)
		}
		done, err := archive.Extract(cmd.Context(), in, dest, archive.ExtractOptions{
			Tree: tree.ExtractOptions{
				Flags: flags, Umask: umask(), KeepOthers: !bool(o.delete), Shift: shift,
				PunchHoles: bool(o.punchHoles), UndoImmutable: bool(o.undoImmutable),
			},
			Seeds: o.seeds, SeedOutput: bool(o.seedOutput), Reflink: bool(o.reflink), Hardlink: bool(o.hardlink),
			DryRun: o.dryRun, Logger: a.logger(),
		})
		if err != nil {
			return err
		}
		switch {
		case in.Index != nil:
			a.say("%d chunks from seeds, %d from the store", done.Seeded, done.Fetched)
		case len(o.seeds) > 0:
			a.say("the seeds are of no use: %s is an archive, which has all there is to extract", args[0])
		}
		lacking := []string{}
		for _, n := range done.Notes { // each of them: what was not restored is not to be guessed
			lacking = append(lacking, message(n))
			fmt.Fprintf(a.stderr, "ociv2-sync: warning: %s\n", message(n))
		}
		if err := unrestoredError(done.Notes, o.strict); err != nil {
			return err
		}
		return a.print(struct {
			Path       string   `json:"path"`
			Seeded     int      `json:"chunksFromSeeds"`
			Fetched    int      `json:"chunksFetched"`
			Unrestored []string `json:"notRestored"`
		}{dest, done.Seeded, done.Fetched, lacking}, func(io.Writer) {})
	})
}

// sparesOthers fails if a tree that is extracted to dest would delete there what nobody
// can want to lose: what is in the current directory where no destination was named
// (implied), and the archive, the index or the stores that the tree comes from.
func sparesOthers(dest string, implied bool, from []string) error {
	there, _ := os.ReadDir(dest) // what cannot be looked at is left to the extraction
	if len(there) == 0 {
		return nil
	}
	if implied {
		return usageError{errors.New("no PATH, and the current directory is not empty: what the archive does not have would be deleted from it; name a PATH, or say --delete=yes")}
	}
	whole, err := realPath(dest)
	if err != nil {
		return err
	}
	for _, path := range from {
		part, err := realPath(path)
		if err != nil {
			continue // a URL, a host's, standard input
		}
		if rel, err := filepath.Rel(whole, part); err == nil && filepath.IsLocal(rel) {
			return usageError{fmt.Errorf("%s is in %s, and would be deleted there; choose another PATH, or say --delete=no", path, dest)}
		}
	}
	return nil
}

// realPath is the path of what is there, without symbolic links.
func realPath(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(path)
}

func (a *app) extractBlob(cmd *cobra.Command, in *archive.Input, dest string, o *extractOptions) error {
	done, err := archive.ExtractBlob(cmd.Context(), in, dest, archive.BlobOptions{
		Seeds: o.seeds, SeedOutput: bool(o.seedOutput), PunchHoles: bool(o.punchHoles), Reflink: bool(o.reflink), DryRun: o.dryRun, Jobs: a.jobs,
	})
	if err != nil {
		return err
	}
	a.say("%d chunks were in place, %d came from seeds, %d from the store", done.InPlace, done.Seeded, done.Fetched)
	return a.print(struct {
		Path    string `json:"path"`
		InPlace int    `json:"chunksInPlace"`
		Seeded  int    `json:"chunksFromSeeds"`
		Fetched int    `json:"chunksFetched"`
	}{dest, done.InPlace, done.Seeded, done.Fetched}, func(io.Writer) {})
}
