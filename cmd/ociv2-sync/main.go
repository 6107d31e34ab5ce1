// Command ociv2-sync publishes OCI images as casync archives and pulls them,
// fetching only what a device does not already have. See README.md.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/ociv2-sync/ociv2-sync/internal/tree"
)

func main() {
	log.SetOutput(io.Discard) // net/http tells of servers that send more than they announced
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr, os.LookupEnv))
}

// run is the whole program, for main and for the tests.
func run(args []string, stdout, stderr io.Writer, env func(string) (string, bool)) int {
	if _, set := env("GOMEMLIMIT"); !set {
		debug.SetMemoryLimit(softMemory)
	}
	ctx, stop := withSignals(context.Background())
	defer stop()
	out := &resultWriter{w: stdout}
	a := &app{stdout: out, stderr: stderr, env: env}
	root := newRootCommand(a)
	root.SetArgs(verbFirst(root, args))
	err := root.ExecuteContext(ctx)
	if err == nil {
		err = out.err // a result that nobody got is no result
	}
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

// resultWriter is standard output, and remembers the first error of writing to it.
type resultWriter struct {
	w   io.Writer
	err error
}

// Write implements io.Writer.
func (o *resultWriter) Write(p []byte) (int, error) {
	n, err := o.w.Write(p)
	if err != nil && o.err == nil {
		o.err = fmt.Errorf("print the result: %w", err)
	}
	return n, err
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
