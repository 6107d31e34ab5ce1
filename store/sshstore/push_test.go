package sshstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ociv2-sync/ociv2-sync/caibx"
	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/internal/casyncproto"
	"github.com/ociv2-sync/ociv2-sync/internal/testutil"
	"github.com/ociv2-sync/ociv2-sync/store"
	"github.com/ociv2-sync/ociv2-sync/store/local"
	"github.com/ociv2-sync/ociv2-sync/store/sshstore"
)

// servePush is the far side of a push; args are those behind the verb.
func servePush(host string, args []string) error {
	switch host {
	case "255":
		os.Exit(255)
	case "refuses": // as what knows no such verb
		fmt.Fprintln(os.Stderr, `unknown command "push"`)
		os.Exit(1)
	}
	var in io.Reader = os.Stdin
	if host == "cut" {
		in = &cutInput{r: in, left: 150_000}
	}
	c := casyncproto.NewConn(in, os.Stdout, os.Stdin.Close)
	offers := casyncproto.WritableIndex | casyncproto.WritableStore
	switch host {
	case "readonly":
		offers = casyncproto.ReadableStore
		fallthrough
	case "liar", "stuck", "dies":
		if err := c.Hello(offers); err != nil {
			return err
		}
		if host == "liar" {
			if err := errors.Join(c.Request(chunk.ID{42}), c.Flush()); err != nil {
				return err
			}
		}
		if host == "dies" {
			if _, err := io.CopyN(io.Discard, os.Stdin, 100); err != nil {
				return err
			}
			fmt.Fprintln(os.Stderr, "the disk is on fire")
			os.Exit(7)
		}
		_, err := io.Copy(io.Discard, os.Stdin)
		return err
	}
	if args[1] != "-" {
		return casyncproto.ServePush(context.Background(), c, casyncproto.Target{Archive: func(r io.Reader) error {
			b, err := io.ReadAll(r)
			return errors.Join(err, os.WriteFile(args[1], b, 0o644))
		}})
	}
	s, err := local.Open(args[3], local.Options{Create: true})
	if err != nil {
		return err
	}
	defer s.Close()
	return casyncproto.ServePush(context.Background(), c, casyncproto.Target{Store: s, Index: func(x *caibx.Index) error {
		var b bytes.Buffer
		_, err := x.WriteTo(&b)
		return errors.Join(err, os.WriteFile(args[2], b.Bytes(), 0o644))
	}})
}

// cutInput ends the program when so much has been read.
type cutInput struct {
	r    io.Reader
	left int
}

func (c *cutInput) Read(p []byte) (int, error) {
	n, err := c.r.Read(p[:min(len(p), c.left)])
	if c.left -= n; c.left == 0 {
		os.Exit(255)
	}
	return n, err
}

