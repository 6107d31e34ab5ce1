package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/ociv2-sync/ociv2-sync/internal/offline"
	"github.com/ociv2-sync/ociv2-sync/internal/repo"
	"github.com/ociv2-sync/ociv2-sync/internal/transfer"
)

type bundleOptions struct {
	pullFlags
	have    []string
	replace bool
	tempDir string
}

func newBundleCommand(a *app) *cobra.Command {
	var o bundleOptions
	cmd := &cobra.Command{
		Use:   "bundle REPO/NAME[:TAG|@sha256:DIGEST] FILE",
		Short: "Write what a device lacks of an image to one file",
		Long: `Bundle writes what a device would fetch to pull an image, if it has the images given
with --have in its root: a delta where that is smaller, else the chunks that it lacks.
Of a changed file that is what plan says on such a device: chunks that the old version
has are left out, and the bundle says where in it they are. To find them, the old versions
are read out of the repository. A device may have those images in another form, as a
--seed, if no delta is in the bundle, and may have more. Without --have a bundle has all
of the image. The file goes to the device by whatever
means, and there ociv2-sync pull --from-bundle FILE takes the image from it, with every
check that a pull from the repository makes. An image made with --platform for another
platform than the device's is pulled with the same.`,
		Example: `  ociv2-sync bundle --have https://images.example/app:v1 https://images.example/app:v2 v2.bundle
  ociv2-sync pull --from-bundle v2.bundle`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error { return a.runBundle(cmd, args, &o) },
	}
	o.addPlatform(cmd)
	f := cmd.Flags()
	f.StringArrayVar(&o.have, "have", nil, "`IMAGE` that the device has, REPO/NAME[:TAG|@sha256:DIGEST]; repeatable")
	f.StringArrayVar(&o.stores, "store", nil, "chunk `STORE` to ask before the image's own, a directory, a URL or HOST:PATH; repeatable")
	f.BoolVar(&o.allowStore, "allow-store", false, "accept a chunk store on another host, or elsewhere on this machine, than the image")
	f.Var(&o.delta, "delta", "`HOW` to use deltas: auto, where that takes fewer bytes; only, and take no chunks; never")
	f.BoolVar(&o.replace, "replace", false, "replace a file that exists")
	f.StringVar(&o.tempDir, "temp-dir", "", "`DIR` for chunks on their way (default the system's)")
	return cmd
}

func (a *app) runBundle(cmd *cobra.Command, args []string, o *bundleOptions) (err error) {
	ref, err := repo.ParseRef(args[0])
	if err != nil {
		return err
	}
	ref.Platform = string(o.platform)
	opts := transfer.BundleOptions{Replace: o.replace, TempDir: o.tempDir, Pull: transfer.PullOptions{
		Stores: o.stores, AllowStore: o.allowStore, Jobs: a.jobs, Logger: a.logger(), Deltas: transfer.DeltaPolicy(o.delta),
	}}
	repos := append([]string{ref.Repo}, o.stores...)
	for _, name := range o.have {
		have, err := repo.ParseRef(name)
		if err != nil {
			return err
		}
		have.Platform = ref.Platform
		opts.Have, repos = append(opts.Have, have), append(repos, have.Repo)
	}
	if opts.Pull.Clients, err = a.clients(repos); err != nil {
		return err
	}
	defer opts.Pull.Clients.Close()
	done, err := transfer.MakeBundle(cmd.Context(), ref, args[1], opts)
	if err != nil {
		return err
	}
	type result struct {
		Reference string `json:"reference"`
		Digest    string `json:"digest"`
		Path      string `json:"path"`
		Bytes     int64  `json:"bytes"`
		Delta     bool   `json:"delta"`
		Chunks    int    `json:"chunks"`
	}
	r := result{ref.String(), done.Digest.String(), args[1], done.Bytes, done.Delta, done.Chunks}
	return a.print(r, func(w io.Writer) {
		with := count(int64(r.Chunks), "chunk")
		if r.Delta {
			with = "a delta and " + with
		}
		fmt.Fprintf(w, "bundled %s\ndigest %s\n%s, with %s\n%s\n", r.Reference, r.Digest, human(r.Bytes), with, r.Path)
	})
}

// fromBundle opens the bundle of --from-bundle for a pull, whose only argument is then where
// to.
func (f *pullFlags) fromBundle(opts *transfer.PullOptions, args []string) (repo.Ref, error) {
	b, err := offline.Open(f.bundle)
	if err != nil {
		return repo.Ref{}, err
	}
	opts.Bundle = b
	if len(args) > 0 {
		opts.Dest, err = transfer.ParseDest(args[0])
	}
	return b.Ref(), err
}

// imageArgs checks the arguments of a pull: an image, unless it comes from a bundle, and where
// to.
func (f *pullFlags) imageArgs(cmd *cobra.Command, args []string) error {
	if f.bundle != "" {
		return cobra.MaximumNArgs(1)(cmd, args)
	}
	return cobra.RangeArgs(1, 2)(cmd, args)
}
