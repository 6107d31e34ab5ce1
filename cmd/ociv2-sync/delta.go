package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/ociv2-sync/ociv2-sync/internal/repo"
	"github.com/ociv2-sync/ociv2-sync/internal/transfer"
)

func newDeltaCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "delta",
		Short: "Make, list and apply deltas between images",
		Long: `A delta is one file that turns the file contents of one image into those of
another. Push makes deltas, and pull uses them, without these commands.`,
		Args: noSuchCommand,
		RunE: noCommand,
	}
	for _, add := range []func(*app) *cobra.Command{newDeltaMakeCommand, newDeltaListCommand, newDeltaApplyCommand} {
		cmd.AddCommand(add(a))
	}
	return cmd
}

// deltaMeter returns what shows the progress of making deltas, one after the
// other.
func (a *app) deltaMeter() func(done, total int64) {
	var m meter
	var last int64
	return func(done, total int64) {
		if m.add == nil {
			m, last = a.meter(bar{name: "delta", total: total}), 0
		}
		m.add(0, done-last)
		last = done
		if done == total {
			m.stop()
			m = meter{}
		}
	}
}

// deltaResult is a delta that was made.
type deltaResult struct {
	From      string `json:"fromTOC"`
	Blob      string `json:"digest"`
	Size      int64  `json:"bytes"`
	Head      int64  `json:"headBytes"`
	Contents  int    `json:"contents"`
	Based     int    `json:"contentsWithBase"`
	Bytes     int64  `json:"contentBytes"`
	Chunks    int64  `json:"replacedChunkBytes"`
	Published bool   `json:"published"`
}

func deltaResults(made []*transfer.MadeDelta) []deltaResult {
	out := []deltaResult{}
	for _, m := range made {
		out = append(out, deltaResult{
			m.From.String(), m.Blob.String(), m.Size, m.Head, m.Contents, m.Based, m.Bytes, m.Chunks, !m.Useless,
		})
	}
	return out
}

func (r deltaResult) print(w io.Writer) {
	fmt.Fprintf(w, "delta from %s: %s for %d contents, %s; their chunks take %s", start(r.From), human(r.Size), r.Contents, human(r.Bytes), human(r.Chunks))
	if !r.Published {
		fmt.Fprint(w, "; not published")
	}
	fmt.Fprintln(w)
}

// start names the table of contents that a delta starts from.
func start(toc string) string { return cmp.Or(toc, "nothing") }

// deltaEntry is a delta as a tag lists it.
type deltaEntry struct {
	Size int64  `json:"bytes"`
	Head int64  `json:"headBytes"`
	Blob string `json:"digest"`
	From string `json:"fromTOC"`
}

func deltaEntries(list []repo.Delta) []deltaEntry {
	out := []deltaEntry{}
	for _, d := range list {
		out = append(out, deltaEntry{d.Size, d.Head, d.Blob.String(), d.From.String()})
	}
	return out
}

func newDeltaMakeCommand(a *app) *cobra.Command {
	var output string
	var full fullFlag
	var memory byteSize
	var platform platformFlag
	cmd := &cobra.Command{
		Use:   "make [FROM] TO",
		Short: "Make the delta from one published image to another",
		Long: `Make makes the delta that turns the image FROM into the image TO, both of them
REPO/NAME[:TAG|@sha256:DIGEST], and lists it under TO's tag, whose repository is a
directory; or writes it to a file, for delta apply. A delta that is not smaller
than the chunks that it replaces is not published.`,
		Example: `  ociv2-sync delta make /srv/www/images/app:1 /srv/www/images/app:7
  ociv2-sync delta make --output 1-7.delta https://images.example/app:1 https://images.example/app:7`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if (full != fullFlag(transfer.FullNone)) != (len(args) == 1) {
				return usageError{errors.New("delta make FROM TO, or delta make --full TO")}
			}
			to, err := repo.ParseRef(args[len(args)-1])
			if err != nil {
				return err
			}
			var from repo.Ref
			if len(args) == 2 {
				if from, err = repo.ParseRef(args[0]); err != nil {
					return err
				}
				from.Platform = string(platform)
			}
			to.Platform = string(platform)
			clients, err := a.clients([]string{from.Repo, to.Repo})
			if err != nil {
				return err
			}
			defer clients.Close()
			made, err := transfer.DeltaMake(cmd.Context(), from, to, output, clients, transfer.DeltaOptions{
				Memory: int64(memory), Full: transfer.Full(full), Progress: a.deltaMeter(),
			})
			if err != nil {
				return err
			}
			r := deltaResults([]*transfer.MadeDelta{made})[0]
			r.Published = output == "" && r.Published
			return a.print(r, func(w io.Writer) {
				if output != "" {
					fmt.Fprintf(w, "%s: %s for %d contents, %s\n", output, human(r.Size), r.Contents, human(r.Bytes))
					return
				}
				r.print(w)
			})
		},
	}
	f := cmd.Flags()
	f.StringVarP(&output, "output", "o", "", "`FILE` to write the delta to, instead of publishing it")
	full.add(f)
	platform.add(f)
	f.Var(&memory, "delta-memory", "most memory, a `SIZE`, that contents and their indexes take; larger contents are compared in parts (default 512M)")
	return cmd
}

