package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/ociv2-sync/ociv2-sync/internal/transfer"
)

func newSeedCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "seed",
		Short: "Look after what is known of seeds",
		Args:  noSuchCommand,
		RunE:  noCommand,
	}
	cmd.AddCommand(newSeedIndexCommand(a))
	return cmd
}

func newSeedIndexCommand(a *app) *cobra.Command {
	var idle bool
	cmd := &cobra.Command{
		Use:   "index [KIND:]PATH...",
		Short: "Read seeds ahead of time, so that no pull has to",
		Long: `Index reads the files of seeds and keeps their digests in the root's
catalogue. A later plan or pull with --seed PATH reads none of them that has not
changed; index itself reads only what it does not know. What was read before an
interrupt is kept.

A file is known by its filesystem, inode, size and times, so that it may be
renamed and moved, and a change of its bytes shows. One that changed within the
last seconds is read again next time.`,
		Example: `  ociv2-sync seed index /var/lib/containers/storage
  ociv2-sync seed index --idle /srv /opt`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if idle {
				if err := idlePriority(); err != nil {
					return err
				}
			}
			done, err := transfer.IndexSeeds(cmd.Context(), a.root, args, a.logger())
			if err != nil {
				return err
			}
			return a.print(done, func(w io.Writer) {
				fmt.Fprintf(w, "%d files, %s; read %d of them, %s\n", done.Files, human(done.Bytes), done.Read, human(done.ReadBytes))
			})
		},
	}
	cmd.Flags().BoolVar(&idle, "idle", false, "use processor and disk only when nobody else does")
	return cmd
}
