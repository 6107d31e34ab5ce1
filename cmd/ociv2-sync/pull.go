package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ociv2-sync/ociv2-sync/internal/archive"
	"github.com/ociv2-sync/ociv2-sync/internal/assemble"
	"github.com/ociv2-sync/ociv2-sync/internal/ocidest"
	"github.com/ociv2-sync/ociv2-sync/internal/repo"
	"github.com/ociv2-sync/ociv2-sync/internal/transfer"
	"github.com/ociv2-sync/ociv2-sync/seed"
)

// pullFlags are the options that pull and plan share.
type pullFlags struct {
	seeds      []string
	stores     []string
	mirrors    []string
	allowStore bool
	maxBytes   byteSize
	offline    bool
	delta      deltaPolicy

	inPlace bool // see addPlace
	link    linkPolicy
	bundle  string

	platform platformFlag // see addPlatform

	registry   registryFlags // see addRegistry
	registries bool          // an image may be in one
}

// addRegistry adds the flags for images in registries, for commands that take them.
func (f *pullFlags) addRegistry(cmd *cobra.Command) {
	f.registry.add(cmd.Flags())
	f.registries = true
}

// addPlatform adds --platform, which commands that read other sources have already.
func (f *pullFlags) addPlatform(cmd *cobra.Command) { f.platform.add(cmd.Flags()) }

// addPlace adds the flags that say how files get to where they are to be.
func (f *pullFlags) addPlace(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.BoolVar(&f.inPlace, "in-place", false, "turn rootfs:DIR or bundle:DIR, if it has something else, into the image, and leave alone what does not differ")
	fl.StringVar(&f.bundle, "from-bundle", "", "`FILE`, made by ociv2-sync bundle, to take the image from, in place of a repository")
	fl.Var(&f.link, "link", "`HOW` files get what is there: reflink, sharing blocks where the filesystem can; hard, as hard links between images of the root; copy; auto, reflink or hard")
}

func (f *pullFlags) add(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringArrayVar(&f.seeds, "seed", nil, "`[KIND:]PATH` whose file contents need not be fetched; repeatable")
	fl.StringArrayVar(&f.stores, "store", nil, "chunk `STORE` beside the image's own: a directory, which is asked first, a URL or HOST:PATH, of which the fastest is; repeatable")
	fl.StringArrayVar(&f.mirrors, "mirror", nil, "another `REPO` with the same images as the one in the reference: chunks come from the fastest that works; repeatable")
	fl.BoolVar(&f.allowStore, "allow-store", false, "accept a chunk store on another host, or elsewhere on this machine, than the image")
	fl.BoolVar(&f.offline, "offline", false, "fetch nothing but metadata; fail, with a list, if files are missing")
	fl.Var(&f.delta, "delta", "`HOW` to use deltas: auto, where that takes fewer bytes; only, and fetch no chunks; never")
	fl.Var(&f.maxBytes, "max-bytes", "fetch nothing, and fail, if the pull would transfer more than this; the plan is then completed first")
}

// deltaPolicy is the value of --delta.
type deltaPolicy transfer.DeltaPolicy

// deltaPolicies are the names of the policies, by value.
func deltaPolicies() []string { return []string{"auto", "only", "never"} }

// String implements pflag.Value.
func (p *deltaPolicy) String() string { return deltaPolicies()[*p] }

// Set implements pflag.Value.
func (p *deltaPolicy) Set(s string) error {
	i := slices.Index(deltaPolicies(), s)
	if i < 0 {
		return errors.New("it is auto, only or never")
	}
	*p = deltaPolicy(i)
	return nil
}

// Type implements pflag.Value.
func (p *deltaPolicy) Type() string { return "HOW" }

// linkPolicy is the value of --link.
type linkPolicy transfer.LinkPolicy

// linkPolicies are the names of the policies, by value.
func linkPolicies() []string { return []string{"auto", "hard", "reflink", "copy"} }

// String implements pflag.Value.
func (p *linkPolicy) String() string { return linkPolicies()[*p] }

// Set implements pflag.Value.
func (p *linkPolicy) Set(s string) error {
	i := slices.Index(linkPolicies(), s)
	if i < 0 {
		return errors.New("it is auto, hard, reflink or copy")
	}
	*p = linkPolicy(i)
	return nil
}

