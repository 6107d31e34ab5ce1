package relay_test

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/ociv2-sync/ociv2-sync/internal/relay"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve gives everyone who connects the content, once it has said something.
func serve(t *testing.T, content []byte) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			if _, err := io.ReadFull(c, make([]byte, 5)); err == nil {
				_, _ = c.Write(content)
			}
			_ = c.Close()
		}
	}()
	t.Cleanup(func() {
		_ = ln.Close()
		<-done
	})
	return ln.Addr().String()
}

func get(t *testing.T, r *relay.Relay) ([]byte, error) {
	t.Helper()
	c, err := net.Dial("tcp", r.Addr())
	if err != nil {
		return nil, err // a relay may end connections at once
	}
	defer c.Close()
	if _, err := io.WriteString(c, "hello"); err != nil {
		return nil, err
	}
	return io.ReadAll(c)
}

// Everything comes, two round trips after the beginning, and not slower than
// without the delay.
func TestDelay(t *testing.T) {
	const rtt = 200 * time.Millisecond
	content := make([]byte, 20<<20)
	rand.NewChaCha8([32]byte{}).Read(content)
	r, err := relay.Listen(t.Context(), "127.0.0.1:0", serve(t, content), relay.Options{RoundTrip: rtt})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	begin := time.Now()
	got, err := get(t, r)
	took := time.Since(begin)
	if err != nil || !bytes.Equal(got, content) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if took < 2*rtt || took > 2*rtt+10*time.Second {
		t.Errorf("took %v", took)
	}
	if s := r.Stats(); s.Connections != 1 || s.Cuts != 0 || s.ToServer != 5 || s.ToClient != int64(len(content)) {
		t.Errorf("%+v", s)
	}
}

func TestCuts(t *testing.T) {
	content := make([]byte, 1<<20)
	r, err := relay.Listen(t.Context(), "127.0.0.1:0", serve(t, content), relay.Options{Cut: 100_000})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	const rounds = 20
	for range rounds {
		if got, err := get(t, r); err == nil || len(got) > 150_000 {
			t.Errorf("%d bytes, %v", len(got), err)
		}
	}
	s := r.Stats()
	if mean := s.ToClient / rounds; s.Connections != rounds || s.Cuts != rounds || mean < 70_000 || mean > 130_000 {
		t.Errorf("%+v", s)
	}
}

// Nobody listens behind the relay: the client sees its connection end.
func TestNoServer(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	target := ln.Addr().String()
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	r, err := relay.Listen(t.Context(), "127.0.0.1:0", target, relay.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if got, _ := get(t, r); len(got) != 0 {
		t.Errorf("%q", got)
	}
}
