package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime/debug"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/ociv2-sync/ociv2-sync/internal/root"
	"github.com/ociv2-sync/ociv2-sync/internal/transfer"
	"github.com/ociv2-sync/ociv2-sync/internal/tree"
)

// app is what every command works with: where it prints, and the options
// common to all.
type app struct {
	stdout, stderr io.Writer
	env            func(string) (string, bool)

	root      string
	jobs      int
	retry     int
	limitRate byteSize
	json      bool
	quiet     bool
	verbose   bool
	progress  string
	logLevel  string
	web       clientFlags
}

// envPrefix begins the environment variables that give flags their defaults.
const envPrefix = "OCIV2_SYNC_"

func newRootCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ociv2-sync",
		Short: "Ship container images as casync archives, moving only what changed",
		Long: `ociv2-sync publishes OCI images as casync chunk archives in a directory of
plain static files, and pulls them onto devices that already have other
images: every file whose bytes are anywhere on the device is taken from there,
the rest is fetched as chunks. casync and desync read what it publishes.

Every flag can be given a default in the environment: --limit-rate is
OCIV2_SYNC_LIMIT_RATE, and so on. OCIV2_SYNC_SEED takes several paths,
separated by colons; OCIV2_SYNC_HEADER one header a line.

A SIZE may end in K, M, G or T, which are powers of 1024 as in casync's options;
what is printed in kB, MB and GB is in powers of 1000.

` + exitHelp,
		Example: `  # publish a release: REPO is a directory that any web server can serve
  ociv2-sync push oci:build/rootfs:v1 /srv/www/images/app:v1

  # on the device: see what it would cost, then pull
  ociv2-sync plan --seed /srv/app https://images.example/app:v1
  ociv2-sync pull --seed /srv/app https://images.example/app:v1`,
		Version:                    version(), // in cobra's own words: a template of ours would link text/template, 2 MB
		SilenceUsage:               true,
		SilenceErrors:              true,
		SuggestionsMinimumDistance: 2, // cobra's default, which it sets only where it suggests by itself
		Args:                       noSuchCommand,
		RunE:                       noCommand,
		PersistentPreRunE:          func(cmd *cobra.Command, _ []string) error { return a.defaults(cmd.Flags()) },
	}
	cmd.SetOut(a.stdout)
	cmd.SetErr(a.stderr)
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%w; see %s --help", flagError(err), cmd.CommandPath())}
	})
	f := cmd.PersistentFlags()
	cmd.SetGlobalNormalizationFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		if name == "rate-limit-bps" { // casync's name, which it gives to its far side
			name = "limit-rate"
		}
		return pflag.NormalizedName(name)
	})
	f.StringVar(&a.root, "root", "", "`DIR` of the images on this device (default /var/lib/images for root, else the XDG data directory)")
	f.IntVar(&a.jobs, "jobs", 192, "most requests in flight at a time, a `NUMBER`; there are as many as the link has use for")
	f.IntVar(&a.retry, "retry", 5, "`NUMBER` of times a failed request is repeated")
	f.Var(&a.limitRate, "limit-rate", "most bytes received per second, or sent by ssh or to a registry, e.g. 500K or 2M (default unlimited)")
	f.BoolVar(&a.json, "json", false, "print the result, or the error, as one JSON object")
	f.BoolVarP(&a.quiet, "quiet", "q", false, "print nothing but results and errors")
	f.BoolVarP(&a.verbose, "verbose", "v", false, "print more about what is going on, as --log-level=info")
	f.StringVar(&a.progress, "progress", "auto", "`HOW` to show progress: auto, plain or none")
	f.StringVarP(&a.logLevel, "log-level", "l", "warn", "`LEVEL` of the least severe message to print: debug, info, warn or error")
	a.web.add(f)
	completeFlags(cmd, f)
	for _, add := range []func(*app) *cobra.Command{
		newMakeCommand, newExtractCommand, newListCommand, newMTreeCommand, newStatCommand,
		newDigestCommand, newCatCommand, newDiffCommand,
		newGCCommand, newVerifyCommand, newRepairCommand,
		newDeltaCommand, newPushCommand, newPullCommand, newPlanCommand, newWhyCommand, newImagesCommand,
		newRollbackCommand, newRmCommand, newSeedCommand, newServeCommand, newConvertCommand,
		newInspectCommand, newLsCommand, newBundleCommand,
	} {
		cmd.AddCommand(finish(add(a)))
	}
	strictHelp(cmd)
	return cmd
}

// version returns the version of the program as the module system knows it.
func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}

// finish gives a command and those below it what all have in common.
func finish(cmd *cobra.Command) *cobra.Command {
	if cmd.Long == "" {
		cmd.Long = cmd.Short + "."
	}
	cmd.Long += "\n\n" + exitHelp
	if cmd.Args != nil {
		cmd.Args = usageArgs(cmd.Args)
	}
	completeFlags(cmd, cmd.LocalFlags())
	for _, sub := range cmd.Commands() {
		finish(sub)
	}
	return cmd
}