// Type implements pflag.Value.
func (p *linkPolicy) Type() string { return "HOW" }

// common returns what the flags mean.
func (f *pullFlags) common(a *app, cmd *cobra.Command) transfer.PullOptions {
	opts := transfer.PullOptions{
		Root: a.root, Seeds: f.seeds, Stores: f.stores, Mirrors: f.mirrors, AllowStore: f.allowStore,
		Offline: f.offline, MaxBytes: -1, Jobs: a.jobs, Logger: a.logger(), Deltas: transfer.DeltaPolicy(f.delta),
		InPlace: f.inPlace, Link: transfer.LinkPolicy(f.link),
	}
	if fl := cmd.Flags().Lookup("max-bytes"); fl.Changed {
		opts.MaxBytes = int64(f.maxBytes)
	}
	return opts
}

// far returns the places that the flags name.
func (f *pullFlags) far() []string { return slices.Concat(f.stores, f.mirrors) }

// options returns what the flags and the arguments mean.
func (f *pullFlags) options(a *app, cmd *cobra.Command, args []string) (repo.Ref, transfer.PullOptions, error) {
	opts := f.common(a, cmd)
	if f.bundle != "" {
		ref, err := f.fromBundle(&opts, args)
		ref.Platform = string(f.platform)
		return ref, opts, err
	}
	ref, err := f.image(a, &opts, args[0])
	if err != nil {
		return ref, opts, err
	}
	ref.Platform = string(f.platform)
	if len(args) > 1 {
		opts.Dest, err = transfer.ParseDest(args[1])
	}
	return ref, opts, err
}

// image reads what names the image, in a repository or, if it may be, in a registry.
func (f *pullFlags) image(a *app, opts *transfer.PullOptions, name string) (_ repo.Ref, err error) {
	if !f.registries {
		return repo.ParseRef(name)
	}
	if opts.Registry, err = f.registry.options(a); err != nil {
		return repo.Ref{}, err
	}
	return transfer.ParseImage(name, opts.Registry)
}

// destHelp tells people the destinations.
const destHelp = `  rootfs:DIR                 a directory that becomes the filesystem
  bundle:DIR                 an OCI runtime bundle: runc run -b DIR
  oci:DIR[:REF]              an OCI image layout, made or added to
  oci-archive:FILE[:REF]     the same as a tar
  docker-archive:FILE[:REF]  what docker load and podman load read; REF is NAME[:TAG]
  docker://HOST/NAME[:TAG]   an image in a registry, which is sent what it lacks`

// destFlags say how a destination is made.
type destFlags struct {
	replace     bool
	uidShift    uint32
	compression string
}

func (f *destFlags) add(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.BoolVar(&f.replace, "replace", false, "exchange a directory that is not empty, or a file, for the image")
	fl.Uint32Var(&f.uidShift, "uid-shift", 0, "`NUMBER` to add to every owner and group, in rootfs:DIR")
	fl.StringVar(&f.compression, "compression", "gzip", "`COMPRESSION` of the layer of an OCI image, gzip or zstd")
}

// options adds what the flags mean.
func (f *destFlags) options(opts *transfer.PullOptions) (err error) {
	opts.Replace, opts.UIDShift, opts.Lenient = f.replace, f.uidShift, os.Geteuid() != 0
	opts.Compression, err = ocidest.ParseCompression(f.compression)
	return err
}

const seedHelp = `A seed is recognised by what it is:
  a root, or a directory of images: all that lies in it
  the storage of podman, buildah and skopeo, of docker, or of containerd
  an OCI layout, or containerd's content store
  an oci-archive, docker-archive, any other tar, or a catar, plain or compressed
  a chunk store, in which chunks are found by their ids
  any other file, or a block device, in which chunks are found by its .caibx
  index if there is one, else by cutting it
  any other directory, as a tree of files
KIND: says what to take it for: dir, images, root, oci, archive, blob, store,
containers-storage, docker or containerd. Seeds are read only. Contents found in
compressed archives wait in the root, which needs the space for them.`

