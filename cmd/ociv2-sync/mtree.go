package main

import (
	"bufio"
	"errors"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/ociv2-sync/ociv2-sync/internal/archive"
)

func newMTreeCommand(a *app) *cobra.Command {
	return newTextCommand(a, &cobra.Command{
		Use:   "mtree [INPUT [SUBPATH]]",
		Short: "List what an archive, an index or a directory has, as mtree(5)",
		Long: `MTree prints all nodes of an archive (.catar, or - for standard input), of the
index of one (.caidx), or of a directory, in the format of mtree(5), as casync
does: of all, or of SUBPATH and what is below it. The digests are named after
the algorithm of the archive; --digest chooses that of a directory. The input may
be a URL.`,
		Example: `  ociv2-sync mtree tree.catar
  ociv2-sync mtree /srv/tree etc`,
	}, func(cmd *cobra.Command, in *archive.Input, w io.Writer) error {
		return archive.MTree(cmd.Context(), in, w)
	})
}

func newStatCommand(a *app) *cobra.Command {
	return newTextCommand(a, &cobra.Command{
		Use:   "stat [INPUT [SUBPATH]]",
		Short: "Show what an archive says of one node",
		Long: `Stat prints what an archive (.catar, or - for standard input), the index of one
(.caidx) or the archive of a directory records of its root, or of SUBPATH, as
casync does. The input may be a URL; of an index only the chunks are fetched that
the node needs.`,
		Example: `  ociv2-sync stat tree.caidx etc/passwd`,
	}, func(cmd *cobra.Command, in *archive.Input, w io.Writer) error {
		return archive.Stat(cmd.Context(), in, w, time.Local)
	})
}

// newTextCommand makes a command of what writes about an input.
func newTextCommand(a *app, cmd *cobra.Command, write func(*cobra.Command, *archive.Input, io.Writer) error) *cobra.Command {
	var in inputFlags
	var features featureFlags
	cmd.Args = cobra.MaximumNArgs(2)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		flags, err := features.flags()
		if err != nil {
			return err
		}
		return a.withInput(cmd, args, &in, flags, func(in *archive.Input) error {
			w := bufio.NewWriter(a.stdout)
			err := write(cmd, in, w)
			return errors.Join(err, w.Flush()) // the lines before a fault are good
		})
	}
	in.add(cmd)
	features.add(cmd)
	return cmd
}
