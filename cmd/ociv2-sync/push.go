package main

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/ociv2-sync/ociv2-sync/internal/archive"
	"github.com/ociv2-sync/ociv2-sync/internal/repo"
	"github.com/ociv2-sync/ociv2-sync/internal/transfer"
	"github.com/ociv2-sync/ociv2-sync/translate"
)

// platformFlag is the value of --platform.
type platformFlag string

func (p *platformFlag) add(f *pflag.FlagSet) {
	f.Var(p, "platform", "`PLATFORM` of the image to take where there are several, OS/ARCH[/VARIANT] (default this machine's)")
}

// String implements pflag.Value.
func (p *platformFlag) String() string { return string(*p) }

// Type implements pflag.Value.
func (p *platformFlag) Type() string { return "PLATFORM" }

// Set implements pflag.Value.
func (p *platformFlag) Set(s string) error {
	_, err := translate.ParsePlatform(s)
	*p = platformFlag(s)
	return err
}

// sourceFlags say how a source is read.
type sourceFlags struct {
	registryFlags
	platformFlag
	tempDir string
	limits  limitFlags
}

// limitFlags bound what the layers of an image may ask for.
type limitFlags struct {
	bytes, metadata, xattr byteSize
	entries, path          int
}

func (l *limitFlags) add(f *pflag.FlagSet) {
	f.Var(&l.bytes, "limit-bytes", "most `BYTES` of an image's uncompressed layers, and of their files (default 64G)")
	f.IntVar(&l.entries, "limit-entries", translate.DefaultEntries, "largest `NUMBER` of entries in an image's layers, each of which takes some 300 bytes of memory")
	f.Var(&l.metadata, "limit-metadata", "most `BYTES` of all names, link targets and attributes of an image (default 64M)")
	f.IntVar(&l.path, "limit-path", 4095, "largest `NUMBER` of bytes in a path or link target")
	f.Var(&l.xattr, "limit-xattr", "most `BYTES` of an extended attribute (default 64K)")
}

// options returns what the flags mean.
func (l *limitFlags) options() (translate.Limits, error) {
	var err error
	if l.entries < 1 || l.path < 1 {
		err = usageError{errors.New("--limit-entries and --limit-path are at least 1")}
	}
	return translate.Limits{
		Bytes: int64(l.bytes), Entries: l.entries, Metadata: int64(l.metadata), Path: l.path, XAttr: int(min(l.xattr, math.MaxInt32)),
	}, err
}

func (o *sourceFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	o.platformFlag.add(f)
	f.StringVar(&o.tempDir, "temp-dir", "", "`DIR` where contents of layers wait (default /var/tmp)")
	o.registryFlags.add(f)
	o.limits.add(f)
}

// options returns what the flags mean.
func (o *sourceFlags) options(a *app) (transfer.PushOptions, error) {
	r, err := o.registryFlags.options(a)
	if err != nil {
		return transfer.PushOptions{}, err
	}
	limits, err := o.limits.options()
	return transfer.PushOptions{Platform: string(o.platformFlag), TempDir: o.tempDir, Registry: r, Limits: limits, Storage: a.storage()}, err
}

// storage returns where podman and buildah keep the images of this user.
func (a *app) storage() string {
	if os.Geteuid() == 0 {
		return "/var/lib/containers/storage"
	}
	if data, _ := a.env("XDG_DATA_HOME"); data != "" {
		return filepath.Join(data, "containers/storage")
	}
	if home, _ := a.env("HOME"); home != "" {
		return filepath.Join(home, ".local/share/containers/storage")
	}
	return ""
}

type pushOptions struct {
	sourceFlags
	deltas    int
	deltaFrom []string
	full      fullFlag
	memory    byteSize
	all       bool
	packing   compressionFlag
	attach    bool
	store     string
}

