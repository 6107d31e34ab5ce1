package testutil

import (
	"fmt"
	"io"
	"os"
	"slices"
	"time"
)

// ActAsSSH makes the test binary an ssh where a test starts it as one, which the
// environment variable key says: ssh gets the arguments, the process ends with it, and an
// error goes to standard error. It is called by TestMain, and sets the variable for what
// the tests start.
func ActAsSSH(key string, ssh func(args []string) error) {
	// What fuzzes is started by the binary, too, and has the variable.
	if os.Getenv(key) != "" && !slices.Contains(os.Args, "-test.fuzzworker") {
		if err := ssh(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if err := os.Setenv(key, "1"); err != nil {
		panic(err)
	}
}

// Cut is what such an ssh writes to where the link breaks: the process ends as ssh does
// then, or writes no more if Stuck, after Left bytes.
type Cut struct {
	W     io.Writer
	Left  int
	Stuck bool
}

func (c *Cut) Write(p []byte) (int, error) {
	n, err := c.W.Write(p[:min(len(p), c.Left)])
	if c.Left -= n; c.Left == 0 {
		if c.Stuck {
			time.Sleep(time.Hour)
		}
		os.Exit(255)
	}
	return n, err
}
