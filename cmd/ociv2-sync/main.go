// Command ociv2-sync publishes OCI images as casync archives and pulls them,
// fetching only what a device does not already have. See README.md.
package main

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/ociv2-sync/ociv2-sync/internal/tree"
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr, os.LookupEnv)) }

// run is the whole program, for main and for the tests.
func run(args []string, stdout, stderr io.Writer, env func(string) (string, bool)) int {
	if _, set := env("GOMEMLIMIT"); !set {
		debug.SetMemoryLimit(softMemory)
	}
	ctx, stop := withSignals(context.Background())
	defer stop()
	a := &app{stdout: stdout, stderr: stderr, env: env}
	root := newRootCommand(a)
	root.SetArgs(verbFirst(root, args))
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitDone
	}
	// An interrupt shows as whatever it interrupted; the signal says it better.
	var sig signalError
	if cause := context.Cause(ctx); errors.As(cause, &sig) {
		err = endedBy(sig, err)
	}
	a.fail(err)
	return exitCode(err)
}

// endedBy is the error for a signal that ended what failed with err: what was
// changed by then is still told.
func endedBy(sig signalError, err error) error {
	if p, ok := errors.AsType[*tree.PartialError](err); ok {
		return &tree.PartialError{Changed: p.Changed, Err: sig}
	}
	return sig
}

// withSignals returns a context that SIGINT and SIGTERM cancel, with a
// signalError as the cause. A second signal kills the program as usual.
func withSignals(parent context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(parent)
	ch := make(chan os.Signal, 1)
	signal.Notify(ch, syscall.SIGINT, syscall.SIGTERM)
	done := make(chan struct{})
	go func() {
		defer close(done)
		select {
		case s := <-ch:
			signal.Stop(ch)
			cancel(signalError{s.(syscall.Signal)})
		case <-ctx.Done():
		}
	}()
	return ctx, func() {
		signal.Stop(ch)
		cancel(nil)
		<-done
	}
}