func newPushCommand(a *app) *cobra.Command {
	var o pushOptions
	cmd := &cobra.Command{
		Use:   "push SOURCE REPO/NAME[:TAG]",
		Short: "Publish an image in a repository",
		Long: `Push merges the layers of an image into one filesystem, cuts it into chunks, and
publishes it in the repository REPO, a directory that any web server can serve;
ssh://HOST/PATH is one on a host that has this program or an sftp server, and
sftp://HOST/PATH asks for the latter alone; s3://BUCKET/PREFIX is a bucket.
SOURCE is one of

  oci:DIR[:REF]              an OCI image layout
  oci-archive:FILE[:REF]     the same as a tar
  docker-archive:FILE[:REF]  what docker save writes
  docker://HOST/NAME[:TAG|@DIGEST]
                             an image in a registry
  containers-storage:NAME    an image of podman or buildah; NAME may begin with
                             [[DRIVER@]DIR], the storage it is in
  rootfs:DIR                 a root filesystem
  tar:FILE                   the tar of one, plain or compressed with gzip or zstd

Registries are reached as podman reaches them, by what registries.conf and certs.d
say of mirrors, other locations, insecure and blocked ones, and of certificates.

Beside the chunks it publishes deltas: single files that turn an earlier image of
the same name into this one, from the last --deltas tags and each --delta-from; with
--full also one that makes the image from nothing. One that is not smaller than the
chunks that it replaces is not published. A pull takes whatever moves fewer bytes.

With --attach the image in the registry that SOURCE is gets attached, by the
registry's referrers, what the repository has of it but the chunks, so that
pull docker://HOST/NAME:TAG fetches these from --store, the URL of default.castr in
the repository as devices reach it. The original stays as it is.

The tag appears, or changes, when everything else is in place: whoever pulls
meanwhile gets the old image.` + casyncHelp,
		Example: `  ociv2-sync push oci:build:v2 /srv/www/images/app:v2
  ociv2-sync push docker-archive:app.tar /srv/www/images/app
  ociv2-sync push --all-platforms docker://registry.example/app:v2 /srv/www/images/app:v2
  ociv2-sync push --attach --store https://images.example/default.castr \
      docker://registry.example/app:v2 /srv/www/images/app:v2
  ociv2-sync push containers-storage:localhost/app:dev /srv/www/images/app:dev
  ociv2-sync push rootfs:/srv/tree /srv/www/images/app:test
  ociv2-sync push --full --delta-from /srv/www/images/base:1 oci:build:v2 /srv/www/images/app:v2
  ociv2-sync push oci:build:v2 ssh://www.example/srv/www/images/app:v2`,
		Args: casyncArgs(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if args[0] == "-" {
				return a.runFarSide(cmd.Context(), archive.ServePush, args, archive.Anywhere())
			}
			return a.runPush(cmd, args, &o)
		},
	}
	o.sourceFlags.add(cmd)
	f := cmd.Flags()
	f.BoolVar(&o.all, "all-platforms", false, "publish the images of all platforms that SOURCE has under the one tag, of which each device pulls its own")
	o.packing.add(f)
	f.IntVar(&o.deltas, "deltas", 3, "`NUMBER` of earlier tags, those pushed last, to make deltas from")
	f.StringArrayVar(&o.deltaFrom, "delta-from", nil, "published image `REPO/NAME[:TAG]`, of any name or repository, to make a delta from too; repeatable")
	o.full.add(f)
	f.BoolVar(&o.attach, "attach", false, "attach the image's metadata to the original in its registry, for pull docker://HOST/NAME; with --store")
	f.StringVar(&o.store, "store", "", "`URL` of the repository's chunk store that what is attached names")
	f.Var(&o.memory, "delta-memory", "most `SIZE` of contents and their indexes in memory while deltas are made; larger contents are compared in parts (default 512M)")
	return cmd
}

func (a *app) runPush(cmd *cobra.Command, args []string, o *pushOptions) error {
	ref, opts, err := o.check(a, args)
	if err != nil {
		return err
	}
	defer opts.Clients.Close()
	defer a.keepRoom()()
	m := pushMeter{app: a}
	opts.Progress = m.progress
	var pushed []*transfer.Pushed
	if o.all {
		pushed, err = transfer.PushAll(cmd.Context(), args[0], ref, opts)
	} else {
		var one *transfer.Pushed
		one, err = transfer.Push(cmd.Context(), args[0], ref, opts)
		pushed = append(pushed, one)
	}
	m.end()
	if err != nil {
		return err
	}
	var results []pushResult
	for _, p := range pushed {
		r := newPushResult(p)
		if o.attach {
			done, err := transfer.Attach(cmd.Context(), args[0], p, o.store, opts)
			if err != nil {
				return fmt.Errorf("%s is pushed, but: %w", ref, err)
			}
			r.Attached = &attachResult{done.Digest.String(), done.Subject.String(), done.Sent}
		}
		results = append(results, r)
	}
	if o.all {
		return a.printPushed(ref, results)
	}
	r := results[0]
	r.Platform = "" // it goes without saying
	return a.print(r, r.print)
}

// pushMeter draws a bar for each image that is pushed, one after the other.
type pushMeter struct {
	app  *app
	m    meter
	last int64
}