// attachedHelp tells people of images in registries.
const attachedHelp = `docker://HOST/NAME is an image in a registry, to which push --attach has attached
what a repository has of it: its chunks come from the store that is named there,
which --allow-store must accept where it is not on HOST.`

type pullOptions struct {
	pullFlags
	destFlags
}

func newPullCommand(a *app) *cobra.Command {
	var o pullOptions
	cmd := &cobra.Command{
		Use:   "pull REPO/NAME[:TAG|@sha256:DIGEST] [DEST]",
		Short: "Bring an image onto this device, fetching only what it does not have",
		Long: `Pull reads the image's table of contents, takes every file whose bytes are in
the root or in a --seed, under whatever name, owner and time, and fetches the
chunks of the others, or a delta where that takes fewer bytes. Each byte is
verified. The image appears by one rename: in the root as
ROOT/images/NAME/TAG, with the last two kept for rollback, or as DEST:

` + destHelp + `

A directory that has something in it is refused, unless --replace, which builds the image
beside it and exchanges the two in one step, or --in-place, which changes what
differs: files with the right bytes keep their inodes, what is new is complete and
on the disk before the first file changes, and what the image does not have is
removed. An update in place that is interrupted leaves some files old and some new;
to run it again completes it. It is refused where something is mounted in DIR.

Images of the root that have the same file, metadata included, share it: as blocks where
the filesystem can, else, and with --link=hard, as hard links, of which every byte
is verified when an image gets one. Whoever writes to a hard link changes it in all
images: write to a DEST or an overlay, or pull with --link=reflink.

An image of the last four kinds has one layer, and the same digest wherever it is
made. What an interrupted pull has fetched, the next one uses.

An ordinary user cannot set owners or make devices; what is missing is named.
For root that is a failure, and nothing is changed.

` + seedHelp + `

REPO is a directory or an http(s) URL. NAME is the last component of the path, or
all that follows // where it contains a slash.

` + attachedHelp + `
With nothing attached, and for an image that is named by its digest, pull says so
and fetches the layers whole.` + casyncHelp,
		Example: `  ociv2-sync pull --seed /srv/app-v1 https://images.example/app:v2
  ociv2-sync pull --max-bytes 20M https://images.example/app:v2
  ociv2-sync pull https://images.example//team/app:v2 rootfs:/srv/app --in-place
  ociv2-sync pull --allow-store docker://registry.example/team/app:v2
  ociv2-sync pull --from-bundle /media/usb/app-v2.bundle`,
		Args: casyncArgs(o.imageArgs),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 && args[0] == "-" {
				return a.runFarSide(cmd.Context(), archive.ServePull, args, archive.Anywhere())
			}
			return a.runPull(cmd, args, &o)
		},
	}
	o.pullFlags.add(cmd)
	o.pullFlags.addPlace(cmd)
	o.destFlags.add(cmd)
	o.addRegistry(cmd)
	o.addPlatform(cmd)
	return cmd
}

func (a *app) runPull(cmd *cobra.Command, args []string, o *pullOptions) error {
	ref, opts, err := o.pullFlags.options(a, cmd, args)
	if err != nil {
		return err
	}
	if err := o.destFlags.options(&opts); err != nil {
		return err
	}
	if opts.Registry, err = o.registry.options(a); err != nil { // DEST may be in one, whatever the image is in
		return err
	}
	if opts.Clients, err = a.clients(append([]string{ref.Repo}, o.far()...)); err != nil {
		return err
	}
	defer opts.Clients.Close()
	var m meter
	var stop func()
	opts.Sending, stop = a.sendingMeter(&m)
	opts.Progress = func(received, completed int64) {
		m.add(0, received)
		m.add(1, completed)
	}
	opts.Wrote = func(n int64) { m.add(2, n) }
	defer a.keepRoom()()
	pulled, err := transfer.Pull(cmd.Context(), ref, opts, func(p *transfer.Prepared) {
		if p.Present {
			m.add = func(int, int64) {}
			return
		}
		if !p.Layers {
			a.say("%s", planLine(p))
		}
		bars := []bar{{"fetched", p.Wire()}, {"files", contentBytes(p.Plan)}}
		if p.LayerSize > 0 {
			bars = append(bars, bar{"layer", p.LayerSize})
		}
		m = a.meter(bars...)
	})
	stop()
	if e, ok := errors.AsType[*transfer.UnrestoredError](err); ok {
		a.warnUnrestored(e.Notes)
	}
	if err != nil {
		return err
	}
	return a.printPulled(ref, pulled)
}

