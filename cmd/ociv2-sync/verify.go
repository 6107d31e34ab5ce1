package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/internal/archive"
	"github.com/ociv2-sync/ociv2-sync/internal/stores"
	"github.com/ociv2-sync/ociv2-sync/store"
)

func newVerifyCommand(a *app) *cobra.Command {
	var in inputFlags
	cmd := &cobra.Command{
		Use:   "verify STORE | INDEX [TARGET]",
		Short: "Check a chunk store, an index against its store, or a target against an index",
		Long: `Verify checks that

  STORE         a directory of chunks: each chunk is what its name says
  INDEX         a .caidx or .caibx: its store has each of its chunks, whole
  INDEX TARGET  TARGET, a directory or a file, is what the index describes;
                no chunk is read or fetched for that

and names every chunk, or part of the target, that is damaged or missing. The
exit code is 4 if something is damaged, and 3 if chunks are only missing.`,
		Example: `  ociv2-sync verify default.castr
  ociv2-sync verify tree.caidx
  ociv2-sync verify disk.caibx /dev/sdb`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error { return a.runVerify(cmd, args, &in) },
	}
	in.add(cmd)
	return cmd
}

// badChunk is a chunk that is damaged or missing.
type badChunk struct {
	Chunk  string `json:"chunk"`
	State  string `json:"state"`
	Reason string `json:"reason"`
}

// part is a part of a target that is not what its index says.
type part struct {
	From uint64 `json:"from"`
	To   uint64 `json:"to"`
}

// findings are what a verification is about to print.
type findings struct {
	Chunks int        `json:"chunks"`
	Bytes  int64      `json:"bytes"`
	Faults []badChunk `json:"faults"`
	Parts  []part     `json:"parts,omitempty"`
}

// chunk notes a chunk that is not good.
func (f *findings) chunk(id chunk.ID, err error) error {
	state := "damaged"
	if errors.Is(err, store.ErrNotFound) {
		state = "missing"
	}
	f.Faults = append(f.Faults, badChunk{id.String(), state, message(err)})
	return nil
}

func (f *findings) print(w io.Writer) {
	for _, x := range f.Faults {
		fmt.Fprintf(w, "%s %s\n", x.State, x.Chunk)
	}
	for _, x := range f.Parts {
		fmt.Fprintf(w, "differs from byte %d to %d\n", x.From, x.To)
	}
}

func (a *app) runVerify(cmd *cobra.Command, args []string, in *inputFlags) error {
	found := findings{Faults: []badChunk{}}
	var done *archive.Verified
	var err error
	fi, statErr := os.Stat(args[0])
	if len(args) == 1 && statErr == nil && fi.IsDir() {
		done, err = archive.VerifyStore(cmd.Context(), args[0], a.jobs, found.chunk)
	} else {
		in.indexOnly = len(args) == 2
		err = a.withInput(cmd, args[:1], in, 0, func(x *archive.Input) (err error) {
			if len(args) == 1 {
				done, err = archive.VerifyIndex(cmd.Context(), x, a.jobs, found.chunk)
				return err
			}
			done, err = archive.VerifyTarget(cmd.Context(), x, args[1], func(r archive.Range) error {
				found.Parts = append(found.Parts, part{r.From, r.To})
				return nil
			})
			return err
		})
	}
	if done == nil {
		return err
	}
	found.Chunks, found.Bytes = done.Chunks, done.Bytes
	if printErr := a.print(found, found.print); printErr != nil {
		return printErr
	}
	if err == nil {
		a.say("%d chunks, %s, are good", done.Chunks, human(done.Bytes))
	}
	if err != nil && a.json && errors.Is(err, archive.ErrDamaged) {
		return printedError{err}
	}
	return err
}

type repairOptions struct {
	store string
	from  []string
}

func newRepairCommand(a *app) *cobra.Command {
	var o repairOptions
	cmd := &cobra.Command{
		Use:   "repair INDEX {TARGET | --extra-store STORE}",
		Short: "Replace what is damaged or missing in a chunk store, a tree or a blob",
		Long: `Repair looks at every chunk of an index (.caidx, .caibx) in a local store. What is
damaged or missing there, and nothing else, is taken from the extra stores,
verified and put in its place.

With TARGET, a directory, file or block device that the index describes, that is
made what it should be: all of it is read, only the chunks that it does not have
are taken from the stores, and only what is wrong is written. Of a directory, what
the index does not have is deleted, and each path that was mended is named.`,
		Example: `  ociv2-sync repair v1.caidx --extra-store=https://images.example/default.castr
  ociv2-sync repair https://images.example/app/v1.caidx /srv/app`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 2 {
				return a.repairTarget(cmd, args[0], args[1], &o)
			}
			return a.runRepair(cmd, args[0], &o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.store, "store", "", "chunk `STORE` of the index; without TARGET a directory (default default.castr beside INDEX)")
	f.StringArrayVar(&o.from, "extra-store", nil, "`STORE` to take chunks from, a directory or URL; repeatable")
	return cmd
}

func (a *app) runRepair(cmd *cobra.Command, index string, o *repairOptions) error {
	if len(o.from) == 0 {
		return usageError{errors.New("no --extra-store to take chunks from")}
	}
	o.store = a.defaultStore(o.store, index)
	if stores.IsURL(o.store) {
		return usageError{fmt.Errorf("the store %s is not a directory", o.store)}
	}
	clients, err := a.clients(append([]string{index}, o.from...))
	if err != nil {
		return err
	}
	defer clients.Close()
	sources, closer, err := stores.Open(o.from, clients)
	if err != nil {
		return err
	}
	defer closer.Close()
	found := findings{Faults: []badChunk{}}
	var done *archive.Repaired
	in := inputFlags{stores: o.from}
	err = a.withInput(cmd, []string{index}, &in, 0, func(x *archive.Input) (err error) {
		done, err = archive.Repair(cmd.Context(), x, o.store, sources, a.jobs, found.chunk)
		return err
	})
	if err != nil {
		return err
	}
	type result struct {
		Chunks  int        `json:"chunks"`
		Fetched int        `json:"fetchedChunks"`
		Bytes   int64      `json:"fetchedBytes"`
		Faults  []badChunk `json:"repaired"`
	}
	return a.print(result{done.Chunks, done.Fetched, done.Bytes, found.Faults}, func(w io.Writer) {
		found.print(w)
		fmt.Fprintf(w, "%d of %d chunks repaired, %s\n", done.Fetched, done.Chunks, human(done.Bytes))
	})
}
