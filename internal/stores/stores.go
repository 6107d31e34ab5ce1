// Package stores opens chunk stores by where they are. It is the one place that
// knows all kinds of them and puts decorators around them.
package stores

import (
	"errors"
	"io"
	"strings"

	"github.com/ociv2-sync/ociv2-sync/store"
	"github.com/ociv2-sync/ociv2-sync/store/httpstore"
	"github.com/ociv2-sync/ociv2-sync/store/local"
)

// IsURL reports whether a name is an http or https URL, not a path.
func IsURL(name string) bool {
	return strings.HasPrefix(name, "http://") || strings.HasPrefix(name, "https://")
}

// Open opens stores, directories and URLs, to be asked in their order. The
// client must not be nil if there is a URL among them. The caller closes the
// closer when the store is no longer used.
func Open(names []string, client *httpstore.Client) (_ store.Store, _ io.Closer, err error) {
	var all []store.Store
	var open closers
	for _, name := range names {
		var s store.Store
		if IsURL(name) {
			s, err = httpstore.New(client, name)
		} else {
			var l *local.Store
			if l, err = local.Open(name, local.Options{}); err == nil {
				s, open = l, append(open, l)
			}
		}
		if err != nil {
			return nil, nil, errors.Join(err, open.Close())
		}
		all = append(all, s)
	}
	if len(all) == 1 {
		return all[0], open, nil
	}
	return store.Chain(all...), open, nil
}

// closers close together.
type closers []io.Closer

// Close closes all.
func (c closers) Close() error {
	var err error
	for _, one := range c {
		err = errors.Join(err, one.Close())
	}
	return err
}
