package main

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"os"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/ociv2-sync/ociv2-sync/catar"
	"github.com/ociv2-sync/ociv2-sync/internal/archive"
	"github.com/ociv2-sync/ociv2-sync/internal/tree"
	"github.com/ociv2-sync/ociv2-sync/store"
	"github.com/ociv2-sync/ociv2-sync/store/sshstore"
)

// yesNo is a switch as casync's options take it.
type yesNo bool

func (b *yesNo) String() string {
	if *b {
		return "yes"
	}
	return "no"
}

// Type names the kind of value in help texts.
func (b *yesNo) Type() string { return "yes|no" }

func (b *yesNo) Set(s string) error {
	switch s {
	case "yes", "y", "true", "t", "on", "1":
		*b = true
	case "no", "n", "false", "f", "off", "0":
		*b = false
	default:
		return fmt.Errorf("%q is not yes or no", s)
	}
	return nil
}

// featureFlags are the options that choose what an archive stores.
type featureFlags struct {
	with, without                            []string
	digest                                   string
	excludeFile, excludeNoDump, excludeMount yesNo
}

func (f *featureFlags) add(cmd *cobra.Command) {
	f.excludeFile, f.excludeNoDump = true, true
	fl := cmd.Flags()
	fl.StringArrayVar(&f.with, "with", nil, "store this `FEATURE` or set of features, and no others; repeatable")
	fl.StringArrayVar(&f.without, "without", nil, "leave this `FEATURE` or set of features out; repeatable")
	fl.StringVar(&f.digest, "digest", "sha512-256", "`DIGEST` of chunks and archives: sha512-256 or sha256")
	fl.Var(&f.excludeFile, "exclude-file", "leave out what .caexclude files in the tree name")
	fl.Var(&f.excludeNoDump, "exclude-nodump", "leave out files with the nodump attribute")
	fl.Var(&f.excludeMount, "exclude-submounts", "leave out other filesystems mounted below")
}

// flags returns the feature flags that the options mean.
func (f *featureFlags) flags() (catar.Flags, error) {
	flags, err := catar.ParseNames(f.with, f.without)
	if err != nil {
		return 0, usageError{err}
	}
	switch f.digest {
	case "sha512-256", "default":
		flags |= catar.SHA512_256
	case "sha256":
	default:
		return 0, usageError{fmt.Errorf("--digest is sha512-256 or sha256, not %q", f.digest)}
	}
	for _, x := range []struct {
		on  yesNo
		bit catar.Flags
	}{{f.excludeFile, catar.ExcludeFile}, {f.excludeNoDump, catar.ExcludeNoDump}, {f.excludeMount, catar.ExcludeSubmounts}} {
		if x.on {
			flags |= x.bit
		}
	}
	return flags.Normalize(), nil
}

// inputFlags are the options of reading an archive or index.
type inputFlags struct {
	stores, extra []string
	what          string
	indexOnly     bool // no chunk is read
}

func (f *inputFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringArrayVar(&f.stores, "store", nil, "chunk `STORE` of an index, a directory, a URL or HOST:PATH; repeatable (default default.castr beside the index)")
	cmd.Flags().StringArrayVar(&f.extra, "extra-store", nil, "`STORE` to ask for what those before do not have; repeatable")
	cmd.Flags().StringVar(&f.what, "what", "", "`WHAT` an input is, whatever it ends in: archive, archive-index, blob, blob-index or directory")
}

// kind returns what the inputs are said to be.
func (f *inputFlags) kind() (archive.Kind, error) {
	if f.what == "" {
		return archive.Unknown, nil
	}
	return archive.ParseKind(f.what)
}

// defaultStores returns the stores that are given, or that of casync's
// environment variable.
func (a *app) defaultStores(given []string) []string {
	if name, ok := a.env("CASYNC_STORE"); ok && name != "" && len(given) == 0 {
		return []string{name}
	}
	return given
}

// defaultStore is defaultStores for what has one store, that beside an index
// if nothing else says which.
func (a *app) defaultStore(given, index string) string {
	if given == "" {
		given, _ = a.env("CASYNC_STORE")
	}
	return cmp.Or(given, archive.DefaultStore(index))
}

