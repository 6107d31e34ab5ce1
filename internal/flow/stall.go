package flow

import (
	"net"
	"time"
)

// Stalling returns a connection on which nothing may take longer than timeout: neither
// the next byte to come, nor what is written to leave.
func Stalling(conn net.Conn, timeout time.Duration) net.Conn {
	return &stalling{Conn: conn, timeout: timeout}
}

type stalling struct {
	net.Conn

	timeout time.Duration
}

func (c *stalling) Read(b []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(c.timeout)); err != nil {
		return 0, err
	}
	return c.Conn.Read(b)
}

func (c *stalling) Write(b []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(c.timeout)); err != nil {
		return 0, err
	}
	return c.Conn.Write(b)
}
