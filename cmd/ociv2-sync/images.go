package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/ociv2-sync/ociv2-sync/internal/root"
	"github.com/ociv2-sync/ociv2-sync/internal/transfer"
)

func newImagesCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "images [REPO]",
		Short: "List the images on this device, or in a repository",
		Long: `Images lists the images in the root, with what is kept of each for rollback. With
a repository, a directory or a URL, it lists the names and tags there.`,
		Example: `  ociv2-sync images
  ociv2-sync images https://images.example`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				return a.repoImages(cmd, args[0])
			}
			return a.rootImages()
		},
	}
}

func (a *app) repoImages(cmd *cobra.Command, where string) error {
	clients, err := a.clients([]string{where})
	if err != nil {
		return err
	}
	defer clients.Close()
	names, err := transfer.Catalog(cmd.Context(), where, clients)
	if err != nil {
		return err
	}
	return a.print(struct {
		Images any `json:"images"`
	}{names}, func(w io.Writer) {
		for _, n := range names {
			for _, tag := range n.Tags {
				fmt.Fprintf(w, "%s:%s\n", n.Name, tag)
			}
		}
	})
}

func (a *app) rootImages() error {
	type version struct {
		Digest string    `json:"digest"`
		Source string    `json:"source"`
		Pulled time.Time `json:"pulled"`
	}
	type image struct {
		Name         string    `json:"name"`
		Tag          string    `json:"tag"`
		Path         string    `json:"path"`
		Current      version   `json:"current"`
		Predecessors []version `json:"predecessors"`
	}
	r, err := root.Open(a.root, root.Options{ReadOnly: true})
	var found []*root.Image
	if err == nil {
		found, err = r.Images()
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = nil // no root yet: no images
	}
	images := make([]image, 0, len(found))
	for _, i := range found {
		of := func(v root.Version) version { return version{v.Manifest.String(), v.Source, v.Time} }
		m := image{Name: i.Name, Tag: i.Tag, Path: i.Path, Current: of(i.Current), Predecessors: []version{}}
		for _, p := range i.Predecessors {
			m.Predecessors = append(m.Predecessors, of(p))
		}
		images = append(images, m)
	}
	if err != nil && a.json {
		return err // one object is printed, and that is the error
	}
	return errors.Join(err, a.print(struct {
		Images []image `json:"images"`
	}{images}, func(w io.Writer) {
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		for _, m := range images {
			fmt.Fprintf(t, "%s:%s\t%.19s\t%s\t%d kept\t%s\n", m.Name, m.Tag, m.Current.Digest,
				m.Current.Pulled.Local().Format("2006-01-02 15:04:05"), len(m.Predecessors), m.Path)
		}
		t.Flush()
	}))
}
