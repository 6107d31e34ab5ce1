package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ociv2-sync/ociv2-sync/chunkserver"
	"github.com/ociv2-sync/ociv2-sync/internal/stores"
)

// maxHeader is the most bytes in the header of a request.
const maxHeader = 16 << 10

// limits are how long the clients of a server may take.
type limits struct {
	header time.Duration // to send the header of a request
	body   time.Duration // to send all of it, a chunk of 16 MB over a slow link
	idle   time.Duration // to send the next one
	stall  time.Duration // to take some of the response
	grace  time.Duration // to end when the server does
}

// defaultLimits cut off who is stuck, or wants to hold connections, not who is slow.
func defaultLimits() limits {
	return limits{header: 10 * time.Second, body: 10 * time.Minute, idle: 2 * time.Minute, stall: 2 * time.Minute, grace: 10 * time.Second}
}

func newServeCommand(a *app) *cobra.Command {
	var o serveOptions
	cmd := &cobra.Command{
		Use:   "serve [DIR|URL|HOST:PATH]",
		Short: "Serve a repository or a chunk store over HTTP",
		Long: `Serve answers GET and HEAD for the files of a repository, or of a casync chunk
store, in DIR, the current directory if it is not given. casync, desync and any
HTTP client can read from it; so they can from any other web server that serves
the same directory. SIGINT and SIGTERM end it when the requests that are being
answered are, at most 10 seconds later, with exit code 0, or 1 if it cut some off.

  /healthz  200 as long as it runs
  /readyz   200, or 503 when DIR, or --cache, is not the directory any more that it
            was: unmounted, removed or replaced. A proxy need not reach its URL
  /metrics  for Prometheus: requests by status, bytes, time, hits and misses

/metrics asks for a token or a password as files do; the others do not. Certificate,
clients' authorities, tokens and users are read again when their files change; if these
make no sense then, what they said before holds. Each line of --access-log, up to a
second late, is a JSON object: time, remote, method, path, status, bytes of the body,
took (nanoseconds), and cache: hit, miss or stale, of a proxy.

Chunks are served as they are stored, and uncompressed to who asks for that, as
desync can. With --write it takes chunks too, by PUT, from those who are let in:
each is verified before it can be seen, and none is ever replaced.

With a URL in place of DIR, of a repository or a chunk store (http, https, s3, ssh or
sftp), it is a proxy with a cache in the directory --cache: it fetches each object
once, however many clients want it, verifies it, and serves what it has when the URL
does not answer; a tag that may be out of date then has the header "Warning: 110".
Large files are passed on while they arrive; one that is larger than --cache-size is
refused, if it has more than 256 MiB. --mirror names other places of the same: what one
does not have, sends wrong or stops sending comes from the next, and tags from the first
that answers.

HOST:PATH is a chunk store on a host that has casync, desync or ociv2-sync, reached as
casync does, by ssh. Its chunks are at / and at /NAME, the last element of PATH; the
indexes beside it (not desync's, which gives chunks alone) are at /: "casync extract
http://PROXY/x.caidx" finds its chunks if NAME is default.castr. A DIR with a colon is
./DIR.

With --stdio it speaks SFTP on standard input and output: that is what ssh://
repositories start on their host. With --confine it is the forced command of a
key, or the sftp subsystem of sshd, that may read, or write, in one directory
alone: it serves the ociv2-sync, casync, desync or sftp that comes with that key.
The directory is what "/" and "." mean to it.`,
		Example: `  ociv2-sync serve /srv/www/images --listen :8080
  # for a site: everything crosses the slow link once
  ociv2-sync serve https://images.example --cache /var/cache/images --listen :8080
  # from wherever it comes fastest
  ociv2-sync serve https://images.example --mirror https://cdn.example --cache cache
  # of a store that only casync gives away
  ociv2-sync serve builds.example:/srv/default.castr --cache /var/cache/chunks
  # behind a socket unit of systemd
  ociv2-sync serve /srv/www/images --listen systemd
  # a store that desync writes chunks to
  ociv2-sync serve /srv/chunks.castr --write --htpasswd users --tls-cert pair.pem --listen :8443
  # in authorized_keys
  restrict,command="ociv2-sync serve --stdio --confine /srv/images --read-only" ssh-ed25519 AAAA...`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.runServe(cmd, args, &o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.listen, "listen", "localhost:8080", "`ADDRESS` and port to listen on; or unix:PATH; or systemd, for the socket of a unit")
	f.BoolVar(&o.write, "write", false, "take chunks that clients PUT, verified, from whoever is let in by a token, a password or a certificate")
	f.StringVar(&o.htpasswd, "htpasswd", "", "`FILE` of users and passwords, as htpasswd -B writes it, of which a request must bring one")
	f.StringVar(&o.cache, "cache", "", "`DIR` where a proxy keeps what it has fetched, and nothing else is")
	f.Var(&o.cacheSize, "cache-size", "most bytes in --cache (default 10G)")
	f.StringArrayVar(&o.mirrors, "mirror", nil, "another `URL` of what a proxy stands for: chunks come from the fastest that works; repeatable")
	f.StringVar(&o.tokenFile, "token-file", "", "`FILE` with the bearer tokens, one a line, of which a request must bring one")
	f.StringVar(&o.tlsCert, "tls-cert", "", "`FILE` with the certificate to serve HTTPS with; it may be replaced meanwhile")
	f.StringVar(&o.tlsKey, "tls-key", "", "`FILE` with the key of --tls-cert (default the same file)")
	f.StringVar(&o.clientCA, "tls-client-ca", "", "`FILE` with the authorities of which clients must show a certificate")
	f.IntVar(&o.maxConns, "max-connections", 4096, "`NUMBER` of connections at a time; more wait")
	f.BoolVar(&o.accessLog, "access-log", false, "log every request to standard error")
	f.BoolVar(&o.stdio, "stdio", false, "serve one ssh session on standard input and output")
	f.StringVar(&o.confine, "confine", "", "`DIR` that an ssh session is confined to; it takes the place of the argument")
	f.BoolVar(&o.readOnly, "read-only", false, "let an ssh session read alone, not write")
	return cmd
}

type serveOptions struct {
	listen                    string
	cache                     string
	mirrors                   []string
	cacheSize                 byteSize
	tokenFile, htpasswd       string
	write                     bool
	tlsCert, tlsKey, clientCA string
	maxConns                  int
	accessLog                 bool
	stdio                     bool
	confine                   string
	readOnly                  bool
}

func (a *app) runServe(cmd *cobra.Command, args []string, o *serveOptions) error {
	if !o.stdio {
		if o.confine != "" || o.readOnly {
			return usageError{errors.New("--confine and --read-only are for --stdio; HTTP serves DIR alone, read only but for --write")}
		}
		return a.serveHTTP(cmd.Context(), arg(args, 0, "."), o)
	}
	if len(args) > 0 || webFlags(cmd) {
		return usageError{errors.New("--stdio goes with --confine and --read-only, and without DIR and the options of HTTP")}
	}
	return a.serveStdio(cmd.Context(), o.confine, o.readOnly)
}

// webFlags reports whether one of the options of HTTP was given.
func webFlags(cmd *cobra.Command) (given bool) {
	for _, name := range []string{"listen", "write", "htpasswd", "cache", "cache-size", "mirror", "token-file", "tls-cert", "tls-key", "tls-client-ca", "max-connections", "access-log"} {
		given = given || cmd.Flags().Changed(name)
	}
	return given
}

// closingHandler serves until it is closed, and says whether it can.
type closingHandler interface {
	http.Handler
	io.Closer
	Ready() error
}

// handler returns what serves a directory, or stands for a URL.
func (a *app) handler(what string, o *serveOptions) (closingHandler, error) {
	_, far, _ := stores.SSH(what) // what is wrong with it is for who opens it
	if far = far || strings.Contains(what, "://"); !far {
		if o.cache != "" || o.cacheSize != 0 || len(o.mirrors) > 0 {
			return nil, usageError{errors.New("--cache, --cache-size and --mirror are for a proxy, of a URL or HOST:PATH")}
		}
		return chunkserver.New(what, chunkserver.Options{Logger: a.logger(), Write: o.write})
	}
	return a.proxyOf(what, o)
}

func (a *app) serveHTTP(ctx context.Context, what string, o *serveOptions) (err error) {
	if _, _, err := net.SplitHostPort(o.listen); err != nil && o.listen != "systemd" && !strings.HasPrefix(o.listen, "unix:") {
		return usageError{fmt.Errorf("--listen is HOST:PORT, :PORT, unix:PATH or systemd, not %q", o.listen)}
	}
	if o.write && o.tokenFile == "" && o.htpasswd == "" && o.clientCA == "" {
		return usageError{errors.New("--write needs to know who may: --token-file, --htpasswd or --tls-client-ca")}
	}
	if o.maxConns < 1 {
		return usageError{fmt.Errorf("--max-connections is 1 or more, not %d", o.maxConns)}
	}
	log := newLineBuffer(a.stderr)
	defer func() { err = errors.Join(err, log.Close()) }()
	monitor, err := a.monitorOptions(o, log)
	if err != nil {
		return err
	}
	config, err := a.serverTLS(o)
	if err != nil {
		return err
	}
	handler, err := a.handler(what, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, handler.Close()) }()
	l, err := a.listen(ctx, o.listen)
	if err != nil {
		return fmt.Errorf("serve: %w", err)
	}
	scheme := "http"
	if config != nil {
		scheme = "https"
	}
	at := scheme + "://" + l.Addr().String()
	if l.Addr().Network() == "unix" {
		at = "unix:" + l.Addr().String()
	}
	fmt.Fprintf(a.stdout, "serving %s on %s\n", public(what), at)
	monitor.Ready = handler.Ready
	return serveUntil(ctx, l, &http.Server{
		Handler: chunkserver.NewMonitor(handler, monitor), TLSConfig: config,
		ErrorLog: slog.NewLogLogger(a.logger().Handler(), slog.LevelInfo),
	}, o.maxConns, defaultLimits())
}

// serveUntil serves as many connections at a time as maxConns, until ctx is done:
// then no new ones, but the requests that are being answered to their end.
func serveUntil(ctx context.Context, l net.Listener, server *http.Server, maxConns int, limit limits) error {
	server.ReadHeaderTimeout, server.ReadTimeout, server.IdleTimeout = limit.header, limit.body, limit.idle
	server.MaxHeaderBytes, server.ConnContext = maxHeader, chunkserver.WithConn
	l = &limitedListener{Listener: l, stall: limit.stall, free: make(chan struct{}, maxConns), closed: make(chan struct{})}
	if server.TLSConfig != nil {
		l = tls.NewListener(l, server.TLSConfig)
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(l) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit.grace)
	defer cancel()
	err := server.Shutdown(grace)
	<-failed // ErrServerClosed, at once
	if err != nil {
		return errors.Join(fmt.Errorf("serve: requests were cut off: %w", err), server.Close())
	}
	return nil // a server that was told to stop has done what it should
}

// public returns a directory, or a URL without what may be secret in it.
func public(what string) string {
	if u, err := url.Parse(what); err == nil && u.Host != "" {
		u.User, u.RawQuery = nil, ""
		return u.String()
	}
	return what
}
