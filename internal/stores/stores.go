// Package stores opens chunk stores by where they are. It is the one place that
// knows all kinds of them and puts decorators around them.
package stores

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/ociv2-sync/ociv2-sync/store"
	"github.com/ociv2-sync/ociv2-sync/store/httpstore"
	"github.com/ociv2-sync/ociv2-sync/store/local"
	"github.com/ociv2-sync/ociv2-sync/store/s3store"
	"github.com/ociv2-sync/ociv2-sync/store/sshstore"
)

// Clients are the ways to other machines.
type Clients struct {
	HTTP *httpstore.Client // must not be nil where there are http or https URLs
	SSH  sshstore.Options
	// Server is the program on the far side of ssh repositories: see
	// sftpstore.Options.
	Server string
	// S3 is how buckets are reached.
	S3 s3store.Options

	warm map[string]*sshstore.Store // those that Warm has opened
}

// Warm begins to connect to those of the named stores that ssh reaches, while
// something else is read that is needed first. The clients that it returns open
// those stores once more; the caller closes the closer, after them.
func (c Clients) Warm(names []string) (Clients, io.Closer, error) {
	warm := make(map[string]*sshstore.Store)
	var open closers
	for _, name := range names {
		at, ok, err := SSH(name)
		if err == nil && (!ok || warm[name] != nil) {
			continue
		}
		var s *sshstore.Store
		if err == nil {
			s, err = sshstore.New(at, c.SSH)
		}
		if err != nil {
			return c, nil, errors.Join(err, open.Close())
		}
		warm[name], open = s, append(open, s)
		s.Warm()
	}
	c.warm = warm
	return c, open, nil
}

// IsURL reports whether a name is an http or https URL, not a path.
func IsURL(name string) bool {
	return strings.HasPrefix(name, "http://") || strings.HasPrefix(name, "https://")
}

// ErrScheme reports a URL of a kind that is not read here.
var ErrScheme = errors.New("not a URL of http, https or ssh")

// SSH returns the location that a name is: an ssh URL, or [USER@]HOST:PATH as
// casync takes it. It reports false for http and https URLs and for paths; other URLs
// are ErrScheme.
func SSH(name string) (sshstore.Location, bool, error) {
	if strings.HasPrefix(name, "ssh://") {
		at, err := sshstore.ParseURL(name)
		return at, true, err
	}
	if scheme, _, ok := strings.Cut(name, "://"); ok && !IsURL(name) && !strings.Contains(scheme, "/") {
		return sshstore.Location{}, false, fmt.Errorf("stores: %s: %w", name, ErrScheme)
	}
	at, ok := sshstore.ParseLocator(name)
	return at, ok, nil
}

// Open opens stores, directories, URLs and places that ssh reaches. Directories
// are asked first, in their order; then the others, which are mirrors of each
// other: see [store.Mirrors]. The caller closes the closer when the store is no
// longer used.
func Open(names []string, clients Clients) (_ store.Store, _ io.Closer, err error) {
	var near, far []store.Store
	var open closers
	remote := 0
	for _, name := range names {
		if Remote(name) {
			remote++
		}
	}
	for _, name := range names {
		s, closer, err := openOne(name, clients, remote > 1)
		if err != nil {
			return nil, nil, errors.Join(err, open.Close())
		}
		if open = append(open, closer); Remote(name) {
			far = append(far, s)
		} else {
			near = append(near, s)
		}
	}
	if len(far) > 1 {
		far = []store.Store{store.Mirrors(far, store.MirrorOptions{Retries: clients.SSH.Retries, Logger: clients.SSH.Logger})}
	}
	if all := append(near, far...); len(all) != 1 {
		return store.Chain(all...), open, nil
	} else {
		return all[0], open, nil
	}
}

// Remote reports whether a name is of a store on another machine.
func Remote(name string) bool {
	_, far, _ := SSH(name)
	return far || IsURL(name)
}

// openOne opens a store, and, where it is one of several, one that fails soon.
func openOne(name string, clients Clients, several bool) (store.Store, io.Closer, error) {
	if IsURL(name) {
		s, err := httpstore.New(clients.HTTP, name)
		if err != nil {
			return nil, nil, err
		}
		if several {
			s = s.Once()
		}
		return store.Single(s), closers{}, nil
	}
	at, remote, err := SSH(name)
	switch {
	case err != nil:
		return nil, nil, err
	case remote:
		var closer io.Closer = closers{} // of one that is warm
		s := clients.warm[name]
		if s == nil {
			if s, err = sshstore.New(at, clients.SSH); err != nil {
				return nil, nil, err
			}
			closer = s
		}
		if several {
			s.Once()
		}
		return s, closer, nil
	}
	s, err := local.Open(name, local.Options{})
	return s, s, err
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
