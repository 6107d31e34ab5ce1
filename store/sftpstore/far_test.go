package sftpstore_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ociv2-sync/ociv2-sync/internal/relay"
	"github.com/ociv2-sync/ociv2-sync/internal/sftpserve"
	"github.com/ociv2-sync/ociv2-sync/store"
	"github.com/ociv2-sync/ociv2-sync/store/sftpstore"
)

// relayKey names the variable that has the address behind which a server is.
const relayKey = "SFTPSTORE_TEST_RELAY"

// through is an ssh to what is at an address.
func through(address string) error {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(conn, os.Stdin)
		_ = conn.(*net.TCPConn).CloseWrite()
	}()
	if _, err := io.Copy(os.Stdout, conn); err != nil {
		os.Exit(255)
	}
	return nil
}

// behind serves a directory behind a relay.
func behind(t *testing.T, o relay.Options) (dir string, r *relay.Relay, d *sftpstore.Dir) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var busy sync.WaitGroup
	busy.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			busy.Go(func() { _ = sftpserve.Serve(t.Context(), conn.(*net.TCPConn), sftpserve.Options{}) })
		}
	})
	if r, err = relay.Listen(t.Context(), "127.0.0.1:0", ln.Addr().String(), o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(r.Close(), ln.Close()); err != nil {
			t.Error(err)
		}
		busy.Wait()
	})
	t.Setenv(relayKey, r.Addr())
	dir = t.TempDir()
	return dir, r, open(t, "ssh://relayed"+dir, options(t))
}

func writeFile(t *testing.T, dir, name string, size int) []byte {
	t.Helper()
	b := make([]byte, size)
	rand.NewChaCha8([32]byte{byte(size), byte(size >> 8)}).Read(b)
	if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
		t.Fatal(err)
	}
	return b
}

// A file takes one round trip from this program and two from others, however many are
// read at a time.
func TestRoundTrips(t *testing.T) {
	for scheme, trips := range map[string]time.Duration{"ssh": 1, "sftp": 2} {
		t.Run(scheme, func(t *testing.T) { roundTrips(t, scheme, trips) })
	}
}

func roundTrips(t *testing.T, scheme string, trips time.Duration) {
	const rtt = 400 * time.Millisecond
	const chunks, size = 64, 25_000
	dir, _, _ := behind(t, relay.Options{RoundTrip: rtt})
	d := open(t, scheme+"://relayed"+dir, options(t))
	chunk := writeFile(t, dir, "chunk", size)
	tag := writeFile(t, dir, "tag", 9_000)
	blob := writeFile(t, dir, "blob", 400_000)
	delta := writeFile(t, dir, "delta", 1<<20)
	if _, err := d.Stat(t.Context(), "chunk"); err != nil { // connects
		t.Fatal(err)
	}
	read := func(name string, limit int64, want []byte) error {
		b, err := d.ReadFile(t.Context(), name, limit)
		if err == nil && !bytes.Equal(b, want) {
			err = fmt.Errorf("%s: %d other bytes", name, len(b))
		}
		return err
	}
	for name, f := range map[string]func() error{
		"chunks": func() error {
			var g errgroup.Group
			for range chunks {
				g.Go(func() error { return read("chunk", size, chunk) })
			}
			return g.Wait()
		},
		"chunk of unknown size": func() error { return read("chunk", 100_000, chunk) },
		"tag":                   func() error { return read("tag", 16<<20, tag) },
		"blob":                  func() error { return read("blob", 400_000, blob) },
		"section": func() error {
			f, err := d.OpenAt(t.Context(), "delta", 10, 1<<20-10)
			if err != nil {
				return err
			}
			b, err := io.ReadAll(f)
			if err == nil && !bytes.Equal(b, delta[10:]) {
				err = errors.New("other bytes")
			}
			return errors.Join(err, f.Close())
		},
	} {
		trips := trips
		if name == "section" {
			trips = 2 // by anybody
		}
		// A busy machine is slow at times, but not always; and it takes a while to find
		// out how much is to be asked for at a time.
		var took time.Duration
		for range 8 {
			begin := time.Now()
			if err := f(); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if took = time.Since(begin); took < (trips+1)*rtt {
				break
			}
		}
		if took < trips*rtt || took >= (trips+1)*rtt {
			t.Errorf("%s took %v, %.1f round trips", name, took, took.Seconds()/rtt.Seconds())
		}
	}
}

// What is longer than a connection lasts comes nevertheless, and little of it twice.
func TestBreaks(t *testing.T) {
	const long, size, chunks = 900_000, 25_000, 40
	dir, r, d := behind(t, relay.Options{RoundTrip: 10 * time.Millisecond, Cut: 300_000})
	blob := writeFile(t, dir, "blob", long)
	chunk := writeFile(t, dir, "chunk", size)
	for _, limit := range []int64{long, 16 << 20} {
		if b, err := d.ReadFile(t.Context(), "blob", limit); err != nil || !bytes.Equal(b, blob) {
			t.Errorf("%d bytes, %v", len(b), err)
		}
	}
	if _, err := d.ReadFile(t.Context(), "blob", long-1); !errors.Is(err, store.ErrTooLarge) {
		t.Errorf("one byte too many: %v", err)
	}
	f, err := d.OpenAt(t.Context(), "blob", 0, long)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(f); err != nil || !bytes.Equal(b, blob) {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	var g errgroup.Group
	for range chunks {
		g.Go(func() error {
			b, err := d.ReadFile(t.Context(), "chunk", size)
			if err == nil && !bytes.Equal(b, chunk) {
				err = fmt.Errorf("%d other bytes", len(b))
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
	const least = 4*long + chunks*size
	s := r.Stats()
	t.Logf("%+v", s)
	if s.Cuts < 10 || s.ToClient > least*3/2 {
		t.Errorf("%+v, at least %d bytes", s, least)
	}
}

// A file that is longer than what one connection takes is written all the same.
func TestWriteBreaks(t *testing.T) {
	const long = 2_000_000
	// Of a write, the client gets 28 bytes for each 32 KiB.
	dir, r, d := behind(t, relay.Options{RoundTrip: 10 * time.Millisecond, Cut: 900})
	data := make([]byte, long)
	rand.NewChaCha8([32]byte{}).Read(data)
	if err := d.Put(t.Context(), "blob", bytes.NewReader(data), long); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "blob")); err != nil || !bytes.Equal(b, data) {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("%v, %v", entries, err)
	}
	s := r.Stats()
	t.Logf("%+v", s)
	if s.Cuts == 0 || s.ToServer > 2*long {
		t.Errorf("%+v for %d bytes", s, long)
	}
}

// A file that is replaced while a broken connection is made again is one of the two.
func TestReplacedBetween(t *testing.T) {
	dir, r, d := behind(t, relay.Options{RoundTrip: 10 * time.Millisecond, Cut: 300_000})
	old, replacement := writeFile(t, dir, "blob", 900_000), writeFile(t, dir, "new", 600_000)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for r.Stats().Cuts == 0 {
			time.Sleep(time.Millisecond)
		}
		if err := os.Rename(filepath.Join(dir, "new"), filepath.Join(dir, "blob")); err != nil {
			t.Error(err)
		}
	}()
	b, err := d.ReadFile(t.Context(), "blob", 1<<20)
	<-done
	if err != nil || !bytes.Equal(b, replacement) && !bytes.Equal(b, old) {
		t.Errorf("%d bytes, %v", len(b), err)
	}
}
