package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/ociv2-sync/ociv2-sync/internal/archive"
)

func newDigestCommand(a *app) *cobra.Command {
	var in inputFlags
	var features featureFlags
	cmd := &cobra.Command{
		Use:   "digest [INPUT [SUBPATH]]",
		Short: "Print the digest of an archive, index, blob or directory",
		Long: `Digest prints the digest of the whole stream that an input stands for: an
archive (.catar, or - for standard input), the stream that an index (.caidx,
.caibx) describes, which is fetched and verified, a blob, or the archive that
make would make of a directory. With SUBPATH it is the digest of that node and
what is below it. The input may be a URL or
[USER@]HOST:PATH.`,
		Example: `  ociv2-sync digest tree.catar
  ociv2-sync digest --with=unix /srv/tree`,
		Args: cobra.MaximumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			flags, err := features.flags()
			if err != nil {
				return err
			}
			return a.withInput(cmd, args, &in, flags, func(in *archive.Input) error {
				digest, err := archive.Digest(cmd.Context(), in)
				if err != nil {
					return err
				}
				return a.print(struct {
					Digest string `json:"digest"`
				}{digest}, func(w io.Writer) { fmt.Fprintln(w, digest) })
			})
		},
	}
	in.add(cmd)
	features.add(cmd)
	return cmd
}
