package main

import (
	"fmt"
	"net/http"
	"os"

	"github.com/spf13/cobra"

	"github.com/ociv2-sync/ociv2-sync/catar"
	"github.com/ociv2-sync/ociv2-sync/internal/archive"
	"github.com/ociv2-sync/ociv2-sync/store/httpstore"
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
	stores []string
}

func (f *inputFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringArrayVar(&f.stores, "store", nil, "chunk `STORE` of an index, a directory or URL; repeatable (default default.castr beside the index)")
}

// withInput calls use with the input of a casync verb: INPUT [SUBPATH].
func (a *app) withInput(cmd *cobra.Command, args []string, f *inputFlags, flags catar.Flags, use func(*archive.Input) error) error {
	client := a.client()
	defer client.Close()
	in, err := archive.Open(cmd.Context(), arg(args, 0, "."), archive.OpenOptions{
		Stdin: os.Stdin, Stores: f.stores, Client: client, Jobs: a.jobs, Flags: flags,
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

// client returns the HTTP client of this run.
func (a *app) client() *httpstore.Client {
	retries := a.retry
	if retries == 0 {
		retries = -1 // 0 is the default there
	}
	return httpstore.NewClient(httpstore.Options{
		Jobs: a.jobs, Retries: retries, RateLimit: int64(a.limitRate), Proxy: http.ProxyFromEnvironment, Logger: a.logger(),
	})
}