// tempDir is where large temporary files go, by the variables that casync
// takes it from.
func (a *app) tempDir() string {
	for _, name := range []string{"TMPDIR", "TEMP", "TMP"} {
		if dir, ok := a.env(name); ok && dir != "" {
			return dir
		}
	}
	return "/var/tmp"
}

// shiftFlags are casync's options of shifting owners.
type shiftFlags struct{ shift, size string }

func (f *shiftFlags) add(cmd *cobra.Command, what string) {
	fl := cmd.Flags()
	fl.StringVar(&f.shift, "uid-shift", "no", what+": `NUMBER`, no, or yes for 0 and a range")
	fl.StringVar(&f.size, "uid-range", "", "`NUMBER` of owners that are told apart (default 65536 with --uid-shift)")
}

// options returns the shift that the flags mean.
func (f *shiftFlags) options() (tree.IDShift, error) {
	s := tree.IDShift{Range: 1 << 16}
	var on yesNo
	base, err := strconv.ParseUint(f.shift, 10, 32)
	switch {
	case err == nil && base != math.MaxUint32:
		on, s.Base = true, uint32(base)
	case on.Set(f.shift) != nil:
		return s, usageError{fmt.Errorf("--uid-shift is yes, no or a number of 32 bits, not %q", f.shift)}
	}
	if f.size != "" {
		n, err := strconv.ParseUint(f.size, 10, 64)
		if err != nil || n == 0 || n > 1<<32 {
			return s, usageError{fmt.Errorf("--uid-range is 1 to 4294967296, not %q", f.size)}
		}
		on, s.Range = true, uint32(min(n, math.MaxUint32)) // which no owner has
	}
	if !on {
		return tree.IDShift{}, nil
	}
	return s, nil
}

// withInput calls use with the input of a casync verb: INPUT [SUBPATH].
func (a *app) withInput(cmd *cobra.Command, args []string, f *inputFlags, flags catar.Flags, use func(*archive.Input) error) (err error) {
	what, err := f.kind()
	if err != nil {
		return err
	}
	var in *archive.Input
	chunks := a.defaultStores(f.stores)
	defer func() {
		switch {
		case noInput(err) && namesImage(arg(args, 0, ".")):
			err = advisedError{err, "the index of an image in a repository is REPO/NAME/TAG.caidx, its --store REPO/default.castr"}
		case errors.Is(err, store.ErrNotFound) && in != nil && in.Index != nil && len(chunks) == 0:
			err = advisedError{err, "--store names the store of the chunks where that is not default.castr beside the index"}
		}
	}()
	clients, err := a.clients(append([]string{arg(args, 0, ".")}, chunks...))
	if err != nil {
		return err
	}
	defer clients.Close()
	in, err = archive.Open(cmd.Context(), arg(args, 0, "."), archive.OpenOptions{
		What: what, Stdin: os.Stdin, Stores: chunks, ExtraStores: f.extra, Clients: clients, Jobs: a.jobs, Flags: flags, TempDir: a.tempDir(), IndexOnly: f.indexOnly,
	})
	if err != nil {
		return err
	}
	defer in.Close()
	if err := in.Enter(cmd.Context(), arg(args, 1, "")); err != nil {
		return err
	}
	return use(in)
}

// arg returns an argument, or what stands for it when it is not given.
func arg(args []string, i int, missing string) string {
	if i < len(args) {
		return args[i]
	}
	return missing
}

// retries returns --retry as the clients take it: 0 is the default there.
func (a *app) retries() int {
	if a.retry == 0 {
		return -1
	}
	return a.retry
}

// ssh returns how ssh is run: as casync runs it.
func (a *app) ssh() sshstore.Options {
	command, _ := a.env("CASYNC_SSH_PATH")
	remote, _ := a.env("CASYNC_REMOTE_PATH")
	return sshstore.Options{
		Command: command, Remote: remote, Retries: a.retries(), RateLimit: int64(a.limitRate), Stderr: a.stderr, Logger: a.logger(),
	}
}
