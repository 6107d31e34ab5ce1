package main

import (
	"errors"
	"io"
	"testing"
)

func TestMessage(t *testing.T) {
	for _, c := range []struct{ err, want string }{
		{"disk on fire", "disk on fire"},
		{"store", "store"},
		{"transfer: httpstore: http://h:80/a/b.json: status 404 Not Found", "http://h:80/a/b.json: status 404 Not Found"},
		{"lock: sftpstore: ssh://h/srv: network failure", "lock: ssh://h/srv: network failure"},
		{"http://h/x: network failure: dial tcp 127.0.0.1:1: connect: connection refused", "http://h/x: network failure: connection refused"},
		{"http://h/x: network failure: dial tcp: lookup h on 10.0.0.1:53: no such host", "http://h/x: network failure: no such host"},
		{"docker://h/x: not found: h/x:latest: not found", "docker://h/x: not found: h/x:latest"},
		{"tar:x: malformed image: archive/tar: invalid tar header", "tar:x: malformed image: invalid tar header"},
		{"https://h/x: unexpected EOF", "https://h/x: it ended too early"},
		{`ssh://h/x: ssh: error receiving version packet from server: server unexpectedly closed connection: unexpected EOF: "ssh: no"`, `ssh://h/x: ssh: it ended too early: "ssh: no"`},
		{"a\x1b[31m\nb: c", "a [31m b: c"},
		{"open repo: permission denied", "open repo: permission denied"},
		{`seed: open "a: b": no such file`, `open "a: b": no such file`},
	} {
		if got := message(errors.New(c.err)); got != c.want {
			t.Errorf("%q is told as %q, not %q", c.err, got, c.want)
		}
	}
}

// A result that cannot be printed is a failure.
func TestResultLost(t *testing.T) {
	t.Parallel()
	env := func(name string) (string, bool) { return t.TempDir(), name == "OCIV2_SYNC_ROOT" }
	if code := run([]string{"--version"}, &failingWriter{}, io.Discard, env); code != exitFailed {
		t.Errorf("exit code %d", code)
	}
}

type failingWriter struct{}

func (*failingWriter) Write([]byte) (int, error) { return 0, errors.New("full") }
