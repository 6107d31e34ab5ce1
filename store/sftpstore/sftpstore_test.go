package sftpstore_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pkg/sftp"
	"go.uber.org/goleak"

	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/internal/repo"
	"github.com/ociv2-sync/ociv2-sync/internal/repo/repotest"
	"github.com/ociv2-sync/ociv2-sync/internal/sftpserve"
	"github.com/ociv2-sync/ociv2-sync/internal/testutil"
	"github.com/ociv2-sync/ociv2-sync/store"
	"github.com/ociv2-sync/ociv2-sync/store/filestore"
	"github.com/ociv2-sync/ociv2-sync/store/sftpstore"
	"github.com/ociv2-sync/ociv2-sync/store/sshstore"
	"github.com/ociv2-sync/ociv2-sync/store/storetest"
)

// TestMain makes the test binary an ssh when it is started as one: what a host
// does is told by its name.
func TestMain(m *testing.M) {
	testutil.ActAsSSH("SFTPSTORE_TEST_IS_SSH", fakeSSH)
	goleak.VerifyTestMain(m)
}

func fakeSSH(args []string) error {
	host, command := args[len(args)-2], args[len(args)-1]
	var out io.Writer = os.Stdout
	switch host {
	case "denied":
		fmt.Fprintln(os.Stderr, "me@denied: Permission denied (publickey).")
		os.Exit(255)
	case "unreachable":
		fmt.Fprintln(os.Stderr, "ssh: connect to host: No route to host")
		os.Exit(255)
	case "motd":
		fmt.Println("Welcome to this host, where a shell says more than it is asked.")
	case "dies": // when it has said which version it speaks
		_, err := os.Stdout.WriteString("\x00\x00\x00\x05\x02\x00\x00\x00\x03")
		_, _ = io.CopyN(io.Discard, os.Stdin, 10) // and was asked for something
		if err == nil {
			os.Exit(255)
		}
		return err
	case "mute":
		_, err := io.Copy(io.Discard, os.Stdin)
		return err
	case "cut", "stuck":
		out = &testutil.Cut{W: out, Left: 150_000, Stuck: host == "stuck"}
	case "relayed":
		return through(os.Getenv(relayKey))
	case "later":
		return serveLater()
	case "blobs": // the first of which is blobs/0
		return sftpserve.Serve(context.Background(), stream{os.Stdin, out}, sftpserve.Options{
			Blobs: func([]byte, string) ([]string, error) { return []string{"blobs/0"}, nil },
		})
	case "go": // a server that is not ours, with a link and without fsync
		s, err := sftp.NewServer(stream{os.Stdin, out})
		if err != nil {
			return err
		}
		return s.Serve()
	}
	if command == "sftp" && host != "plain" || command != "sftp" && host == "plain" {
		fmt.Fprintln(os.Stderr, "sh: ociv2-sync: not found")
		os.Exit(127)
	}
	return sftpserve.Serve(context.Background(), stream{os.Stdin, out}, sftpserve.Options{})
}

type stream struct {
	io.ReadCloser
	io.Writer
}

func options(t *testing.T) sftpstore.Options {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return sftpstore.Options{SSH: sshstore.Options{Command: self, RetryWait: time.Millisecond, StallTimeout: 20 * time.Second}}
}

