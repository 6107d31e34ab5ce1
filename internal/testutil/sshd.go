package testutil

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// sshdConfig is for one key of the user that runs the test.
const sshdConfig = `
ListenAddress %[2]s
HostKey %[1]s/key
PidFile none
AuthorizedKeysFile %[1]s/authorized
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin yes
AcceptEnv *
Subsystem sftp internal-sftp
`

// StartSSHD runs OpenSSH's sshd on loopback until the test ends, and returns the
// path of an ssh that any host name takes to it, with the environment of the test.
// A forcedCommand, if it is not empty, is run in place of what a client asks for.
// The test is skipped when sshd or ssh is not installed.
func StartSSHD(t testing.TB, forcedCommand string) string {
	t.Helper()
	sshd, ssh, keygen := Tool(t, "sshd"), Tool(t, "ssh"), Tool(t, "ssh-keygen")
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	out, err := exec.Command(keygen, "-q", "-t", "ed25519", "-N", "", "-f", path("key")).CombinedOutput()
	if err != nil {
		t.Fatalf("ssh-keygen: %v\n%s", err, out)
	}
	key, err := os.ReadFile(path("key.pub"))
	must(t, err)
	if forcedCommand != "" {
		key = append(fmt.Appendf(nil, "restrict,command=%q ", forcedCommand), key...)
	}
	must(t, os.WriteFile(path("authorized"), key, 0o600))
	if os.Geteuid() == 0 { // where sshd confines the part of itself that listens
		must(t, os.MkdirAll("/run/sshd", 0o755))
	}

	// sshd takes no open socket, so a port is found, and another if it is taken.
	for range 5 {
		ln, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
		must(t, err)
		addr := ln.Addr().(*net.TCPAddr)
		must(t, ln.Close())
		must(t, os.WriteFile(path("config"), fmt.Appendf(nil, sshdConfig, dir, addr), 0o600))
		cmd := exec.Command(sshd, "-D", "-e", "-f", path("config"))
		var output bytes.Buffer
		cmd.Stderr = &output
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
		must(t, cmd.Start())
		stop := func() {
			_ = cmd.Process.Signal(syscall.SIGTERM)
			_ = cmd.Wait()
		}
		if !listening(addr) {
			stop()
			t.Logf("sshd does not listen: %s", output.Bytes())
			continue
		}
		t.Cleanup(stop)
		script := fmt.Sprintf(`#!/bin/sh
exec %s -F none -i %s/key -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -o HostName=127.0.0.1 -o Port=%d "$@"
`, ssh, dir, addr.Port)
		must(t, os.WriteFile(path("ssh"), []byte(script), 0o755))
		return path("ssh")
	}
	t.Fatal("sshd did not start")
	return ""
}

// listening waits until somebody listens at addr.
func listening(addr *net.TCPAddr) bool {
	for range 100 {
		conn, err := net.DialTCP("tcp4", nil, addr)
		if err == nil {
			return conn.Close() == nil
		}
		if !errors.Is(err, syscall.ECONNREFUSED) {
			return false
		}
		time.Sleep(50 * time.Millisecond)
	}
	return false
}
