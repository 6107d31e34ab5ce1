package sshstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"time"
)

// Process is one run of ssh.
type Process struct {
	// In and Out are what the far side reads and writes.
	In     io.WriteCloser
	Out    io.Reader
	cmd    *exec.Cmd
	stderr *tail
}

// Start runs ssh with arguments that precede the host, such as -s for a
// subsystem, and what is to be run there. Out is read no faster than the rate
// limit, and moved is called when something has come. End it with End.
func Start(at Location, o Options, moved func(), options []string, command string) (*Process, error) {
	if err := at.check(); err != nil {
		return nil, err
	}
	o = o.WithDefaults()
	var argv []string
	if at.Port != "" {
		argv = append(argv, "-p", at.Port)
	}
	argv = append(append(argv, options...), "--", at.Host, command)
	p := &Process{cmd: exec.Command(o.Command, argv...), stderr: &tail{to: o.Stderr}}
	p.cmd.Stderr = p.stderr
	p.cmd.WaitDelay = time.Second // what ssh leaves behind may hold on to stderr
	var err error
	if p.In, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, errors.Join(err, p.In.Close())
	}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("%s: %w", o.Command, err)
	}
	p.Out = &limited{ctx: context.Background(), r: out, limiter: newLimiter(o.RateLimit), moved: moved}
	return p, nil
}

// Kill ends ssh; what waits for it ends with it.
func (p *Process) Kill() { _ = p.cmd.Process.Kill() } // or it has ended before

// endTime is how long ssh has to end by itself.
const endTime = 2 * time.Second

// End closes the far side's input and waits for ssh to end, which it makes sure
// of. It returns the exit code, -1 if there is none, and the last that ssh or the
// far side had to say, to follow a message. Nothing is read from Out any more.
func (p *Process) End() (code int, said string) {
	_ = p.In.Close() // nothing was written that matters any more
	timer := time.AfterFunc(endTime, p.Kill)
	defer timer.Stop()
	_ = p.cmd.Wait()
	return p.cmd.ProcessState.ExitCode(), p.stderr.String()
}

// Denied reports whether what ssh said means that it will not let us in, however
// often it is asked.
func Denied(said string) bool {
	for _, s := range []string{"Permission denied", "Host key verification failed", "Too many authentication failures"} {
		if strings.Contains(said, s) {
			return true
		}
	}
	return false
}
