package main

import (
	"github.com/spf13/cobra"

	"github.com/ociv2-sync/ociv2-sync/internal/repo"
	"github.com/ociv2-sync/ociv2-sync/internal/transfer"
)

// lookFlags are those of commands that look at what images are, in repositories or
// attached to images in registries.
type lookFlags struct {
	platformFlag
	registryFlags
}

func (o *lookFlags) add(cmd *cobra.Command) {
	o.platformFlag.add(cmd.Flags())
	o.registryFlags.add(cmd.Flags())
}

// look calls do with the images that names stand for, and with what reaches them.
func (a *app) look(names []string, o *lookFlags, do func(refs []repo.Ref, opts transfer.LookOptions) error) error {
	opts := transfer.LookOptions{Logger: a.logger()}
	var err error
	if opts.Registry, err = o.options(a); err != nil {
		return err
	}
	var refs []repo.Ref
	var repos []string
	for _, name := range names {
		ref, err := transfer.ParseImage(name, opts.Registry)
		if err != nil {
			return err
		}
		ref.Platform = string(o.platformFlag)
		if refs = append(refs, ref); !ref.Registry {
			repos = append(repos, ref.Repo)
		}
	}
	if opts.Clients, err = a.clients(repos); err != nil {
		return err
	}
	defer opts.Clients.Close()
	return do(refs, opts)
}
