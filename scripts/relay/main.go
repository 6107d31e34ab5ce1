// Command relay puts a delay and cuts between a client and a server, for
// scripts/linklab. It relays until it gets SIGTERM or SIGINT, and then prints the
// numbers of connections and cuts and of bytes to the server and to the client.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/ociv2-sync/ociv2-sync/internal/relay"
)

func main() {
	var o relay.Options
	listen := flag.String("listen", "127.0.0.1:0", "`ADDRESS` to listen on")
	target := flag.String("to", "", "`ADDRESS` to relay to")
	flag.DurationVar(&o.RoundTrip, "rtt", 0, "round-trip time")
	flag.Int64Var(&o.Cut, "cut", 0, "`BYTES` to the client after which a connection is cut, on average")
	flag.Uint64Var(&o.Seed, "seed", 1, "`NUMBER` to draw other cuts by")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	r, err := relay.Listen(ctx, *listen, *target, o)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(r.Addr())
	<-ctx.Done()
	s := r.Stats()
	fmt.Println(s.Connections, s.Cuts, s.ToServer, s.ToClient)
	if err := r.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
}
