package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/ociv2-sync/ociv2-sync/internal/transfer"
	"github.com/ociv2-sync/ociv2-sync/seed"
)

func newWhyCommand(a *app) *cobra.Command {
	var o pullFlags
	cmd := &cobra.Command{
		Use:   "why REPO/NAME[:TAG|@sha256:DIGEST] PATH",
		Short: "Tell where a pull would take a file's bytes from",
		Long: `Why plans a pull, as plan does, and prints for one file of the image the seed
that has its content, the delta that makes it, or the chunks that it is cut out
of, each with its size as it is stored and where it comes from: fetched, fetched
before, cut out of a seed's file, or already needed for another place (repeated).`,
		Example: `  ociv2-sync why --seed /srv/app-v1 https://images.example/app:v2 /usr/bin/app`,
		Args:    cobra.ExactArgs(2),
		RunE:    func(cmd *cobra.Command, args []string) error { return a.runWhy(cmd, args, &o) },
	}
	o.add(cmd)
	o.addRegistry(cmd)
	o.addPlatform(cmd)
	return cmd
}

// whyChunk is a chunk that a file is cut out of.
type whyChunk struct {
	ID     string `json:"id"`
	Size   uint64 `json:"size"`
	Stored int64  `json:"stored"`
	From   string `json:"from"`
}

type whyResult struct {
	Path    string     `json:"path"`
	Size    int64      `json:"size"`
	Digest  string     `json:"digest,omitempty"`
	Present bool       `json:"present"`
	Seed    string     `json:"seed,omitempty"`
	File    string     `json:"seedFile,omitempty"`
	Delta   string     `json:"delta,omitempty"` // its blob
	Chunks  []whyChunk `json:"chunks,omitempty"`

	deltaBytes int64
}

func (a *app) runWhy(cmd *cobra.Command, args []string, o *pullFlags) error {
	return a.withPlan(cmd, args[:1], o, func(p *transfer.Prepared) error {
		w, err := p.Why(cmd.Context(), args[1])
		if err != nil {
			return err
		}
		r := whyResult{Path: args[1], Present: p.Present}
		r.fill(p.Plan, w)
		return a.print(r, r.table)
	})
}

func (r *whyResult) fill(plan *seed.Plan, w *transfer.Why) {
	r.Size = w.Node.Size
	c := w.Content
	if c == nil {
		return
	}
	r.Digest = fmt.Sprintf("sha256:%x", *c.Digest)
	if c.Seed != seed.None {
		r.Seed, r.File = plan.Seeds[c.Seed].String(), c.Path
	}
	if w.Delta != nil {
		r.Delta, r.deltaBytes = w.Delta.Blob.String(), w.Delta.Size
	}
	for _, k := range w.Chunks {
		var from string
		switch k.Origin {
		case seed.Fetched:
			from = "fetched"
		case seed.Cached, seed.Early:
			from = "fetched before"
		case seed.Repeated:
			from = "repeated"
		case seed.Seeded:
			from = fmt.Sprintf("seed %s, %s at %d", plan.Seeds[k.Seed], k.Path, k.At)
		}
		r.Chunks = append(r.Chunks, whyChunk{ID: k.ID.String(), Size: k.Size, Stored: k.Stored, From: from})
	}
}

// table prints the answer for people.
func (r *whyResult) table(w io.Writer) {
	switch {
	case r.Present:
		fmt.Fprintln(w, "the root has this image already")
		return
	case r.Digest == "":
		fmt.Fprintf(w, "%s has no content of its own\n", r.Path)
		return
	}
	fmt.Fprintf(w, "%s: %d bytes, %s\n", r.Path, r.Size, r.Digest)
	if r.Seed != "" {
		fmt.Fprintf(w, "from seed %s, %s\n", r.Seed, r.File)
	}
	if r.Delta != "" {
		fmt.Fprintf(w, "made by delta %s, %d bytes in all\n", r.Delta, r.deltaBytes)
	}
	for _, c := range r.Chunks {
		fmt.Fprintf(w, "%s  %7d bytes, %7d stored  %s\n", c.ID, c.Size, c.Stored, c.From)
	}
}
