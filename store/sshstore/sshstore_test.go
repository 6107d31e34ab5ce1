package sshstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/folbricht/desync"
	"go.uber.org/goleak"

	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/internal/casyncproto"
	"github.com/ociv2-sync/ociv2-sync/internal/testutil"
	"github.com/ociv2-sync/ociv2-sync/store"
	"github.com/ociv2-sync/ociv2-sync/store/local"
	"github.com/ociv2-sync/ociv2-sync/store/sshstore"
	"github.com/ociv2-sync/ociv2-sync/store/storetest"
)

// TestMain makes the test binary an ssh when it is started as one: what a host
// does is told by its name.
func TestMain(m *testing.M) {
	testutil.ActAsSSH("SSHSTORE_TEST_IS_SSH", fakeSSH)
	goleak.VerifyTestMain(m)
}

func fakeSSH(args []string) error {
	if len(args) != 3 || args[0] != "--" {
		return fmt.Errorf("ssh is called with %q", args)
	}
	host, command := args[1], args[2]
	path := strings.Trim(command[strings.LastIndex(command, " ")+1:], "'")
	if args := strings.Fields(command); args[1] == "push" {
		return servePush(host, args[2:])
	}
	switch host {
	case "255":
		fmt.Fprintln(os.Stderr, "ssh: no route")
		os.Exit(255)
	case "denied":
		fmt.Fprintln(os.Stderr, "me@denied: Permission denied (publickey).")
		os.Exit(255)
	case "mute":
		_, err := io.Copy(io.Discard, os.Stdin)
		return err
	case "liar":
		return lie()
	case "desync":
		s, err := desync.NewLocalStore(path, desync.StoreOptions{})
		if err != nil {
			return err
		}
		return desync.NewProtocolServer(os.Stdin, os.Stdout, s).Serve(context.Background())
	}
	s, err := local.Open(path, local.Options{})
	if err != nil {
		return err
	}
	defer s.Close()
	var out io.Writer = os.Stdout
	switch host {
	case "cut", "stuck":
		out = &testutil.Cut{W: out, Left: 3000, Stuck: host == "stuck"}
	}
	conn := casyncproto.NewConn(os.Stdin, out, os.Stdin.Close)
	return casyncproto.ServePull(context.Background(), conn, casyncproto.Source{Store: s})
}

// lie answers a request with a chunk that nobody wants.
func lie() error {
	c := casyncproto.NewConn(os.Stdin, os.Stdout, os.Stdin.Close)
	if err := c.Hello(casyncproto.ReadableStore); err != nil {
		return err
	}
	if _, err := c.Read(); err != nil {
		return err
	}
	if _, err := c.Read(); err != nil {
		return err
	}
	if err := errors.Join(c.Chunk(chunk.ID{42}, []byte("data")), c.Flush()); err != nil {
		return err
	}
	_, err := c.Read()
	return err
}

