package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/ociv2-sync/ociv2-sync/catar"
	"github.com/ociv2-sync/ociv2-sync/internal/repo"
	"github.com/ociv2-sync/ociv2-sync/internal/transfer"
)

func newInspectCommand(a *app) *cobra.Command {
	var o lookFlags
	cmd := &cobra.Command{
		Use:   "inspect REPO/NAME[:TAG|@sha256:DIGEST]",
		Short: "Show what an image in a repository is",
		Long: `Inspect prints what the metadata of an image says: its digests and its config, what
its filesystem has, into which chunks it is cut, the deltas that end at it, and the
other tags of its name. It reads no chunk. docker://HOST/NAME[:TAG] is what push
--attach has put beside an image in a registry.`,
		Example: `  ociv2-sync inspect https://images.example/app:v2
  ociv2-sync inspect --json https://images.example/app:v2 | jq .config.config.Env`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return a.runInspect(cmd, args[0], &o) },
	}
	o.add(cmd)
	return cmd
}

func (a *app) runInspect(cmd *cobra.Command, arg string, o *lookFlags) error {
	return a.look([]string{arg}, o, func(refs []repo.Ref, opts transfer.LookOptions) error {
		in, err := transfer.Inspect(cmd.Context(), refs[0], opts)
		if err != nil {
			return err
		}
		r := newInspection(in)
		return a.print(r, r.table)
	})
}

type inspectTree struct {
	Nodes          int   `json:"nodes"`
	Directories    int   `json:"directories"`
	Files          int   `json:"files"`
	Links          int   `json:"hardLinks"`
	Bytes          int64 `json:"bytes"`
	Distinct       int   `json:"distinctContents"`
	DistinctBytes  int64 `json:"distinctBytes"`
	ArchiveBytes   int64 `json:"archiveBytes"`
	BeyondBytes    int64 `json:"extraBytes"`
	TableBytes     int64 `json:"tocBytes"`
	TableWireBytes int64 `json:"tocStoredBytes"`
}

type inspectChunks struct {
	Count       int    `json:"count"`
	Distinct    int    `json:"distinct"`
	StoredBytes int64  `json:"storedBytes"`
	Smallest    uint64 `json:"smallest"`
	Largest     uint64 `json:"largest"`
	Size        string `json:"chunkSize"`
	Store       string `json:"store"`
}

type inspection struct {
	Reference     string          `json:"reference"`
	Digest        string          `json:"digest"`
	Source        string          `json:"sourceDigest,omitempty"`
	TOC           string          `json:"tocDigest"`
	Serial        uint64          `json:"serial,omitempty"`
	Pushed        *time.Time      `json:"pushed,omitempty"`
	Tags          []string        `json:"tags"`
	Platforms     []string        `json:"platforms,omitempty"` // of the tag
	Flags         string          `json:"featureFlags"`
	Tree          inspectTree     `json:"tree"`
	Chunks        inspectChunks   `json:"chunks"`
	Deltas        []deltaEntry    `json:"deltas"`
	MetadataBytes int64           `json:"metadataBytes"`
	ConfigType    string          `json:"configMediaType"`
	Config        json.RawMessage `json:"config"`
}

func newInspection(in *transfer.Inspection) *inspection {
	m := in.Image.Manifest
	r := &inspection{
		Reference: in.Image.Ref.String(), Digest: in.Image.Digest.String(), Source: m.Source.String(), TOC: m.TOCDigest.String(),
		Serial: in.Image.Serial, Tags: in.Tags, Platforms: in.Image.Platforms, Flags: catar.Flags(m.FeatureFlags).String(), MetadataBytes: in.MetadataBytes,
		Tree: inspectTree{
			in.Nodes, in.Directories, in.Files, in.Links, in.ContentBytes, in.Contents, in.DistinctBytes,
			int64(m.Catar.Size), 0, m.TOCSize, m.TOC.Size,
		},
		Chunks: inspectChunks{
			in.Chunks, in.DistinctChunks, in.StoredBytes, in.SmallestChunk, in.Largest,
			fmt.Sprintf("%d:%d:%d", in.ChunkMin, in.Avg, in.ChunkMax), m.Store,
		},
		Deltas:     deltaEntries(in.Image.Deltas),
		ConfigType: m.Config.MediaType, Config: in.Image.Config,
	}
	if m.Extra != nil {
		r.Tree.BeyondBytes = int64(m.Extra.Size)
	}
	if !in.Image.Pushed.IsZero() {
		r.Pushed = &in.Image.Pushed
	}
	if !json.Valid(r.Config) {
		r.Config = json.RawMessage("null")
	}
	return r
}

// table prints the inspection for people.
func (r *inspection) table(w io.Writer) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) { fmt.Fprintf(t, name+"\t"+format+"\n", args...) }
	row("image", "%s", r.Reference)
	row("digest", "%s", r.Digest)
	if r.Source != "" {
		row("made from", "%s", r.Source)
	}
	row("table of contents", "%s, %s (%s stored)", r.TOC, human(r.Tree.TableBytes), human(r.Tree.TableWireBytes))
	if r.Pushed != nil {
		row("pushed", "%s", r.Pushed.Local().Format("2006-01-02 15:04:05"))
	}
	for _, tag := range r.Tags {
		row("tag", "%s", tag)
	}
	for _, p := range r.Platforms {
		row("platform", "%s", p)
	}
	row("tree", "%d nodes: %d directories, %d files, %d hard links", r.Tree.Nodes, r.Tree.Directories, r.Tree.Files, r.Tree.Links)
	row("contents", "%s, of which %d, %s, are distinct", human(r.Tree.Bytes), r.Tree.Distinct, human(r.Tree.DistinctBytes))
	row("archive", "%s, and %s beside it", human(r.Tree.ArchiveBytes), human(r.Tree.BeyondBytes))
	row("features", "%s", r.Flags)
	row("chunks", "%d, %d distinct, %s stored, of %d to %d bytes (%s)", r.Chunks.Count, r.Chunks.Distinct,
		human(r.Chunks.StoredBytes), r.Chunks.Smallest, r.Chunks.Largest, r.Chunks.Size)
	row("store", "%s", r.Chunks.Store)
	for _, d := range r.Deltas {
		row("delta", "%s from %s", human(d.Size), start(d.From))
	}
	row("metadata", "%s", human(r.MetadataBytes))
	t.Flush()
	var config bytes.Buffer
	if json.Indent(&config, r.Config, "", "  ") == nil { // it is valid
		fmt.Fprintf(w, "\nconfig (%s):\n%s\n", r.ConfigType, config.Bytes())
	}
}
