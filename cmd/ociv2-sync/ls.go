package main

import (
	"encoding/hex"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ociv2-sync/ociv2-sync/catar"
	"github.com/ociv2-sync/ociv2-sync/internal/archive"
	"github.com/ociv2-sync/ociv2-sync/internal/repo"
	"github.com/ociv2-sync/ociv2-sync/internal/transfer"
	"github.com/ociv2-sync/ociv2-sync/toc"
)

func newLsCommand(a *app) *cobra.Command {
	var o lookFlags
	cmd := &cobra.Command{
		Use:   "ls REPO/NAME[:TAG|@sha256:DIGEST] [PATH]",
		Short: "List the files of an image in a repository",
		Long: `Ls prints mode, owner, group, size, time and path of every node of an image, or of
PATH in it and all below, from its table of contents alone. Bytes of names that a
terminal could take amiss are printed as three octal digits. docker://HOST/NAME[:TAG]
is what push --attach has put beside an image in a registry.`,
		Example: `  ociv2-sync ls https://images.example/app:v2 usr/bin`,
		Args:    cobra.RangeArgs(1, 2),
		RunE:    func(cmd *cobra.Command, args []string) error { return a.runLs(cmd, args, &o) },
	}
	o.add(cmd)
	return cmd
}

// lsNode is a node in the JSON of ls. Names that are no UTF-8 have their other
// bytes replaced there, which the escaped path has not.
type lsNode struct {
	Path    string            `json:"path"`
	Escaped string            `json:"escapedPath"`
	Mode    string            `json:"mode"`
	UID     uint32            `json:"uid"`
	GID     uint32            `json:"gid"`
	Size    int64             `json:"size"`
	Seconds int64             `json:"seconds"`
	Nano    int32             `json:"nanoseconds"`
	SHA256  string            `json:"sha256,omitempty"`
	Target  string            `json:"target,omitempty"`
	Link    string            `json:"hardLinkTo,omitempty"`
	Device  string            `json:"device,omitempty"`
	XAttrs  map[string][]byte `json:"xattrs,omitempty"`
}

func (a *app) runLs(cmd *cobra.Command, args []string, o *lookFlags) error {
	var ref repo.Ref
	var t *toc.TOC
	err := a.look(args[:1], o, func(refs []repo.Ref, opts transfer.LookOptions) (err error) {
		ref = refs[0]
		t, err = transfer.Contents(cmd.Context(), ref, opts)
		return err
	})
	if err != nil {
		return err
	}
	top := "."
	if len(args) > 1 {
		top = strings.Trim(args[1], "/")
	}
	nodes := listNodes(t.Nodes, top)
	if len(nodes) == 0 {
		return notFoundError{fmt.Errorf("%s has no %s", ref, top)}
	}
	return a.print(struct {
		Nodes []lsNode `json:"nodes"`
	}{nodes}, func(w io.Writer) {
		for _, n := range nodes {
			size := fmt.Sprint(n.Size)
			if n.Device != "" {
				size = n.Device
			}
			when := time.Unix(n.Seconds, int64(n.Nano)).UTC().Format("2006-01-02 15:04:05")
			fmt.Fprintf(w, "%s %5d %5d %11s %s %s", n.Mode, n.UID, n.GID, size, when, n.Escaped)
			if n.Target != "" {
				fmt.Fprintf(w, " -> %s", escaped(n.Target))
			}
			if n.Link != "" {
				fmt.Fprintf(w, " link to %s", escaped(n.Link))
			}
			fmt.Fprintln(w)
		}
	})
}

// listNodes returns the node at the path top, and all below it.
func listNodes(nodes []toc.Node, top string) []lsNode {
	var list []lsNode
	var dirs []string // dirs[d] is the path of the open directory at depth d
	names := map[int32]string{}
	for i := range nodes {
		n := &nodes[i]
		path := "."
		if n.Depth > 0 {
			if path = n.Name; n.Depth > 1 {
				path = dirs[n.Depth-1] + "/" + n.Name
			}
		}
		dirs = append(dirs[:n.Depth], path)
		if !n.IsDir() && n.Link < 0 {
			names[int32(i)] = path
		}
		if top != "." && path != top && !strings.HasPrefix(path, top+"/") {
			continue
		}
		l := lsNode{
			Path: path, Escaped: escaped(path), Mode: modeOf(n), UID: n.UID, GID: n.GID, Size: n.Size,
			Seconds: n.Sec, Nano: n.Nsec, Target: n.Target, Link: names[n.Link],
		}
		if n.IsRegular() {
			l.SHA256 = hex.EncodeToString(n.Digest[:])
		}
		if n.Type() == toc.TypeBlock || n.Type() == toc.TypeChar {
			l.Device = fmt.Sprintf("%d,%d", n.Major, n.Minor)
		}
		for _, x := range n.XAttrs {
			if l.XAttrs == nil {
				l.XAttrs = map[string][]byte{}
			}
			l.XAttrs[x.Name] = x.Value
		}
		list = append(list, l)
	}
	return list
}

// modeOf returns the mode of a node as ls(1) shows it.
func modeOf(n *toc.Node) string {
	mode, _, _ := strings.Cut(archive.Line("", &catar.Entry{Mode: n.Mode}), " ")
	return mode
}

// escaped returns a path without what a terminal could take amiss.
func escaped(path string) string {
	_, path, _ = strings.Cut(archive.Line(path, &catar.Entry{}), " ")
	return path
}