// fullFlag is --full, with or without a way to compress.
type fullFlag transfer.Full

func (f *fullFlag) add(fl *pflag.FlagSet) {
	fl.Var(f, "full", "make a delta from nothing: the whole image in one file, for first installs; best takes four times as long and a tenth fewer bytes than good, which --full alone means")
	fl.Lookup("full").NoOptDefVal = "good"
}

func (f *fullFlag) String() string {
	return map[transfer.Full]string{transfer.FullGood: "good", transfer.FullBest: "best"}[transfer.Full(*f)]
}

// Type names the kind of value in help texts.
func (f *fullFlag) Type() string { return "good|best" }

func (f *fullFlag) Set(text string) error {
	for _, way := range []fullFlag{fullFlag(transfer.FullGood), fullFlag(transfer.FullBest)} {
		if text == way.String() {
			*f = way
			return nil
		}
	}
	return fmt.Errorf("%q is neither good nor best", text)
}

func newDeltaListCommand(a *app) *cobra.Command {
	var platform platformFlag
	cmd := &cobra.Command{
		Use:   "list REPO/NAME[:TAG]",
		Short: "List the deltas that end at a published image",
		Long: `List prints, for each delta that the tag lists, its size, the size of its head, its
digest, and the digest of the table of contents that it starts from.`,
		Example: `  ociv2-sync delta list https://images.example/app:7`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ref, err := repo.ParseRef(args[0])
			if err != nil {
				return err
			}
			clients, err := a.clients([]string{ref.Repo})
			if err != nil {
				return err
			}
			defer clients.Close()
			ref.Platform = string(platform)
			list, err := transfer.Deltas(cmd.Context(), ref, clients)
			if err != nil {
				return err
			}
			out := deltaEntries(list)
			return a.print(struct {
				Deltas []deltaEntry `json:"deltas"`
			}{out}, func(w io.Writer) {
				for _, d := range out {
					fmt.Fprintf(w, "%d\t%d\t%s\tfrom %s\n", d.Size, d.Head, d.Blob, start(d.From))
				}
			})
		},
	}
	platform.add(cmd.Flags())
	return cmd
}

func newDeltaApplyCommand(a *app) *cobra.Command {
	var seeds []string
	var replace bool
	cmd := &cobra.Command{
		Use:   "apply FILE rootfs:DIR",
		Short: "Make an image's filesystem from a delta in a file, without a network",
		Long: `Apply makes in DIR the filesystem of the image at which the delta ends. What the
delta does not bring comes from the root and from each --seed: the image at which
the delta begins, which must be in a root, and whatever else it has of the files.`,
		Example: `  ociv2-sync delta apply 1-7.delta rootfs:/srv/app7
  ociv2-sync delta apply full.delta rootfs:/srv/app`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir, ok := strings.CutPrefix(args[1], "rootfs:")
			if !ok || dir == "" {
				return usageError{fmt.Errorf("the destination is rootfs:DIR, not %q", args[1])}
			}
			dest, err := transfer.ParseDest(args[1])
			if err != nil {
				return err
			}
			stats, err := transfer.DeltaApply(cmd.Context(), args[0], transfer.PullOptions{
				Root: a.root, Seeds: seeds, Dest: dest, Replace: replace, Logger: a.logger(),
			})
			if err != nil {
				return err
			}
			a.warnUnrestored(stats.Unrestored)
			type result struct {
				Path       string `json:"path"`
				Copied     int    `json:"contentsFromSeeds"`
				Made       int    `json:"contentsFromDelta"`
				Unrestored int    `json:"attributesNotRestored"`
			}
			r := result{dir, stats.Copied, stats.Made, len(stats.Unrestored)}
			return a.print(r, func(w io.Writer) {
				fmt.Fprintf(w, "%d contents copied, %d made by the delta\n%s\n", r.Copied, r.Made, r.Path)
			})
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&seeds, "seed", nil, "`DIR`, a directory tree or a root of images, that has what the delta does not bring; repeatable")
	f.BoolVar(&replace, "replace", false, "exchange a DIR that is not empty for the image")
	return cmd
}
