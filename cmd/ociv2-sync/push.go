package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/ociv2-sync/ociv2-sync/internal/repo"
	"github.com/ociv2-sync/ociv2-sync/internal/transfer"
)

type pushOptions struct {
	platform string
	tempDir  string
	deltas   int
}

func newPushCommand(a *app) *cobra.Command {
	var o pushOptions
	cmd := &cobra.Command{
		Use:   "push SOURCE REPO/NAME[:TAG]",
		Short: "Publish an image in a repository",
		Long: `Push merges the layers of an image into one filesystem, cuts it into chunks, and
publishes it in the repository REPO, a directory that any web server can serve.
SOURCE is one of

  oci:DIR[:REF]              an OCI image layout
  oci-archive:FILE[:REF]     the same as a tar
  docker-archive:FILE[:REF]  what docker save writes
  rootfs:DIR                 a root filesystem

The tag appears, or changes, when everything else is in place: whoever pulls
meanwhile gets the old image.`,
		Example: `  ociv2-sync push oci:build:v2 /srv/www/images/app:v2
  ociv2-sync push docker-archive:app.tar /srv/www/images/app
  ociv2-sync push rootfs:/srv/tree /srv/www/images/app:test`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error { return a.runPush(cmd, args, &o) },
	}
	f := cmd.Flags()
	f.StringVar(&o.platform, "platform", "", "`PLATFORM` of the image to push where there are several, OS/ARCH[/VARIANT] (default this machine's)")
	f.StringVar(&o.tempDir, "temp-dir", "", "`DIR` where contents wait between layers and chunks (default /var/tmp)")
	f.IntVar(&o.deltas, "deltas", 3, "`NUMBER` of earlier tags to make deltas from; this version makes none")
	return cmd
}

func (a *app) runPush(cmd *cobra.Command, args []string, o *pushOptions) error {
	if o.deltas < 0 {
		return usageError{fmt.Errorf("--deltas is 0 or more, not %d", o.deltas)}
	}
	ref, err := repo.ParseRef(args[1])
	if err != nil {
		return err
	}
	var m meter
	var last int64
	pushed, err := transfer.Push(cmd.Context(), args[0], ref, transfer.PushOptions{
		Platform: o.platform, TempDir: o.tempDir,
		Progress: func(done, total int64) {
			if m.add == nil {
				m = a.meter(bar{name: "pushed", total: total})
			}
			m.add(0, done-last)
			last = done
		},
	})
	if m.stop != nil {
		m.stop()
	}
	if err != nil {
		return err
	}
	type result struct {
		Reference string `json:"reference"`
		Digest    string `json:"digest"`
		TOC       string `json:"tocDigest"`
		Nodes     int    `json:"nodes"`
		Size      int64  `json:"archiveBytes"`
		Metadata  int64  `json:"metadataBytes"`
		Chunks    int    `json:"chunks"`
		New       int    `json:"newChunks"`
		NewBytes  int64  `json:"newBytes"`
	}
	r := result{
		ref.String(), pushed.Digest.String(), pushed.TOC.String(), pushed.Nodes,
		pushed.CatarSize, pushed.Metadata, pushed.Chunks, pushed.New, pushed.NewBytes,
	}
	return a.print(r, func(w io.Writer) {
		fmt.Fprintf(w, "pushed %s\n", r.Reference)
		fmt.Fprintf(w, "digest %s\n", r.Digest)
		fmt.Fprintf(w, "%d files and directories, %s in %d chunks; %d chunks (%s stored) are new, %s of metadata\n",
			r.Nodes, human(r.Size), r.Chunks, r.New, human(r.NewBytes), human(r.Metadata))
	})
}