// contentBytes returns the bytes of all files that a plan makes.
func contentBytes(p *seed.Plan) int64 {
	var sum int64
	for i := range p.Contents {
		sum += p.Contents[i].Size * int64(len(p.Contents[i].Nodes))
	}
	return sum
}

// losses are the pieces that were fetched after all, by reason.
type losses map[assemble.Loss]int

func (l losses) String() string {
	var parts []string
	for _, why := range slices.Sorted(maps.Keys(l)) {
		parts = append(parts, fmt.Sprintf("%d %s", l[why], why))
	}
	return strings.Join(parts, ", ")
}

func (a *app) printPulled(ref repo.Ref, p *transfer.Pulled) error {
	type result struct {
		Reference  string `json:"reference"`
		Digest     string `json:"digest"`
		Path       string `json:"path"`
		Present    bool   `json:"present"`
		Bytes      int64  `json:"bytes"`
		Requests   int64  `json:"requests"`
		Copied     int    `json:"contentsFromSeeds"`
		ByDelta    int    `json:"contentsFromDelta"`
		Lost       int    `json:"contentsLostBySeeds"`
		Why        losses `json:"lostBecause,omitempty"`
		Unread     int    `json:"seedArchivesCutShort,omitempty"`
		Linked     int    `json:"filesShared,omitempty"`
		Kept       int    `json:"filesInPlace,omitempty"`
		Changed    int    `json:"nodesChanged,omitempty"`
		Removed    int    `json:"nodesRemoved,omitempty"`
		Unrestored int    `json:"attributesNotRestored"`
		Made       string `json:"madeDigest,omitempty"`
		Layer      int64  `json:"layerBytes,omitempty"`
		Sent       int64  `json:"bytesToRegistry,omitempty"`
		Omitted    int    `json:"filesLeftOut,omitempty"`
	}
	r := result{Reference: ref.String(), Digest: p.Digest.String(), Path: p.Path, Present: p.Present, Bytes: p.Bytes, Requests: p.Requests, Unread: p.Unread}
	if s := p.Stats; s != nil {
		r.Copied, r.ByDelta, r.Why, r.Unrestored = s.Copied, s.Made, s.Lost, len(s.Unrestored)
		for _, n := range s.Lost {
			r.Lost += n
		}
		r.Linked, r.Kept, r.Changed, r.Removed = s.Linked, s.Kept, s.Changed, s.Removed
		a.warnUnrestored(s.Unrestored)
	}
	if i := p.Written; i != nil {
		r.Made, r.Layer, r.Sent, r.Omitted = i.Digest.String(), i.LayerSize, i.Sent, len(i.Omitted)
		a.warnOmitted(i.Omitted)
	}
	return a.print(r, func(w io.Writer) {
		if r.Lost > 0 {
			fmt.Fprintf(w, "%s not what seeds or the delta said, and fetched: %s\n", count(int64(r.Lost), "piece"), r.Why)
		}
		if r.Unread > 0 {
			fmt.Fprintf(w, "%s not read to the end: truncated, damaged or unreadable\n", count(int64(r.Unread), "archive"))
		}
		fmt.Fprintf(w, "pulled %s\ndigest %s\n", r.Reference, r.Digest)
		if r.Present {
			fmt.Fprintf(w, "the root has this image already; ")
		}
		fmt.Fprintf(w, "transferred %s in %s\n", human(r.Bytes), count(r.Requests, "request"))
		if r.Kept > 0 {
			fmt.Fprintf(w, "%s in place, %d changed, %d removed\n", count(int64(r.Kept), "file"), r.Changed, r.Removed)
		}
		if r.Made != "" {
			fmt.Fprintf(w, "made image %s, a layer of %s\n", r.Made, human(r.Layer))
		}
		if r.Sent > 0 {
			fmt.Fprintf(w, "sent %s to the registry\n", human(r.Sent))
		}
		fmt.Fprintln(w, r.Path)
	})
}
