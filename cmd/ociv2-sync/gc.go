package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/internal/archive"
)

type gcOptions struct {
	store           string
	dryRun, verbose bool
	chunks          bool
	repoGC
}

func newGCCommand(a *app) *cobra.Command {
	var o gcOptions
	cmd := &cobra.Command{
		Use:   "gc [REPO | INDEX...]",
		Short: "Remove what nothing needs from this device, a repository or a chunk store",
		Long: `Without an argument, gc ends what an interrupted pull, rm or rollback has begun in
the root, and removes the trees and metadata that no image needs, now or for
rollback. Pull and rm do so by themselves when they come to their end. What
interrupted pulls have fetched stays for the next one, unless --chunks. A tree stays as
long as a process has a lease on it, as flock --shared takes one on the file
ROOT/images/NAME/TAG/../tree.json.

With a repository, a directory or an ssh, sftp or s3 URL, it removes the blobs and chunks
that no tag needs, if they are older than --grace; with --keep or --keep-within
also tags that are too many or too old, and the deltas that begin at an image no
tag names any more, --keep-deltas after they were made. Pushes that are under way
are waited for, and wait. What it goes by must be whole; else nothing is removed.
A bucket with versioning keeps what is removed as versions, until a rule of its own
ends them.

With indexes (.caidx, .caibx), as casync's verb, it removes from their chunk store
every chunk that none of them names. Name all indexes that are to stay usable.
Each must be whole; else nothing is removed. Whatever else lies in the store
stays. While gc runs, make and push into the store wait.`,
		Example: `  ociv2-sync gc --chunks
  ociv2-sync gc --keep 5 --keep-within 90d --dry-run /srv/www/images
  ociv2-sync gc ssh://www.example/srv/www/images
  ociv2-sync gc *.caidx *.caibx
  ociv2-sync gc --dry-run --store=/srv/default.castr v2.caidx`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if given := o.repoGC.given(cmd); len(args) == 1 && archive.KindOf(args[0]) == archive.Unknown {
				if o.store != "" || o.chunks {
					return usageError{errors.New("--store and --chunks do not go with a repository")}
				}
				return a.collectRepo(cmd, args[0], &o)
			} else if given != "" {
				return usageError{fmt.Errorf("--%s is for a repository, which must be named", given)}
			}
			switch of := o.store != "" || o.dryRun || o.verbose; {
			case len(args) > 0 && o.chunks:
				return usageError{errors.New("--chunks is of the root and takes no INDEX")}
			case len(args) > 0:
				return a.runGC(cmd, args, &o)
			case of:
				return usageError{errors.New("--store, --dry-run and --verbose are for a repository or a chunk store: name REPO, or INDEX... of those to keep")}
			}
			return a.pruneRoot(cmd.Context(), o.chunks)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.store, "store", "", "`DIR` of the chunk store (default default.castr beside the indexes)")
	f.BoolVar(&o.chunks, "chunks", false, "also remove what interrupted pulls have fetched into the root")
	f.BoolVarP(&o.dryRun, "dry-run", "n", false, "remove nothing")
	f.BoolVarP(&o.verbose, "verbose", "v", false, "name each chunk or file that goes")
	o.repoGC.add(f)
	return cmd
}

func (a *app) runGC(cmd *cobra.Command, args []string, o *gcOptions) error {
	clients, err := a.clients(append([]string{o.store}, args...))
	if err != nil {
		return err
	}
	defer clients.Close()
	if env, ok := a.env("CASYNC_STORE"); ok && o.store == "" {
		o.store = env
	}
	opts := archive.GCOptions{Store: o.store, DryRun: o.dryRun, Clients: clients}
	if o.verbose {
		opts.Removing = func(id chunk.ID) { a.say("removing chunk %s", id) }
	}
	done, err := archive.GC(cmd.Context(), args, opts)
	if err != nil {
		return err
	}
	type result struct {
		DryRun  bool  `json:"dryRun"`
		Used    int   `json:"usedChunks"`
		Kept    int   `json:"keptChunks"`
		Removed int   `json:"removedChunks"`
		Bytes   int64 `json:"removedBytes"`
	}
	r := result{o.dryRun, done.Used, done.Kept, done.Removed, done.Bytes}
	return a.print(r, func(w io.Writer) {
		verb := "removed"
		if o.dryRun {
			verb = "would remove"
		}
		fmt.Fprintf(w, "%s %d chunks, %s; %d chunks remain\n", verb, r.Removed, human(r.Bytes), r.Kept)
	})
}
