package httpstore

import (
	"io"
	"net"
	"net/http"
	"time"
)

// stallConn is a connection on which nothing may take longer than timeout.
type stallConn struct {
	net.Conn
	timeout time.Duration
}

func (c *stallConn) Read(b []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(c.timeout)); err != nil {
		return 0, err
	}
	return c.Conn.Read(b)
}

func (c *stallConn) Write(b []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(c.timeout)); err != nil {
		return 0, err
	}
	return c.Conn.Write(b)
}

// countingTransport counts every request and every body byte for the client.
type countingTransport struct {
	client *Client
	next   *http.Transport
}

func (t *countingTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	t.client.requests.Add(1)
	resp, err := t.next.RoundTrip(r)
	if err == nil {
		resp.Body = &countingBody{ReadCloser: resp.Body, client: t.client}
	}
	return resp, err
}

// CloseIdleConnections lets [http.Client.CloseIdleConnections] through.
func (t *countingTransport) CloseIdleConnections() { t.next.CloseIdleConnections() }

type countingBody struct {
	io.ReadCloser
	client *Client
}

func (b *countingBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.client.bodyBytes.Add(int64(n))
	return n, err
}
