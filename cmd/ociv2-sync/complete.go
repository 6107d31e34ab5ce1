package main

import (
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/ociv2-sync/ociv2-sync/internal/root"
)

// completeFlags lets shells complete the values of those flags of a command that
// take one of a few.
func completeFlags(cmd *cobra.Command, flags *pflag.FlagSet) {
	values := map[string][]string{
		"progress":    {"auto", "plain", "none"},
		"log-level":   {"debug", "info", "warn", "error"},
		"delta":       {"auto", "only", "never"},
		"link":        {"auto", "hard", "reflink", "copy"},
		"compression": {"zstd", "xz", "gzip"},
		"digest":      {"sha512-256", "sha256"},
		"full":        {"good", "best"},
		"what":        {"archive", "archive-index", "blob-index"},
	}
	flags.VisitAll(func(f *pflag.Flag) {
		few := values[f.Name]
		if f.Value.Type() == "yes|no" {
			few = []string{"yes", "no"}
		}
		if few != nil {
			// It fails only for a flag that the command has not, or has twice.
			_ = cmd.RegisterFlagCompletionFunc(f.Name, cobra.FixedCompletions(few, cobra.ShellCompDirectiveNoFileComp))
		}
	})
}

// completeImages offers the images of the root.
func (a *app) completeImages(cmd *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if err := a.defaults(cmd.Flags()); err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	r, err := root.Open(a.root, root.Options{ReadOnly: true})
	if err != nil {
		return nil, cobra.ShellCompDirectiveDefault
	}
	images, err := r.Images()
	names := make([]cobra.Completion, 0, len(images))
	for _, i := range images {
		names = append(names, i.Name+":"+i.Tag)
	}
	if err != nil {
		return names, cobra.ShellCompDirectiveError
	}
	return names, cobra.ShellCompDirectiveDefault
}