func (p *pushMeter) progress(done, total int64) {
	if p.m.add == nil {
		p.m = p.app.meter(bar{name: "pushed", total: total})
	}
	p.m.add(0, done-p.last)
	if p.last = done; done == total {
		p.end() // another image may follow
	}
}

func (p *pushMeter) end() {
	if p.m.stop != nil {
		p.m.stop()
	}
	p.m, p.last = meter{}, 0
}

// check refuses what cannot be done before anything is, and returns where to push to and
// how. The caller closes the clients.
func (o *pushOptions) check(a *app, args []string) (ref repo.Ref, opts transfer.PushOptions, err error) {
	if o.deltas < 0 {
		return ref, opts, usageError{fmt.Errorf("--deltas is 0 or more, not %d", o.deltas)}
	}
	if o.all && o.platformFlag != "" {
		return ref, opts, usageError{errors.New("--all-platforms leaves nothing to choose for --platform")}
	}
	if ref, err = repo.ParseRef(args[1]); err != nil {
		return ref, opts, err
	}
	if err := o.checkAttach(args[0]); err != nil {
		return ref, opts, err
	}
	if opts, err = o.sourceFlags.options(a); err != nil {
		return ref, opts, err
	}
	opts.Compression = o.packing.Compression
	opts.Deltas, opts.Full, opts.DeltaMemory, opts.DeltaProgress = o.deltas, transfer.Full(o.full), int64(o.memory), a.deltaMeter()
	for _, name := range o.deltaFrom {
		from, err := repo.ParseRef(name)
		if err != nil {
			return ref, opts, err
		}
		opts.DeltaFrom = append(opts.DeltaFrom, from)
	}
	opts.Clients, err = a.clients(append([]string{ref.Repo}, o.deltaFrom...))
	return ref, opts, err
}

// checkAttach refuses what cannot be attached, before anything is done.
func (o *pushOptions) checkAttach(source string) error {
	switch {
	case o.attach:
		return transfer.CheckAttach(source, o.store)
	case o.store != "":
		return usageError{errors.New("--store goes with --attach: chunks are put into the repository's own store")}
	}
	return nil
}

// attachResult is what was attached to the original.
type attachResult struct {
	Digest  string `json:"digest"`
	Subject string `json:"subject"`
	Sent    int64  `json:"bytesToRegistry"`
}

// pushResult is an image that was published.
type pushResult struct {
	Reference string `json:"reference"`
	Platform  string `json:"platform,omitempty"`
	Digest    string `json:"digest"`
	TOC       string `json:"tocDigest"`
	Nodes     int    `json:"nodes"`
	Size      int64  `json:"archiveBytes"`
	Metadata  int64  `json:"metadataBytes"`
	Chunks    int    `json:"chunks"`
	New       int    `json:"newChunks"`
	NewBytes  int64  `json:"newBytes"`

	Deltas   []deltaResult `json:"deltas"`
	Attached *attachResult `json:"attached,omitempty"`
}

func newPushResult(p *transfer.Pushed) pushResult {
	return pushResult{
		p.Ref.String(), p.Platform, p.Digest.String(), p.TOC.String(), p.Nodes, p.CatarSize, p.Metadata, p.Chunks, p.New, p.NewBytes, deltaResults(p.Deltas), nil,
	}
}

// print prints the result for people.
func (r pushResult) print(w io.Writer) {
	fmt.Fprintf(w, "pushed %s\n", r.Reference)
	if r.Platform != "" {
		fmt.Fprintf(w, "platform %s\n", r.Platform)
	}
	fmt.Fprintf(w, "digest %s\n", r.Digest)
	fmt.Fprintf(w, "%d files and directories, %s in %d chunks; %d chunks (%s stored) are new, %s of metadata\n",
		r.Nodes, human(r.Size), r.Chunks, r.New, human(r.NewBytes), human(r.Metadata))
	for _, d := range r.Deltas {
		d.print(w)
	}
	if t := r.Attached; t != nil {
		fmt.Fprintf(w, "attached %s to %s, sent %s\n", t.Digest, t.Subject, human(t.Sent))
	}
}

// printPushed prints the images of all platforms.
func (a *app) printPushed(ref repo.Ref, images []pushResult) error {
	r := struct {
		Reference string       `json:"reference"`
		Images    []pushResult `json:"images"`
	}{ref.String(), images}
	return a.print(r, func(w io.Writer) {
		for _, i := range r.Images {
			i.print(w)
		}
	})
}
