package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ociv2-sync/ociv2-sync/internal/archive"
	"github.com/ociv2-sync/ociv2-sync/internal/repo"
	"github.com/ociv2-sync/ociv2-sync/store"
)

// errDiffers says what diff found; its result has been printed.
var errDiffers = errors.New("they differ")

type diffOptions struct {
	in       inputFlags
	features featureFlags
	look     lookFlags
}

// diffChange is a change as --json prints it.
type diffChange struct {
	Kind string   `json:"kind"`
	Path string   `json:"path"` // escaped as in the text
	What []string `json:"what,omitempty"`
}

func newDiffCommand(a *app) *cobra.Command {
	var o diffOptions
	cmd := &cobra.Command{
		Use:   "diff A B [SUBPATH]",
		Short: "Show what was added, removed and changed between two trees or blobs",
		Long: `Diff compares two archives (.catar), indexes of archives (.caidx) or directories,
of any two kinds, and prints a line for each node that differs:

  + PATH          only B has it
  - PATH          only A has it
  ~ PATH (WHAT)   it differs in its content, type, mode, owner, names, time,
                  xattrs, acl, selinux, capabilities, flags, project, target
                  or device

Only what both archives record is compared, times as exactly as the coarser one
has them. Of two blobs (files or .caibx) the first byte that differs is printed.
Inputs may be URLs.

Two images in repositories, repo:REPO/NAME[:TAG|@sha256:DIGEST], or attached to images
in registries, docker://HOST/NAME[:TAG], are compared by their tables of contents
alone, in all that these say; "links" is another first name of a hard-link group.

The exit code is 0 if nothing differs and 1 if something
does.`,
		Example: `  ociv2-sync diff v1.caidx v2.caidx
  ociv2-sync diff v1.catar /srv/tree etc
  ociv2-sync diff repo:https://images.example/app:v1 repo:https://images.example/app:v2`,
		Args: cobra.RangeArgs(2, 3),
		RunE: func(cmd *cobra.Command, args []string) error { return a.runDiff(cmd, args, &o) },
	}
	o.in.add(cmd)
	o.features.add(cmd)
	o.look.add(cmd)
	return cmd
}

func (a *app) runDiff(cmd *cobra.Command, args []string, o *diffOptions) error {
	if isImage(args[0]) || isImage(args[1]) {
		return a.diffImages(cmd, args, &o.look)
	}
	flags, err := o.features.flags()
	if err != nil {
		return err
	}
	sub := arg(args, 2, "")
	err = a.withInput(cmd, []string{args[0], sub}, &o.in, flags, func(x *archive.Input) error {
		return a.withInput(cmd, []string{args[1], sub}, &o.in, flags, func(y *archive.Input) error {
			return a.diff(cmd, x, y)
		})
	})
	if noInput(err) && slices.ContainsFunc(args[:2], maybeImage) {
		err = advisedError{err, "an image in a repository is named " + repoPrefix + "REPO/NAME[:TAG] here, its index REPO/NAME/TAG.caidx"}
	}
	return err
}

// noInput reports whether an error may say that an input was not named rightly.
func noInput(err error) bool {
	return errors.Is(err, store.ErrNotFound) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, archive.ErrUsage)
}

// maybeImage reports whether a name may have been meant for an image: it is that of
// no archive or index, and of nothing on this machine.
func maybeImage(name string) bool {
	_, err := os.Stat(name)
	return err != nil && archive.KindOf(name) == archive.Unknown
}

// namesImage reports whether a name can only have been meant for an image: it may be
// one, and has a tag or digest.
func namesImage(name string) bool {
	_, err := repo.ParseRef(name)
	return err == nil && maybeImage(name) && strings.ContainsAny(path.Base(name), ":@")
}

func (a *app) diff(cmd *cobra.Command, x, y *archive.Input) error {
	kinds := map[byte]string{'+': "added", '-': "removed", '~': "changed"}
	changes := []diffChange{}
	out := bufio.NewWriter(a.stdout)
	found := 0
	err := archive.Diff(cmd.Context(), x, y, func(c archive.Change) error {
		found++
		if a.json {
			changes = append(changes, diffChange{kinds[c.Kind], c.Path, c.What})
			return nil
		}
		line := fmt.Sprintf("%c %s", c.Kind, c.Path)
		if len(c.What) > 0 {
			line += " (" + strings.Join(c.What, ", ") + ")"
		}
		_, err := fmt.Fprintln(out, line)
		return err
	})
	if err := errors.Join(err, out.Flush()); err != nil {
		return err
	}
	if a.json {
		if err := a.print(struct {
			Changes []diffChange `json:"changes"`
		}{changes}, func(io.Writer) {}); err != nil {
			return err
		}
	}
	if found > 0 {
		return printedError{errDiffers}
	}
	return nil
}
