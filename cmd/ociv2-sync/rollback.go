package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ociv2-sync/ociv2-sync/internal/repo"
	"github.com/ociv2-sync/ociv2-sync/internal/root"
)

func newRollbackCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "rollback NAME[:TAG]",
		Short: "Show again what a tag on this device showed before the last pull",
		Long: `Rollback switches the path of an image in the root to its latest predecessor, in
one rename, without transferring anything. The tag can be pulled again.`,
		Example:           `  ociv2-sync rollback app:v2`,
		ValidArgsFunction: a.completeImages,
		Args:              cobra.ExactArgs(1),
		RunE:              func(_ *cobra.Command, args []string) error { return a.runRollback(args[0]) },
	}
}

func (a *app) runRollback(image string) (err error) {
	name, tag, ok := strings.Cut(image, ":")
	if !ok {
		tag = repo.DefaultTag
	}
	r, err := root.Open(a.root, root.Options{})
	if err != nil {
		return err
	}
	w, err := r.Lock("rollback of " + image)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Unlock()) }()
	img, err := w.Rollback(name, tag)
	if err != nil {
		return err
	}
	return a.print(struct {
		Name   string `json:"name"`
		Tag    string `json:"tag"`
		Digest string `json:"digest"`
		Path   string `json:"path"`
	}{name, tag, img.Current.Manifest.String(), img.Path}, func(w io.Writer) {
		fmt.Fprintf(w, "%s:%s is %s again\n%s\n", name, tag, img.Current.Manifest, img.Path)
	})
}
