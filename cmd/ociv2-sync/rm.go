package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"

	"github.com/ociv2-sync/ociv2-sync/internal/repo"
	"github.com/ociv2-sync/ociv2-sync/internal/root"
)

func newRmCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "rm NAME[:TAG]... | REPO/NAME[:TAG]...",
		Short: "Remove images from this device, or tags from a repository",
		Long: `Rm removes images from the root, with all that is kept of them for rollback, and
then the files that no other image of the root needs. A process that has files
of such an image open keeps those; one that expects it at its path does not find
it any more.

REPO/NAME[:TAG] is a tag in a repository, if REPO is a URL or a path that begins
with /, ./ or ../, or if repo: is in front of it. What the tag alone needs stays
there for gc REPO to remove.`,
		Example: `  ociv2-sync rm app:v1 app:v2
  ociv2-sync rm /srv/www/images/app:v1`,
		ValidArgsFunction: a.completeImages,
		Args:              cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var refs []string
			for _, arg := range args {
				if ref, ok := inRepo(arg); ok {
					refs = append(refs, ref)
				}
			}
			switch len(refs) {
			case 0:
			case len(args):
				return a.untag(cmd, refs)
			default:
				return usageError{errors.New("remove images from the root, or tags from repositories, not both at once")}
			}
			return a.prune(cmd.Context(), "rm of "+strings.Join(args, " "), func(w *root.Writer) error {
				for _, image := range args {
					name, tag, _ := strings.Cut(image, ":")
					if err := w.Remove(name, cmp.Or(tag, repo.DefaultTag)); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
}

// pruneRoot ends what was cut off in the root and removes what no image needs;
// with chunks, also what interrupted pulls have fetched.
func (a *app) pruneRoot(ctx context.Context, chunks bool) error {
	return a.prune(ctx, "gc", func(w *root.Writer) error {
		if chunks {
			return w.ClearChunkCache()
		}
		return nil
	})
}

// prune locks the root, does something to it, and removes what is not needed
// afterwards.
func (a *app) prune(ctx context.Context, holder string, do func(*root.Writer) error) (err error) {
	r, err := root.Open(a.root, root.Options{ReadOnly: true})
	if err != nil {
		return err
	}
	w, err := r.Lock(holder)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Unlock()) }()
	if err := do(w); err != nil {
		return err
	}
	gone, err := w.RemoveUnused(ctx)
	if err != nil {
		return err
	}
	return a.print(struct {
		Removed []digest.Digest `json:"removed"`
		Leased  []digest.Digest `json:"leased,omitempty"` // not removed
	}{append([]digest.Digest{}, gone...), w.Leased()}, func(out io.Writer) {
		for _, d := range gone {
			fmt.Fprintf(out, "removed %s\n", d)
		}
		for _, d := range w.Leased() {
			fmt.Fprintf(out, "kept %s: somebody has a lease on it\n", d)
		}
	})
}
