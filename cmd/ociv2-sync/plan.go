package main

import (
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/ociv2-sync/ociv2-sync/internal/transfer"
	"github.com/ociv2-sync/ociv2-sync/seed"
)

func newPlanCommand(a *app) *cobra.Command {
	var o pullFlags
	cmd := &cobra.Command{
		Use:   "plan REPO/NAME[:TAG|@sha256:DIGEST] [DEST]",
		Short: "Show what a pull would transfer, and from where",
		Long: `Plan does all of a pull but the pull: it reads the image's metadata, looks
through the seeds and prints, for each source, the file contents, chunks, bytes
and requests that a pull with the same options would take from it. The numbers
are exact. Nothing but metadata is transferred. Nothing is changed but the root's
catalogue, so that seed files that were read to plan are not read again.

` + attachedHelp + `
With nothing attached there is no plan.`,
		Example: `  ociv2-sync plan --seed /srv/app-v1 https://images.example/app:v2
  ociv2-sync plan --json --seed /srv/app https://images.example/app:v2 | jq .total.wireBytes`,
		Args: o.imageArgs,
		RunE: func(cmd *cobra.Command, args []string) error { return a.withPlan(cmd, args, &o, a.printPlan) },
	}
	o.add(cmd)
	o.addPlace(cmd)
	o.addRegistry(cmd)
	o.addPlatform(cmd)
	return cmd
}

// withPlan calls use with the plan of a pull.
func (a *app) withPlan(cmd *cobra.Command, args []string, o *pullFlags, use func(*transfer.Prepared) error) error {
	ref, opts, err := o.options(a, cmd, args)
	if err != nil {
		return err
	}
	if opts.Clients, err = a.clients(append([]string{ref.Repo}, o.far()...)); err != nil {
		return err
	}
	defer opts.Clients.Close()
	defer a.keepRoom()()
	p, err := transfer.Prepare(cmd.Context(), ref, opts)
	if err != nil {
		return err
	}
	defer p.Close()
	return use(p)
}

func (a *app) printPlan(p *transfer.Prepared) error {
	r := newPlanResult(p)
	refused := p.Check()
	if refused != nil && a.json {
		r.Error = newFailure(refused)
		refused = printedError{refused}
	}
	if err := a.print(r, r.table); err != nil {
		return err
	}
	return refused
}

// planSource is what a plan takes from one source.
type planSource struct {
	Source    string `json:"source"`
	Contents  int    `json:"contents"`
	Chunks    int    `json:"chunks"`
	Bytes     int64  `json:"bytes"`     // uncompressed
	WireBytes int64  `json:"wireBytes"` // transferred
	Requests  int64  `json:"requests"`
}

type planResult struct {
	Reference string       `json:"reference"`
	Digest    string       `json:"digest"`
	Present   bool         `json:"present"`
	Sources   []planSource `json:"sources"`
	Total     planSource   `json:"total"`
	Disk      int64        `json:"diskBytes"`
	Error     *failure     `json:"error,omitempty"` // why a pull would refuse
}

func newPlanResult(p *transfer.Prepared) *planResult {
	r := &planResult{Reference: p.Image.Ref.String(), Digest: p.Image.Digest.String(), Present: p.Present, Disk: p.Disk}
	if !p.Present {
		for i, u := range p.Plan.PerSeed() {
			r.Sources = append(r.Sources, planSource{Source: "seed " + p.Plan.Seeds[i].String(), Contents: u.Contents, Chunks: u.Chunks, Bytes: u.Bytes})
		}
		if u, ok := p.Delta(); ok {
			r.Sources = append(r.Sources, planSource{Source: "delta", Contents: u.Contents, Bytes: u.Bytes, WireBytes: u.Fetched, Requests: u.Requests})
		}
		if u := p.Plan.PerOrigin(seed.Cached); u.Chunks > 0 {
			r.Sources = append(r.Sources, planSource{Source: "chunks fetched before", Chunks: u.Chunks, Bytes: u.Bytes})
		}
		u := p.Plan.PerOrigin(seed.Fetched)
		r.Sources = append(r.Sources, planSource{
			Source: "chunks from the repository", Contents: len(p.Plan.Missing),
			Chunks: u.Chunks, Bytes: u.Bytes, WireBytes: u.Wire, Requests: int64(u.Chunks),
		})
	}
	r.Sources = append(r.Sources, planSource{Source: "metadata", WireBytes: p.MetaBytes, Requests: p.MetaRequests})
	r.Total.Source = "total"
	for _, s := range r.Sources {
		r.Total.Contents += s.Contents
		r.Total.Chunks += s.Chunks
		r.Total.Bytes += s.Bytes
		r.Total.WireBytes += s.WireBytes
		r.Total.Requests += s.Requests
	}
	return r
}

// table prints the plan for people.
func (r *planResult) table(w io.Writer) {
	fmt.Fprintf(w, "image %s\ndigest %s\n\n", r.Reference, r.Digest)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "contents\tchunks\tbytes\ttransferred\trequests\t  from")
	for _, s := range append(r.Sources, r.Total) {
		fmt.Fprintf(t, "%d\t%d\t%d\t%d\t%d\t  %s\n", s.Contents, s.Chunks, s.Bytes, s.WireBytes, s.Requests, s.Source)
	}
	t.Flush()
	if r.Present {
		fmt.Fprintln(w, "\nthe root has this image already")
		return
	}
	fmt.Fprintf(w, "\ntransfers %s in %s; needs at most %s on the disk\n", human(r.Total.WireBytes), count(r.Total.Requests, "request"), human(r.Disk))
}

// planLine says in one line what a pull is about to do.
func planLine(p *transfer.Prepared) string {
	u := p.Plan.PerOrigin(seed.Fetched)
	var local int64
	for _, s := range p.Plan.PerSeed() {
		local += s.Bytes
	}
	line := fmt.Sprintf("%s of file contents from seeds; ", human(local))
	if d, ok := p.Delta(); ok {
		line += fmt.Sprintf("%s from a delta, %s, to fetch; ", human(d.Bytes), human(d.Fetched))
	}
	line += fmt.Sprintf("%s, %s, to fetch", count(int64(u.Chunks), "chunk"), human(u.Wire))
	if e := p.Plan.PerOrigin(seed.Early); e.Chunks > 0 {
		line += fmt.Sprintf("; %s, %s, fetched while seeds were read", count(int64(e.Chunks), "chunk"), human(e.Wire))
	}
	return line
}
