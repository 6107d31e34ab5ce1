package main

import (
	"github.com/spf13/cobra"

	"github.com/ociv2-sync/ociv2-sync/internal/archive"
)

func newCatCommand(a *app) *cobra.Command {
	var in inputFlags
	cmd := &cobra.Command{
		Use:   "cat INPUT [SUBPATH]",
		Short: "Write a file of an archive, or a blob, to standard output",
		Long: `Cat writes the contents of the regular file SUBPATH of an archive (.catar, or -
for standard input) or of the index of one (.caidx), or all of what the index of
a blob (.caibx) describes. The input may be a URL; of an index only the chunks
are fetched that the file needs.`,
		Example: `  ociv2-sync cat https://images.example/app/v1.caidx etc/os-release \
      --store=https://images.example/default.castr
  ociv2-sync cat disk.caibx | sha256sum`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withInput(cmd, args, &in, 0, func(in *archive.Input) error {
				return archive.Cat(cmd.Context(), in, a.stdout)
			})
		},
	}
	in.add(cmd)
	return cmd
}
