package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ociv2-sync/ociv2-sync/internal/repo"
	"github.com/ociv2-sync/ociv2-sync/internal/transfer"
	"github.com/ociv2-sync/ociv2-sync/toc"
)

// repoPrefix begins the name of an image in a repository where other things may
// be named too.
const repoPrefix = transfer.Repo + ":"

// diffImages compares two images in repositories.
func (a *app) diffImages(cmd *cobra.Command, args []string) error {
	if len(args) > 2 {
		return usageError{fmt.Errorf("two images are compared whole; usage: %s", cmd.UseLine())}
	}
	names := make([]string, len(args))
	for i, arg := range args {
		names[i] = strings.TrimPrefix(arg, repoPrefix)
	}
	clients, err := a.clients(names)
	if err != nil {
		return err
	}
	defer clients.Close()
	var trees [2]*toc.TOC
	for i, arg := range args {
		name, ok := strings.CutPrefix(arg, repoPrefix)
		if !ok {
			return usageError{fmt.Errorf("an image is compared with an image, %sREPO/NAME[:TAG], not with %q", repoPrefix, arg)}
		}
		ref, err := repo.ParseRef(name)
		if err != nil {
			return err
		}
		if trees[i], err = transfer.Contents(cmd.Context(), ref, clients); err != nil {
			return err
		}
	}
	changes := []diffChange{}
	toc.Diff(trees[0], trees[1], func(c toc.Change) bool {
		kind := "changed"
		switch {
		case c.A < 0:
			kind = "added"
		case c.B < 0:
			kind = "removed"
		}
		changes = append(changes, diffChange{kind, escaped(c.Path), c.What.Names()})
		return true
	})
	err = a.print(struct {
		Changes []diffChange `json:"changes"`
	}{changes}, func(w io.Writer) {
		for _, c := range changes {
			fmt.Fprintf(w, "%s %s", map[string]string{"added": "+", "removed": "-", "changed": "~"}[c.Kind], c.Path)
			if len(c.What) > 0 {
				fmt.Fprintf(w, " (%s)", strings.Join(c.What, ", "))
			}
			fmt.Fprintln(w)
		}
	})
	if err == nil && len(changes) > 0 {
		err = printedError{errDiffers}
	}
	return err
}