// directory makes a chunk store.
func directory(t *testing.T, chunks map[chunk.ID]store.Packed) string {
	t.Helper()
	dir := t.TempDir()
	s, err := local.Open(dir, local.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for id, p := range chunks {
		if err := s.Put(t.Context(), id, p); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// options returns those by which the test binary is ssh.
func options(t *testing.T) sshstore.Options {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return sshstore.Options{Command: self, RetryWait: time.Millisecond, StallTimeout: 20 * time.Second, Stderr: t.Output()}
}

func open(t *testing.T, host, dir string, o sshstore.Options) *sshstore.Store {
	t.Helper()
	s, err := sshstore.New(sshstore.Location{Host: host, Path: dir}, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// Our server sends raw chunks compressed, so the suite gets compressed ones.
func TestStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T, chunks map[chunk.ID]store.Packed) store.Store {
		return &raw{open(t, "ours", directory(t, chunks), options(t)), chunks}
	})
}

// raw gives those chunks raw again that are raw in the store.
type raw struct {
	*sshstore.Store
	chunks map[chunk.ID]store.Packed
}

func (r *raw) Get(ctx context.Context, id chunk.ID, limit int64) (store.Packed, error) {
	want := r.chunks[id]
	if want.Form != store.Raw {
		return r.Store.Get(ctx, id, limit)
	}
	p, err := r.Store.Get(ctx, id, 1<<20)
	if err != nil {
		return p, err
	}
	data, err := store.Unpack(nil, p, chunk.SHA512_256, id, uint64(len(want.Data)))
	if err == nil && int64(len(data)) > limit {
		err = store.ErrTooLarge
	}
	return store.Packed{Form: store.Raw, Data: data}, err
}

// getAll gets chunks, each twice, all at once.
func getAll(t *testing.T, s store.Store, chunks map[chunk.ID]store.Packed) {
	t.Helper()
	var wg sync.WaitGroup
	for id, want := range chunks {
		wg.Go(func() {
			p, err := s.Get(t.Context(), id, 1<<20)
			if err != nil || want.Form == store.Compressed && !bytes.Equal(p.Data, want.Data) {
				t.Errorf("%s: %d bytes, %v", id, len(p.Data), err)
			}
		})
	}
	wg.Wait()
	if _, err := s.Get(t.Context(), chunk.ID{1}, 1<<20); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("absent: %v", err)
	}
}

// However many chunks are wanted at once, one connection brings them.
func TestOneConnection(t *testing.T) {
	chunks := storetest.Chunks(300)
	s := open(t, "ours", directory(t, chunks), options(t))
	getAll(t, s, chunks)
	if got := s.Stats(); got.Connections != 1 {
		t.Errorf("%+v", got)
	}
}

// A store that is warm has its connection before a chunk is wanted, and no other one.
func TestWarm(t *testing.T) {
	chunks := storetest.Chunks(10)
	s := open(t, "ours", directory(t, chunks), options(t))
	s.Warm()
	s.Warm()
	for begin := time.Now(); s.Stats().Connections == 0; time.Sleep(time.Millisecond) {
		if time.Since(begin) > 20*time.Second {
			t.Fatal("it does not connect")
		}
	}
	getAll(t, s, chunks)
	if got := s.Stats(); got.Connections != 1 {
		t.Errorf("%+v", got)
	}
	// Those that do not answer are not waited for, and those that fail are tried again.
	begin := time.Now()
	mute, err := sshstore.New(sshstore.Location{Host: "mute", Path: "/"}, options(t))
	if err != nil {
		t.Fatal(err)
	}
	mute.Warm()
	if err := mute.Close(); err != nil || time.Since(begin) > 15*time.Second {
		t.Errorf("%v after %v", err, time.Since(begin))
	}
	down := open(t, "255", t.TempDir(), options(t)).Once()
	down.Warm()
	if _, err := down.Get(t.Context(), chunk.ID{1}, 100); !errors.Is(err, store.ErrNetwork) || !strings.Contains(err.Error(), "no route") {
		t.Error(err)
	}
}

// desync's server answers what we send ahead.
func TestDesyncServer(t *testing.T) {
	chunks := storetest.Chunks(100)
	for id, p := range chunks {
		if p.Form == store.Raw {
			delete(chunks, id) // which it does not look for
		}
	}
	s := open(t, "desync", directory(t, chunks), options(t))
	for id := range chunks { // it compresses anew
		if _, err := s.Get(t.Context(), id, 1<<20); err != nil {
			t.Fatal(err)
		}
	}
	if got := s.Stats(); got.Connections != 1 {
		t.Errorf("%+v", got)
	}
}

// shell is an ssh that runs the command here.
func shell(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ssh")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n[ \"$1\" = -- ] && shift\nshift\nexec sh -c \"$*\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// casync's server does so too; and it gives indexes and archives.
func TestCasyncServer(t *testing.T) {
	casync := testutil.Tool(t, "casync")
	dir := filepath.Join(t.TempDir(), "a 'quoted' $dir")
	path := func(name string) string { return filepath.Join(dir, name) }
	if err := os.MkdirAll(path("tree"), 0o755); err != nil {
		t.Fatal(err)
	}
	data := make([]byte, 3_000_000)
	if _, err := rand.NewChaCha8([32]byte{}).Read(data); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path("tree/file"), data, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"make", path("x.caidx"), path("tree")}, {"make", path("x.catar"), path("tree")}} {
		if out, err := exec.CommandContext(t.Context(), casync, args...).CombinedOutput(); err != nil {
			t.Fatalf("casync %v: %v\n%s", args, err, out)
		}
	}
	chunks := make(map[chunk.ID]store.Packed)
	l, err := local.Open(path("default.castr"), local.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	files, err := filepath.Glob(path("default.castr/*/*.cacnk"))
	if err != nil || len(files) < 10 {
		t.Fatalf("%d chunks, %v", len(files), err)
	}
	for _, f := range files {
		id, err := chunk.ParseID(strings.TrimSuffix(filepath.Base(f), ".cacnk"))
		if err != nil {
			t.Fatal(err)
		}
		if chunks[id], err = l.Get(t.Context(), id, 1<<20); err != nil {
			t.Fatal(err)
		}
	}
	o := options(t)
	o.Command, o.Remote = shell(t), casync
	s := open(t, "host", path("default.castr"), o)
	getAll(t, s, chunks)
	if got := s.Stats(); got.Connections != 1 {
		t.Errorf("%+v", got)
	}
	// It answers a request for a chunk once for each connection.
	getAll(t, s, chunks)
	if got := s.Stats(); got.Connections != 2 {
		t.Errorf("%+v", got)
	}
	at := sshstore.Location{Host: "host", Path: path("x.caidx")}
	want, err := os.ReadFile(path("x.caidx"))
	if err != nil {
		t.Fatal(err)
	}
	if b, err := sshstore.Index(t.Context(), at, 1<<20, o); err != nil || !bytes.Equal(b, want) {
		t.Errorf("index: %d bytes, %v", len(b), err)
	}
	if _, err := sshstore.Index(t.Context(), at, int64(len(want))-1, o); !errors.Is(err, store.ErrTooLarge) {
		t.Errorf("index over the limit: %v", err)
	}
	if want, err = os.ReadFile(path("x.catar")); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	at.Path = path("x.catar")
	if err := sshstore.Archive(t.Context(), at, &b, o); err != nil || !bytes.Equal(b.Bytes(), want) {
		t.Errorf("archive: %d bytes, %v", b.Len(), err)
	}
	at.Path = path("absent.caidx")
	if _, err := sshstore.Index(t.Context(), at, 1<<20, o); err == nil || !strings.Contains(err.Error(), "No such file") || errors.Is(err, store.ErrNetwork) {
		t.Errorf("absent index: %v", err)
	}
}

// A connection that breaks, or stops, again and again is made again, and only
// what had not arrived is requested on it.
func TestCuts(t *testing.T) {
	chunks := storetest.Chunks(100)
	var total int64
	for _, p := range chunks {
		total += int64(len(p.Data))
	}
	for _, host := range []string{"cut", "stuck"} {
		o := options(t)
		if host == "stuck" {
			o.StallTimeout = time.Second
		}
		s := open(t, host, directory(t, chunks), o)
		getAll(t, s, chunks)
		if got := s.Stats(); got.Connections < 2 || got.Bytes > total {
			t.Errorf("%s: %+v for %d bytes", host, got, total)
		}
	}
}

func TestFailures(t *testing.T) {
	dir := directory(t, storetest.Chunks(1))
	start := time.Now()
	for host, want := range map[string]error{"255": store.ErrNetwork, "mute": store.ErrNetwork, "liar": casyncproto.ErrProtocol} {
		o := options(t)
		o.Retries = 2
		var said strings.Builder
		o.Stderr = &said
		if host == "mute" {
			o.StallTimeout = 300 * time.Millisecond
		}
		_, err := open(t, host, dir, o).Get(t.Context(), chunk.ID{1}, 100)
		if !errors.Is(err, want) || !strings.Contains(err.Error(), host+":"+dir) {
			t.Errorf("%s: %v", host, err)
		}
		if host == "255" && !strings.Contains(err.Error(), "no route") {
			t.Errorf("%s: %v does not say what ssh said", host, err)
		}
		if host == "255" && said.String() != "ssh: no route\n" {
			t.Errorf("three attempts said %q", said.String())
		}
	}
	if d := time.Since(start); d > 15*time.Second {
		t.Errorf("it took %v", d)
	}
	_, err := open(t, "denied", dir, options(t)).Get(t.Context(), chunk.ID{1}, 100)
	if err == nil || errors.Is(err, store.ErrNetwork) || !strings.Contains(err.Error(), "Permission denied") {
		t.Errorf("no way in: %v", err)
	}
	_, err = open(t, "ours", dir+"/absent", options(t)).Get(t.Context(), chunk.ID{1}, 100)
	if err == nil || errors.Is(err, store.ErrNetwork) || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("no store: %v", err)
	}
	o := options(t)
	o.Command = "/absent/ssh"
	if _, err := open(t, "ours", dir, o).Get(t.Context(), chunk.ID{1}, 100); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no ssh: %v", err)
	}
}

