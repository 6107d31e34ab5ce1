package s3store

import (
	"context"
	"net"
)

// DialAt has d connect to an address, whatever host it asks for.
func (d *Dir) DialAt(address string) {
	d.tr.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, address)
	}
	d.reads.DialContext = d.tr.DialContext
}
