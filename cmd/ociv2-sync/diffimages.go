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

// isImage reports whether what is compared is an image, not a tree or a blob.
func isImage(arg string) bool {
	return strings.HasPrefix(arg, repoPrefix) || strings.HasPrefix(arg, transfer.Docker+"://")
}

// diffImages compares two images in repositories, or attached in registries.
func (a *app) diffImages(cmd *cobra.Command, args []string, o *lookFlags) error {
	if len(args) > 2 {
		return usageError{fmt.Errorf("two images are compared whole; usage: %s", cmd.UseLine())}
	}
	names := make([]string, len(args))
	for i, arg := range args {
		if !isImage(arg) {
			return usageError{fmt.Errorf("an image is compared with an image, %sREPO/NAME[:TAG], not with %q; its index, REPO/NAME/TAG.caidx, is compared with directories and archives", repoPrefix, arg)}
		}
		names[i] = strings.TrimPrefix(arg, repoPrefix)
	}
	var trees [2]*toc.TOC
	err := a.look(names, o, func(refs []repo.Ref, opts transfer.LookOptions) (err error) {
		for i, ref := range refs {
			if trees[i], err = transfer.Contents(cmd.Context(), ref, opts); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
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