// makeIndex makes n chunks of 10 kB in a store and an index of them.
func makeIndex(t *testing.T, n int) (*caibx.Index, *local.Store) {
	t.Helper()
	s, err := local.Open(t.TempDir(), local.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	x := &caibx.Index{FeatureFlags: 1 << 61, Params: chunk.DefaultParams()}
	packer := store.NewPacker(0, x.Params.Max)
	noise := rand.NewChaCha8([32]byte{byte(n)})
	for i := range n {
		data := make([]byte, 10_000+16_384)
		if _, err := noise.Read(data[:10_000]); err != nil {
			t.Fatal(err)
		}
		id := x.Algorithm().Sum(data)
		if err := s.Put(t.Context(), id, packer.Pack(nil, data)); err != nil {
			t.Fatal(err)
		}
		x.Chunks = append(x.Chunks, caibx.Chunk{End: uint64((i + 1) * len(data)), ID: id})
	}
	return x, s
}

// checkPushed checks that an index and all its chunks are there.
func checkPushed(t *testing.T, x *caibx.Index, at, dir string) {
	t.Helper()
	var want bytes.Buffer
	if _, err := x.WriteTo(&want); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(at); err != nil || !bytes.Equal(got, want.Bytes()) {
		t.Errorf("the index: %d bytes of %d, %v", len(got), want.Len(), err)
	}
	s, err := local.Open(dir, local.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, k := range x.Chunks {
		if _, err := s.Get(t.Context(), k.ID, 1<<20); err != nil {
			t.Error(err)
		}
	}
}

func pushIndex(ctx context.Context, at sshstore.Location, dir string, x *caibx.Index, chunks store.Store, o sshstore.Options) (sshstore.Pushed, error) {
	p, err := sshstore.OpenPush(ctx, at, dir, o)
	if err != nil {
		return sshstore.Pushed{}, err
	}
	defer p.Close()
	return p.Index(ctx, x, chunks)
}

// A push sends what is not there, also to casync, and over a connection that
// breaks more often than is borne where nothing comes further.
func TestPushIndex(t *testing.T) {
	x, chunks := makeIndex(t, 100)
	for _, host := range []string{"ours", "cut", "casync"} {
		dir := t.TempDir()
		var log bytes.Buffer
		o := options(t)
		o.Logger = slog.New(slog.NewTextHandler(&log, nil))
		if host == "casync" {
			o.Command, o.Remote = shell(t), testutil.Tool(t, "casync")
		}
		at, castr := filepath.Join(dir, "x.caibx"), filepath.Join(dir, "x.castr")
		for _, want := range []int{100, 0} {
			pushed, err := pushIndex(t.Context(), sshstore.Location{Host: host, Path: at}, castr, x, chunks, o)
			if err != nil || pushed.Chunks != want || (pushed.Bytes > int64(want)*10_000) != (want > 0) {
				t.Errorf("%s: %+v, %v; %d chunks expected", host, pushed, err, want)
			}
			checkPushed(t, x, at, castr)
		}
		if again := strings.Count(log.String(), "connecting again"); (again > 5) != (host == "cut") {
			t.Errorf("%s: %d new connections\n%s", host, again, &log)
		}
	}
}

func TestPushArchive(t *testing.T) {
	want := bytes.Repeat([]byte("archive"), 100_000)
	write := func(w io.Writer) error { _, err := w.Write(want); return err }
	at := filepath.Join(t.TempDir(), "x.catar")
	if err := sshstore.PushArchive(t.Context(), sshstore.Location{Host: "ours", Path: at}, write, options(t)); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(at); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes of %d, %v", len(got), len(want), err)
	}
	boom := errors.New("boom")
	fails := func(w io.Writer) error { return errors.Join(write(w), boom) }
	at += ".2"
	err := sshstore.PushArchive(t.Context(), sshstore.Location{Host: "ours", Path: at}, fails, options(t))
	if _, staterr := os.Stat(at); !errors.Is(err, boom) || errors.Is(err, store.ErrNetwork) || staterr == nil {
		t.Errorf("what could not be read: %v; there: %v", err, staterr)
	}
	// It is not begun anew.
	err = sshstore.PushArchive(t.Context(), sshstore.Location{Host: "cut", Path: at}, write, options(t))
	if !errors.Is(err, store.ErrNetwork) {
		t.Errorf("cut: %v", err)
	}
}

func TestPushFailures(t *testing.T) {
	x, chunks := makeIndex(t, 30)
	dir := t.TempDir()
	if err := os.Mkdir(dir+"/x.caibx", 0o755); err != nil {
		t.Fatal(err)
	}
	push := func(ctx context.Context, host string, o sshstore.Options) error {
		_, err := pushIndex(ctx, sshstore.Location{Host: host, Path: dir + "/x.caibx"}, dir+"/x.castr", x, chunks, o)
		return err
	}
	for host, c := range map[string]struct {
		is   error
		says string
	}{
		"dies":     {nil, `failed with exit code 7: "the disk is on fire"`},
		"refuses":  {nil, `failed with exit code 1: "unknown command \"push\""`},
		"liar":     {casyncproto.ErrProtocol, "none of the index"},
		"readonly": {casyncproto.ErrProtocol, "does not offer"},
		"stuck":    {store.ErrNetwork, "for too long"},
		"ours":     {nil, "is a directory"}, // where the index would be
	} {
		o := options(t)
		o.Retries = -1
		if host == "stuck" {
			o.StallTimeout = 100 * time.Millisecond
		}
		err := push(t.Context(), host, o)
		if err == nil || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), host+":"+dir) ||
			c.is != nil && !errors.Is(err, c.is) || c.is == nil && errors.Is(err, store.ErrNetwork) {
			t.Errorf("%s: %v", host, err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	start := time.Now()
	if err := push(ctx, "stuck", options(t)); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > 5*time.Second {
		t.Errorf("%v after %v", err, time.Since(start))
	}
	// One that nothing is sent by leaves nothing behind; a connection that has ended
	// by the time that something is to be sent is made again.
	at := sshstore.Location{Host: "ours", Path: dir + "/z.caibx"}
	p, err := sshstore.OpenPush(t.Context(), at, dir+"/z.castr", options(t))
	if err != nil {
		t.Fatal(err)
	}
	p.Close()
	if _, err := os.Stat(at.Path); err == nil {
		t.Error("an index that was not sent is there")
	}
	if pushed, err := p.Index(t.Context(), x, chunks); err != nil || pushed.Chunks != 30 {
		t.Errorf("%+v, %v", pushed, err)
	}
	if _, err := sshstore.OpenPush(t.Context(), sshstore.Location{Host: "255", Path: at.Path}, dir, options(t)); !errors.Is(err, store.ErrNetwork) {
		t.Errorf("nobody there: %v", err)
	}
	// A chunk that is not here after all is no failure of the network.
	empty, err := local.Open(t.TempDir(), local.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer empty.Close()
	_, err = pushIndex(t.Context(), sshstore.Location{Host: "ours", Path: dir + "/y.caibx"}, t.TempDir(), x, empty, options(t))
	if err == nil || errors.Is(err, store.ErrNetwork) {
		t.Errorf("no chunks: %v", err)
	}
}
