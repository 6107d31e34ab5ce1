package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/ociv2-sync/ociv2-sync/chunkserver"
)

// The limits of the server's connections. A chunk is small; a client that
// takes longer for one is at the end of a slow link, not stuck.
const (
	headerTimeout = 10 * time.Second
	idleTimeout   = 2 * time.Minute
	writeTimeout  = 10 * time.Minute
	maxHeader     = 16 << 10
	shutdownGrace = 10 * time.Second
)

func newServeCommand(a *app) *cobra.Command {
	var o serveOptions
	cmd := &cobra.Command{
		Use:   "serve [DIR]",
		Short: "Serve a repository or a chunk store over HTTP",
		Long: `Serve answers GET and HEAD for the files of a repository, or of a casync chunk
store, in DIR, the current directory if it is not given. casync, desync and any
HTTP client can read from it; so they can from any other web server that serves
the same directory. SIGINT and SIGTERM end it when the requests that are being
answered are, with exit code 0.

With --stdio it is the forced command of a key that may read, or write, archives
and chunk stores in one directory alone: it serves the casync, desync or
ociv2-sync that comes with that key. The directory is what "/" and "." mean to
it.`,
		Example: `  ociv2-sync serve /srv/www/images --listen :8080
  # in authorized_keys
  restrict,command="ociv2-sync serve --stdio --confine /srv/images --read-only" ssh-ed25519 AAAA...`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.runServe(cmd, args, &o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.listen, "listen", "localhost:8080", "`ADDRESS` and port to listen on")
	f.BoolVar(&o.stdio, "stdio", false, "serve one ssh session of casync or desync on standard input and output")
	f.StringVar(&o.confine, "confine", "", "`DIR` that an ssh session is confined to; it takes the place of the argument")
	f.BoolVar(&o.readOnly, "read-only", false, "let an ssh session pull alone, not push")
	return cmd
}

type serveOptions struct {
	listen   string
	stdio    bool
	confine  string
	readOnly bool
}

func (a *app) runServe(cmd *cobra.Command, args []string, o *serveOptions) error {
	if !o.stdio {
		if o.confine != "" || o.readOnly {
			return usageError{errors.New("--confine and --read-only are for --stdio; HTTP serves DIR alone, and is read only")}
		}
		return a.serveHTTP(cmd.Context(), arg(args, 0, "."), o.listen)
	}
	if o.confine == "" || len(args) > 0 || cmd.Flags().Changed("listen") {
		return usageError{errors.New("--stdio goes with --confine DIR, and without DIR and --listen")}
	}
	return a.serveStdio(cmd.Context(), o.confine, o.readOnly)
}

func (a *app) serveHTTP(ctx context.Context, dir, listen string) (err error) {
	if _, _, err := net.SplitHostPort(listen); err != nil {
		return usageError{fmt.Errorf("--listen is HOST:PORT or :PORT, not %q", listen)}
	}
	handler, err := chunkserver.New(dir, chunkserver.Options{Logger: a.logger()})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, handler.Close()) }()
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", listen)
	if err != nil {
		return fmt.Errorf("serve: %w", err)
	}
	server := &http.Server{
		Handler: handler, ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout,
		WriteTimeout: writeTimeout, MaxHeaderBytes: maxHeader,
	}
	fmt.Fprintf(a.stdout, "serving %s on http://%s\n", dir, l.Addr())
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(l) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownGrace)
	defer cancel()
	err = server.Shutdown(grace)
	<-failed // ErrServerClosed, at once
	if err != nil {
		return fmt.Errorf("serve: requests were cut off: %w", err)
	}
	return nil // a server that was told to stop has done what it should
}
