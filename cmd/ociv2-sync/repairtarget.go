package main

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/ociv2-sync/ociv2-sync/catar"
	"github.com/ociv2-sync/ociv2-sync/internal/archive"
	"github.com/ociv2-sync/ociv2-sync/internal/tree"
)

// repairTarget makes a tree or a blob what its index says.
func (a *app) repairTarget(cmd *cobra.Command, index, target string, o *repairOptions) error {
	if _, err := os.Stat(target); err != nil {
		return err
	}
	in := inputFlags{extra: o.from}
	if o.store != "" {
		in.stores = []string{o.store}
	}
	type result struct {
		Chunks  int      `json:"chunks"`
		Fetched int      `json:"fetchedChunks"`
		Changed []string `json:"changed,omitempty"`
	}
	var r result
	err := a.withInput(cmd, []string{index}, &in, 0, func(x *archive.Input) error {
		if x.Index == nil {
			return usageError{fmt.Errorf("%s is not an index (.caidx or .caibx)", index)}
		}
		r.Chunks = len(x.Index.Chunks)
		if !x.IsArchive() {
			done, err := archive.ExtractBlob(cmd.Context(), x, target, archive.BlobOptions{SeedOutput: true, PunchHoles: true, Jobs: a.jobs})
			if done != nil {
				r.Fetched = done.Fetched
			}
			return err
		}
		if err := sparesOthers(target, false, append([]string{index}, in.stores...)); err != nil {
			return err
		}
		flags, err := catar.ParseNames(nil, nil)
		if err != nil {
			return err
		}
		done, err := archive.Extract(cmd.Context(), x, target, archive.ExtractOptions{
			Tree: tree.ExtractOptions{
				Flags: flags, Umask: umask(), PunchHoles: true,
				Changed: func(path string) { r.Changed = append(r.Changed, path) },
			},
			SeedOutput: true, Logger: a.logger(),
		})
		if err != nil {
			return err
		}
		r.Fetched = done.Fetched
		return a.unrestored(done.Notes, false)
	})
	if err != nil {
		return err
	}
	return a.print(r, func(w io.Writer) {
		for _, path := range r.Changed {
			fmt.Fprintf(w, "repaired %q\n", path)
		}
		fmt.Fprintf(w, "%d of %d chunks fetched\n", r.Fetched, r.Chunks)
	})
}
