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
	var listen string
	cmd := &cobra.Command{
		Use:   "serve [DIR]",
		Short: "Serve a repository or a chunk store over HTTP",
		Long: `Serve answers GET and HEAD for the files of a repository, or of a casync chunk
store, in DIR, the current directory if it is not given. casync, desync and any
HTTP client can read from it; so they can from any other web server that serves
the same directory. SIGINT and SIGTERM end it when the requests that are being
answered are, with exit code 0.`,
		Example: `  ociv2-sync serve /srv/www/images --listen :8080`,
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.runServe(cmd.Context(), arg(args, 0, "."), listen)
		},
	}
	cmd.Flags().StringVar(&listen, "listen", "localhost:8080", "`ADDRESS` and port to listen on")
	return cmd
}

func (a *app) runServe(ctx context.Context, dir, listen string) (err error) {
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
