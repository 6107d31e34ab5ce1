package main

import (
	"bufio"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ociv2-sync/ociv2-sync/catar"
	"github.com/ociv2-sync/ociv2-sync/internal/archive"
)

func newListCommand(a *app) *cobra.Command {
	var in inputFlags
	var features featureFlags
	recursive := yesNo(true)
	cmd := &cobra.Command{
		Use:   "list [INPUT [SUBPATH]]",
		Short: "List what an archive, an index or a directory has",
		Long: `List prints the mode and the path of every node of an archive (.catar, or - for
standard input), of the index of one (.caidx), or of a directory, as casync
does: of all, or of SUBPATH and what is below it. The input may be a URL
or [USER@]HOST:PATH.`,
		Example: `  ociv2-sync list tree.catar
  ociv2-sync list https://images.example/app/v1.caidx --store=https://images.example/default.castr`,
		Args: cobra.MaximumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			flags, err := features.flags()
			if err != nil {
				return err
			}
			return a.withInput(cmd, args, &in, flags, func(in *archive.Input) error { return a.list(cmd, in, bool(recursive)) })
		},
	}
	in.add(cmd)
	features.add(cmd)
	cmd.Flags().Var(&recursive, "recursive", "list what is below the directories of the first level")
	return cmd
}

func (a *app) list(cmd *cobra.Command, in *archive.Input, deep bool) error {
	if a.json {
		return a.listJSON(cmd, in, deep)
	}
	w := bufio.NewWriter(a.stdout)
	err := archive.List(cmd.Context(), in, deep, func(path string, e *catar.Entry) error {
		_, err := fmt.Fprintln(w, archive.Line(path, e))
		return err
	})
	return errors.Join(err, w.Flush()) // the lines before a fault are good
}

func (a *app) listJSON(cmd *cobra.Command, in *archive.Input, deep bool) error {
	type node struct {
		Path  string `json:"path"` // escaped as in the text
		Mode  string `json:"mode"`
		UID   uint32 `json:"uid"`
		GID   uint32 `json:"gid"`
		MTime uint64 `json:"mtime"` // nanoseconds since 1970
		Size  uint64 `json:"size,omitempty"`
	}
	nodes := []node{}
	err := archive.List(cmd.Context(), in, deep, func(path string, e *catar.Entry) error {
		mode, path, _ := strings.Cut(archive.Line(path, e), " ")
		nodes = append(nodes, node{Path: path, Mode: mode, UID: e.UID, GID: e.GID, MTime: e.MTime, Size: e.Size})
		return nil
	})
	if err != nil {
		return err
	}
	return a.print(struct {
		Nodes []node `json:"nodes"`
	}{nodes}, nil)
}
