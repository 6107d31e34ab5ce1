package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/ociv2-sync/ociv2-sync/chunkserver"
	"github.com/ociv2-sync/ociv2-sync/internal/repo"
	"github.com/ociv2-sync/ociv2-sync/internal/stores"
	"github.com/ociv2-sync/ociv2-sync/store"
	"github.com/ociv2-sync/ociv2-sync/store/sshstore"
)

// proxy closes its way to the repository with itself.
type proxy struct {
	*chunkserver.Proxy
	clients stores.Clients
	closer  io.Closer
}

func (p *proxy) Close() error {
	err := errors.Join(p.Proxy.Close(), p.closer.Close())
	p.clients.Close()
	return err
}

// proxyOf returns what stands for a URL or HOST:PATH.
func (a *app) proxyOf(what string, o *serveOptions) (*proxy, error) {
	if o.write {
		return nil, usageError{errors.New("--write is for a directory, not for a proxy")}
	}
	if o.cache == "" {
		return nil, usageError{errors.New("a proxy needs a directory of its own: --cache DIR")}
	}
	all := append([]string{what}, o.mirrors...)
	for _, mirror := range o.mirrors {
		if strings.Contains(what, "://") != strings.Contains(mirror, "://") || !stores.Remote(mirror) && !strings.Contains(mirror, "://") {
			return nil, usageError{fmt.Errorf("--mirror %s: URLs have URLs as mirrors, and HOST:PATH has HOST:PATH", public(mirror))}
		}
	}
	clients, err := a.clients(all)
	if err != nil {
		return nil, err
	}
	from, closer, err := openUpstream(clients, all)
	if err != nil {
		return nil, err
	}
	p, err := chunkserver.NewProxy(from, o.cache, chunkserver.ProxyOptions{MaxBytes: int64(o.cacheSize), Logger: a.logger()})
	if err != nil {
		return nil, errors.Join(err, closer.Close())
	}
	return &proxy{p, clients, closer}, nil
}

// openUpstream opens what a proxy stands for: a repository or a chunk store at URLs, or
// a chunk store at HOST:PATH, by casync's protocol, of which there may be several.
func openUpstream(clients stores.Clients, all []string) (chunkserver.Upstream, io.Closer, error) {
	if strings.Contains(all[0], "://") {
		files, closer, err := clients.OpenMirrors(all)
		return streamed{files}, closer, err
	}
	s, closer, err := stores.Open(all, clients)
	if err != nil {
		return nil, nil, err
	}
	var at []sshstore.Location
	for _, one := range all {
		l, _, err := stores.SSH(one)
		if err != nil {
			return nil, nil, errors.Join(err, closer.Close())
		}
		at = append(at, l)
	}
	beside := store.NewRanking(at, store.MirrorOptions{Retries: -1, Logger: clients.SSH.Logger})
	index := func(ctx context.Context, name string, limit int64) (b []byte, err error) {
		err = beside.Ask(ctx, store.InOrder, func(l sshstore.Location) (err error) {
			l.Path = path.Join(path.Dir(path.Clean(l.Path)), name)
			b, err = sshstore.Index(ctx, l, limit, clients.SSH)
			if err != nil && strings.Contains(err.Error(), "No such file or directory") { // all that casync says
				err = fmt.Errorf("%w: %w", store.ErrNotFound, err)
			}
			return err
		})
		return b, err
	}
	return chunkserver.Chunks(s, path.Base(at[0].Path), index), closer, nil
}

// streamed passes large blobs on while they arrive.
type streamed struct{ repo.Files }

// Copy implements [chunkserver.Streamer].
func (s streamed) Copy(ctx context.Context, name string, w io.Writer, begin func(int64) error) error {
	return repo.Copy(ctx, s.Files, name, w, begin)
}