func TestLocations(t *testing.T) {
	for s, want := range map[string]sshstore.Location{
		"ssh://host/a/b":                {Host: "host", Path: "/a/b"},
		"ssh://me@host:22/a":            {Host: "me@host", Port: "22", Path: "/a"},
		"ssh://host/~/a":                {Host: "host", Path: "a"},
		"ssh://[::1]/a":                 {Host: "::1", Path: "/a"},
		"ssh://host":                    {},
		"ssh://host/":                   {},
		"ssh:///a":                      {},
		"ssh://me:secret@host/a":        {},
		"ssh://-Fx/a":                   {},
		"ssh://-oProxyCommand=x@host/a": {}, "ssh://host/a?b": {}, "http://host/a": {}, "ssh://%20/a": {},
	} {
		got, err := sshstore.ParseURL(s)
		if got != want && want != (sshstore.Location{}) || (err == nil) != (want != sshstore.Location{}) {
			t.Errorf("%s: %+v, %v", s, got, err)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%v", err)
		}
	}
	for s, want := range map[string]sshstore.Location{
		"host:a":     {Host: "host", Path: "a"},
		"me@host:/a": {Host: "me@host", Path: "/a"},
		"./a:b":      {}, "/a:b": {}, "a": {}, "host:": {}, ":a": {}, "-Fx:a": {}, "http://host": {}, "x y:a": {},
	} {
		if got, ok := sshstore.ParseLocator(s); got != want && ok || ok != (want != sshstore.Location{}) {
			t.Errorf("%s: %+v, %t", s, got, ok)
		}
	}
}

// desync's client reads from our server.
func TestDesyncClient(t *testing.T) {
	chunks := storetest.Chunks(20)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("CASYNC_SSH_PATH", self)
	s, err := desync.NewRemoteSSHStore(&url.URL{Host: "ours", Path: directory(t, chunks)}, desync.StoreOptions{N: 2})
	if err != nil {
		t.Fatal(err)
	}
	for id := range chunks {
		for range 2 {
			c, err := s.GetChunk(desync.ChunkID(id))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.Data(); err != nil {
				t.Errorf("%s: %v", id, err)
			}
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
