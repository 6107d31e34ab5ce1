package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"github.com/ociv2-sync/ociv2-sync/internal/transfer"
)

type convertOptions struct {
	pullFlags
	destFlags
	sourceFlags
}

func newConvertCommand(a *app) *cobra.Command {
	var o convertOptions
	cmd := &cobra.Command{
		Use:   "convert SOURCE DEST",
		Short: "Make any kind of image or tree from any other",
		Long: `Convert reads an image, or a tree, and makes another one of the same filesystem and
config. SOURCE is what push takes, or repo:REPO/NAME[:TAG|@sha256:DIGEST], an image
in a repository, which is pulled with all that --seed, --store and the root can
give. DEST is one of

` + destHelp + `
  repo:REPO/NAME[:TAG]       an image in a repository, as push makes it

An image that is made has one layer, and the same digest wherever it is made. A
layout in DIR keeps its other images. What no layer can hold, sockets and names that
mean deletions, is left out and named.`,
		Example: `  ociv2-sync convert docker-archive:app.tar oci:build:v1
  ociv2-sync convert oci:build:v1 bundle:/run/app
  ociv2-sync convert repo:https://images.example/app:v2 repo:/srv/mirror/app:v2`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error { return a.runConvert(cmd, args, &o) },
	}
	o.pullFlags.add(cmd)
	o.destFlags.add(cmd)
	o.sourceFlags.add(cmd)
	return cmd
}

func (a *app) runConvert(cmd *cobra.Command, args []string, o *convertOptions) error {
	dest, err := transfer.ParseDest(args[1])
	if err != nil {
		return err
	}
	opts := transfer.ConvertOptions{Pull: o.pullFlags.common(a, cmd)}
	if opts.Push, err = o.sourceFlags.options(a); err != nil {
		return err
	}
	opts.Pull.Registry, opts.Pull.TempDir = opts.Push.Registry, opts.Push.TempDir
	if err := o.destFlags.options(&opts.Pull); err != nil {
		return err
	}
	if opts.Pull.Clients, err = a.clients(append([]string{strings.TrimPrefix(args[0], "repo:")}, o.far()...)); err != nil {
		return err
	}
	opts.Push.Clients = opts.Pull.Clients
	defer opts.Pull.Clients.Close()
	var m meter
	var once sync.Once
	opts.Progress = func(n, total int64) {
		once.Do(func() { m = a.meter(bar{"converted", total}) })
		m.add(0, n)
	}
	var stop func()
	opts.Pull.Sending, stop = a.sendingMeter(&m)
	made, err := transfer.Convert(cmd.Context(), args[0], dest, opts)
	stop()
	if e, ok := errors.AsType[*transfer.UnrestoredError](err); ok {
		a.warnUnrestored(e.Notes)
	}
	if err != nil {
		return err
	}
	return a.printConverted(args[0], dest, made)
}

func (a *app) printConverted(source string, dest transfer.Dest, c *transfer.Converted) error {
	type result struct {
		Source      string `json:"source"`
		Destination string `json:"destination"`
		Digest      string `json:"digest,omitempty"`
		Layer       int64  `json:"layerBytes,omitempty"`
		Sent        int64  `json:"bytesToRegistry,omitempty"`
		Bytes       int64  `json:"bytes"`
		Requests    int64  `json:"requests"`
		Omitted     int    `json:"filesLeftOut"`
		Unrestored  int    `json:"attributesNotRestored"`
	}
	r := result{Source: source, Destination: dest.String()}
	if p := c.Pulled; p != nil {
		r.Bytes, r.Requests = p.Bytes, p.Requests
	}
	if i := c.Written; i != nil {
		r.Digest, r.Layer, r.Sent, r.Omitted = i.Digest.String(), i.LayerSize, i.Sent, len(i.Omitted)
		a.warnOmitted(i.Omitted)
	}
	if p := c.Pushed; p != nil {
		r.Digest = p.Digest.String()
	}
	if s := c.Stats; s != nil {
		r.Unrestored = len(s.Unrestored)
		a.warnUnrestored(s.Unrestored)
	}
	return a.print(r, func(w io.Writer) {
		fmt.Fprintf(w, "made %s\n", r.Destination)
		if r.Digest != "" {
			fmt.Fprintf(w, "digest %s\n", r.Digest)
		}
		if r.Layer > 0 {
			fmt.Fprintf(w, "one layer of %s\n", human(r.Layer))
		}
		if r.Sent > 0 {
			fmt.Fprintf(w, "sent %s to the registry\n", human(r.Sent))
		}
		if c.Pulled != nil {
			fmt.Fprintf(w, "transferred %s in %d requests\n", human(r.Bytes), r.Requests)
		}
	})
}
