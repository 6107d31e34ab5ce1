// Package relay is a TCP relay that makes what it relays far away and unreliable:
// bytes arrive half a round trip after they were sent, a connection takes a round
// trip to make, and after some number of bytes it is reset. Tests and
// scripts/linklab put it between a client and a server.
//
// It models delay and cuts alone. What is under way waits in a buffer that holds
// the product of bandwidth and delay of any link worth trying, so that the rate is
// that of the network on both sides, which all connections share.
package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"
)

// Options say how bad the link is. The zero value relays at once and for ever.
type Options struct {
	// RoundTrip is how long a byte and the answer to it take on their way.
	RoundTrip time.Duration
	// Cut is after how many bytes to the client a connection is reset, on average:
	// for each connection a number between half and one and a half of it is drawn.
	// 0 means never.
	Cut int64
	// Seed makes another sequence of draws.
	Seed uint64
	// Buffer is the most bytes under way in each direction of a connection. 0
	// means 8 MiB.
	Buffer int64
}

// partSize is the most that is read, and moves on, at once. It is small, as a part
// that waits for the end of another one waits for the whole of it.
const partSize = 8 << 10

// sendBuffer is what the system may hold of what is sent to a client, so that what
// counts as sent has left but for little.
const sendBuffer = 32 << 10

// Relay accepts connections and relays each to one address.
type Relay struct {
	ln     net.Listener
	target string
	opts   Options

	life context.Context //nolint:containedctx // of the connections, which no call waits for
	stop context.CancelFunc
	busy sync.WaitGroup

	mu   sync.Mutex
	rand *rand.Rand

	connections, cuts, toServer, toClient atomic.Int64
}

// Listen starts a relay from an address to another one. Call [Relay.Close] when
// done with it.
func Listen(ctx context.Context, address, target string, o Options) (*Relay, error) {
	if o.Buffer == 0 {
		o.Buffer = 8 << 20
	}
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("relay: %w", err)
	}
	r := &Relay{ln: ln, target: target, opts: o, rand: rand.New(rand.NewPCG(o.Seed, 1))}
	r.life, r.stop = context.WithCancel(context.WithoutCancel(ctx))
	r.busy.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return // closed
			}
			r.busy.Go(func() { r.relay(conn.(*net.TCPConn)) })
		}
	})
	return r, nil
}

// Addr returns the address that the relay listens on.
func (r *Relay) Addr() string { return r.ln.Addr().String() }

// Close resets all connections and ends the relay.
func (r *Relay) Close() error {
	err := r.ln.Close()
	r.stop()
	r.busy.Wait()
	return err
}

// Stats are what a relay has done so far.
type Stats struct {
	Connections, Cuts  int64
	ToServer, ToClient int64 // bytes that were passed on
}

// Stats returns the counts up to now.
func (r *Relay) Stats() Stats {
	return Stats{r.connections.Load(), r.cuts.Load(), r.toServer.Load(), r.toClient.Load()}
}

// relay carries one connection to its end.
func (r *Relay) relay(client *net.TCPConn) {
	r.connections.Add(1)
	ctx, cancel := context.WithCancel(r.life)
	defer cancel()
	left := int64(-1)
	if r.opts.Cut > 0 {
		r.mu.Lock()
		left = r.opts.Cut/2 + r.rand.Int64N(r.opts.Cut) + 1
		r.mu.Unlock()
	}
	_ = client.SetWriteBuffer(sendBuffer) // or more is lost by a cut
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", r.target)
	if err != nil {
		reset(client)
		return
	}
	server := conn.(*net.TCPConn)
	// Whatever blocks in either connection ends with ctx.
	end := context.AfterFunc(ctx, func() {
		reset(client)
		reset(server)
	})
	begin := time.Now().Add(r.opts.RoundTrip) // the handshake takes as long
	var both sync.WaitGroup
	both.Go(func() {
		if !r.pipe(ctx, server, client, begin, -1, &r.toServer) {
			cancel()
		}
	})
	both.Go(func() {
		if !r.pipe(ctx, client, server, begin, left, &r.toClient) {
			cancel()
		}
	})
	both.Wait()
	if end() {
		_ = client.Close() // both sides have said that they are done
		_ = server.Close()
	}
}

// part is bytes on their way.
type part struct {
	data []byte
	due  time.Time
}

// pipe moves bytes from src to dst until src ends, when it reports true and ends
// dst too, or something breaks. It cuts after left bytes unless that is negative.
func (r *Relay) pipe(ctx context.Context, dst, src *net.TCPConn, begin time.Time, left int64, moved *atomic.Int64) (whole bool) {
	room := semaphore.NewWeighted(r.opts.Buffer)
	way := make(chan part, r.opts.Buffer/1024)
	var reading sync.WaitGroup
	var broken error
	reading.Go(func() {
		defer close(way)
		broken = r.read(ctx, src, begin, room, way)
	})
	defer reading.Wait()
	failed := false
	for p := range way {
		room.Release(int64(len(p.data)))
		if failed {
			continue // to the end, so that the reader comes to its own
		}
		if !sleep(ctx, time.Until(p.due)) {
			failed = true
			continue
		}
		cut := left >= 0 && int64(len(p.data)) >= left
		if cut {
			p.data = p.data[:left]
		}
		n, err := dst.Write(p.data)
		moved.Add(int64(n))
		left -= min(int64(n), max(left, 0))
		if cut && err == nil {
			r.cuts.Add(1)
		}
		if cut || err != nil {
			failed = true
			reset(dst)
			reset(src) // the reader ends
		}
	}
	reading.Wait()
	return !failed && broken == nil && dst.CloseWrite() == nil
}

// read puts what comes from src on its way, as much as there is room for, until src ends.
func (r *Relay) read(ctx context.Context, src io.Reader, begin time.Time, room *semaphore.Weighted, way chan<- part) error {
	for {
		if err := room.Acquire(ctx, partSize); err != nil {
			return err
		}
		buf := make([]byte, partSize)
		n, err := src.Read(buf)
		room.Release(partSize - int64(n))
		sent := time.Now()
		if sent.Before(begin) {
			sent = begin
		}
		if n > 0 {
			way <- part{buf[:n], sent.Add(r.opts.RoundTrip / 2)}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// sleep reports whether it was let sleep to the end.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// reset ends a connection as a link that breaks and a router that notices do.
func reset(c *net.TCPConn) {
	_ = c.SetLinger(0) // or it is closed in order
	_ = c.Close()
}