func open(t *testing.T, url string, o sftpstore.Options) *sftpstore.Dir {
	t.Helper()
	d, err := sftpstore.Open(url, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// Our server and OpenSSH's.
func TestSpace(t *testing.T) {
	sshd := testutil.StartSSHD(t, "")
	for _, url := range []string{"ssh://ours", "sftp://openssh"} {
		t.Run(strings.ReplaceAll(url, "/", ""), func(t *testing.T) {
			t.Parallel()
			repotest.Run(t, func(t *testing.T) repo.Space {
				o := options(t)
				if strings.HasSuffix(url, "openssh") {
					o.SSH.Command = sshd
				}
				return open(t, url+t.TempDir()+"/new", o)
			})
		})
	}
}

func TestStore(t *testing.T) {
	d := open(t, "ssh://ours"+t.TempDir(), options(t))
	for name, first := range map[string]bool{"asking": false, "listing": true} {
		t.Run(name, func(t *testing.T) {
			storetest.Run(t, func(t *testing.T, chunks map[chunk.ID]store.Packed) store.Store {
				fill := filestore.New(d, t.Name(), filestore.Options{})
				for id, p := range chunks {
					if err := fill.Put(t.Context(), id, p); err != nil {
						t.Fatal(err)
					}
				}
				return filestore.New(d, t.Name(), filestore.Options{ListFirst: first})
			})
		})
	}
}

// Servers of all kinds: one that is not ours and has fewer extensions, and one
// that is only to be had as a subsystem.
func TestServers(t *testing.T) {
	for _, url := range []string{"sftp://go", "ssh://go", "ssh://plain"} {
		d := open(t, url+t.TempDir(), options(t))
		for i, want := range []error{nil, store.ErrExists} {
			if err := d.Create(t.Context(), "dir/file", []byte("x")); !errors.Is(err, want) {
				t.Errorf("%s: create %d: %v", url, i, err)
			}
		}
		if err := d.Put(t.Context(), "dir/file", strings.NewReader("new"), 3); err != nil {
			t.Errorf("%s: %v", url, err)
		}
		if b, err := d.ReadFile(t.Context(), "dir/file", 3); string(b) != "new" || err != nil {
			t.Errorf("%s: %q, %v", url, b, err)
		}
	}
}

// A connection that breaks, or stops, again and again costs what was under way.
func TestCuts(t *testing.T) {
	for _, host := range []string{"cut", "stuck"} {
		t.Run(host, func(t *testing.T) {
			t.Parallel()
			o := options(t)
			if host == "stuck" {
				o.SSH.StallTimeout = 300 * time.Millisecond
			}
			dir := t.TempDir()
			want := strings.Repeat("0123456789", 10_000)
			for i := range 10 {
				if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), []byte(want), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			d := open(t, "ssh://"+host+dir, o)
			for i := range 10 {
				b, err := d.ReadFile(t.Context(), fmt.Sprint(i), 1<<20)
				if err != nil || string(b) != want {
					t.Fatalf("%d bytes, %v", len(b), err)
				}
				if err := d.Put(t.Context(), fmt.Sprint("copy", i), strings.NewReader(want), int64(len(want))); err != nil {
					t.Fatal(err)
				}
			}
			for i := range 10 {
				if b, err := os.ReadFile(filepath.Join(dir, fmt.Sprint("copy", i))); err != nil || string(b) != want {
					t.Errorf("copy %d: %d bytes, %v", i, len(b), err)
				}
			}
		})
	}
}

// Whoever cannot help is not asked again and again, and what it says is told.
func TestFailures(t *testing.T) {
	start := time.Now()
	for host, want := range map[string]string{
		"denied": "Permission denied", "unreachable": "No route", "motd": "", "mute": "nothing has arrived",
		"dies": "the connection broke", // each time it is asked for something
	} {
		o := options(t)
		o.SSH.Retries, o.SSH.StallTimeout = 2, 300*time.Millisecond
		var said strings.Builder
		o.SSH.Stderr = &said
		_, err := open(t, "ssh://"+host+t.TempDir(), o).ReadFile(t.Context(), "x", 1)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "ssh://"+host) {
			t.Errorf("%s: %v", host, err)
		}
		if n := strings.Count(said.String(), want); n != 1 && host != "motd" && host != "mute" && host != "dies" {
			t.Errorf("%s: it is said %d times: %q", host, n, said.String())
		}
		if network := errors.Is(err, store.ErrNetwork); network != (host == "unreachable" || host == "mute" || host == "dies") {
			t.Errorf("%s: is it the network? %v", host, err)
		}
	}
	if d := time.Since(start); d > 15*time.Second {
		t.Errorf("it took %v", d)
	}
	for _, url := range []string{"ssh://host", "sftp://", "sftp://-Fx/a", "sftp://me:secret@host/a"} {
		if _, err := sftpstore.Open(url, sftpstore.Options{}); !errors.Is(err, sshstore.ErrLocation) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", url, err)
		}
	}
}