// defaults gives the flags that were not set their values from the
// environment, and checks the common ones.
func (a *app) defaults(flags *pflag.FlagSet) error {
	var err error
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Changed || err != nil || f.Name == "help" {
			return
		}
		name := envPrefix + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		value, ok := a.env(name)
		if !ok {
			return
		}
		values := []string{value}
		if _, several := f.Value.(pflag.SliceValue); several {
			sep := ":"
			if f.Name == "header" { // which has colons
				sep = "\n"
			}
			values = strings.Split(value, sep)
		}
		for _, v := range values {
			if e := flags.Set(f.Name, v); e != nil {
				err = usageError{fmt.Errorf("%s in the environment: %w", name, e)}
			}
		}
	})
	if err != nil {
		return err
	}
	switch a.progress {
	case "auto", "plain", "none":
	default:
		return usageError{fmt.Errorf("--progress is auto, plain or none, not %q", a.progress)}
	}
	if a.jobs < 1 || a.jobs > 1024 {
		return usageError{fmt.Errorf("--jobs is 1 to 1024, not %d", a.jobs)}
	}
	if a.retry < 0 {
		return usageError{fmt.Errorf("--retry is 0 or more, not %d", a.retry)}
	}
	if _, e := parseLevel(a.logLevel); e != nil {
		return usageError{e}
	}
	if a.root == "" {
		get := func(name string) string { v, _ := a.env(name); return v }
		a.root, err = root.DefaultPath(os.Geteuid(), get)
	}
	return err
}

// parseLevel reads the value of --log-level, or the number of syslog by which
// casync passes its own on.
func parseLevel(s string) (slog.Level, error) {
	if n, err := strconv.ParseUint(s, 10, 8); err == nil && n <= 7 {
		return []slog.Level{8, 8, 8, slog.LevelError, slog.LevelWarn, slog.LevelInfo, slog.LevelInfo, slog.LevelDebug}[n], nil
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(s)); err != nil {
		return level, fmt.Errorf("--log-level is debug, info, warn or error, not %q", s)
	}
	return level, nil
}

// logger returns the logger for the libraries, which writes to stderr.
func (a *app) logger() *slog.Logger {
	level, _ := parseLevel(a.logLevel) // checked by defaults
	if a.verbose {
		level = min(level, slog.LevelInfo)
	}
	if a.quiet {
		level = slog.LevelError
	}
	return slog.New(slog.NewTextHandler(a.stderr, &slog.HandlerOptions{
		Level: level,
		ReplaceAttr: func(groups []string, at slog.Attr) slog.Attr {
			if at.Key == slog.TimeKey && len(groups) == 0 {
				return slog.Attr{}
			}
			return at
		},
	}))
}

// say prints a line about what is going on, for people.
func (a *app) say(format string, args ...any) {
	if !a.quiet && !a.json {
		fmt.Fprintf(a.stderr, format+"\n", args...)
	}
}

// print prints a result: v as JSON with --json, else what text writes.
func (a *app) print(v any, text func(w io.Writer)) error {
	if !a.json {
		text(a.stdout)
		return nil
	}
	enc := json.NewEncoder(a.stdout)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("print the result: %w", err)
	}
	return nil
}

// failure is an error as JSON.
type failure struct {
	Message string   `json:"message"`
	Advice  string   `json:"advice,omitempty"` // what to do
	Exit    int      `json:"exit"`
	Missing []string `json:"missing,omitempty"` // paths, with --offline
	Changed []string `json:"changed,omitempty"` // paths, of an extraction in place
}

func newFailure(err error) *failure {
	f := &failure{Message: message(err), Advice: advice(err), Exit: exitCode(err)}
	if m, ok := errors.AsType[*transfer.MissingError](err); ok {
		f.Missing = m.Paths
	}
	if p, ok := errors.AsType[*tree.PartialError](err); ok {
		f.Changed = p.Changed
	}
	return f
}

// printedError is an error that is part of the result that was printed.
type printedError struct{ err error }

func (e printedError) Error() string { return e.err.Error() }
func (e printedError) Unwrap() error { return e.err }

// fail prints the error that ends the program.
func (a *app) fail(err error) {
	if _, ok := errors.AsType[printedError](err); ok {
		return
	}
	if a.json {
		_ = a.print(struct {
			Error *failure `json:"error"`
		}{newFailure(err)}, nil) // nowhere is left to report a broken stdout
		return
	}
	if m, ok := errors.AsType[*transfer.MissingError](err); ok {
		for _, path := range m.Paths {
			fmt.Fprintf(a.stderr, "ociv2-sync: missing: %q\n", path)
		}
	}
	if p, ok := errors.AsType[*tree.PartialError](err); ok {
		for _, path := range p.Changed {
			fmt.Fprintf(a.stderr, "ociv2-sync: changed: %q\n", path)
		}
	}
	text := message(err)
	if do := advice(err); do != "" {
		text += "; " + do
	}
	fmt.Fprintf(a.stderr, "ociv2-sync: %s\n", text)
}

// terminal reports whether stderr is a terminal.
func (a *app) terminal() bool {
	f, ok := a.stderr.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
