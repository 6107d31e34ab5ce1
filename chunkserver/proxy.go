package chunkserver

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/ociv2-sync/ociv2-sync/store"
)

// Upstream is the repository, or chunk store, that a proxy stands for.
type Upstream interface {
	// ReadFile returns the contents of the file at path, slash-separated. The
	// error wraps store.ErrNotFound when there is none and store.ErrTooLarge when
	// it is longer than limit bytes. It may be called from several goroutines.
	ReadFile(ctx context.Context, path string, limit int64) ([]byte, error)
}

// Streamer is an [Upstream] that can pass files on while they arrive. For others a device
// waits without a byte until all of a large blob is there.
type Streamer interface {
	// Copy writes the file at path to w while it arrives. Before that it calls begin,
	// perhaps several times, with the length in bytes, or -1 if upstream does not say it.
	// An error of begin or of w ends it. Otherwise it is as ReadFile.
	Copy(ctx context.Context, path string, w io.Writer, begin func(size int64) error) error
}

// ProxyOptions say how a proxy behaves.
type ProxyOptions struct {
	// MaxBytes is the most that the cache may hold: what was asked for least
	// recently gives way. 0 means 10 GiB.
	MaxBytes int64
	// MaxObject is the length in bytes of the largest object that is in memory while it
	// is fetched: that is all but large blobs of a [Streamer], which may be as large as
	// the cache. 0 means 256 MiB.
	MaxObject int64
	// Fresh is how long the copy of a file that may change is served without
	// asking upstream. 0 means 2 s: for those who ask at once.
	Fresh time.Duration
	// Logger is told about failures. nil means nobody is.
	Logger *slog.Logger
}

// Proxy is an [http.Handler] that serves the files of an upstream from a cache
// in a directory. It fetches each object once, however many clients wait for it,
// and verifies what is named by its content before it serves and keeps it. (A blob of
// more than a megabyte is passed on while it is fetched, but for its last byte; if it
// turns out to be wrong, the response is cut off there.) Files that
// may change are asked for upstream each time, but for ProxyOptions.Fresh; when
// upstream does not answer, or what it answers is no such file at all, the copy that is
// there is served with the header "Warning: 110".
//
// The header X-Cache says where a response comes from: hit, miss (it was fetched for
// this request, or for another one at the same time) or stale.
type Proxy struct {
	upstream Upstream
	cache    *cache
	opts     ProxyOptions

	life context.Context //nolint:containedctx // of fetches, which serve several requests
	stop context.CancelFunc
	busy sync.WaitGroup

	mu      sync.Mutex
	flights map[string]*flight
}

// NewProxy returns a proxy with its cache in dir, which must be empty or have been
// one before, or is made. Call [Proxy.Close] when no request is served any more.
func NewProxy(upstream Upstream, dir string, o ProxyOptions) (*Proxy, error) {
	if o.MaxBytes == 0 {
		o.MaxBytes = 10 << 30
	}
	if o.MaxObject == 0 {
		o.MaxObject = 256 << 20
	}
	if o.Fresh == 0 {
		o.Fresh = 2 * time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	c, err := openCache(dir, o.MaxBytes)
	if err != nil {
		return nil, err
	}
	p := &Proxy{upstream: upstream, cache: c, opts: o, flights: make(map[string]*flight)}
	p.life, p.stop = context.WithCancel(context.Background())
	return p, nil
}

// Close ends all fetches and releases the directory.
func (p *Proxy) Close() error {
	p.stop()
	p.busy.Wait()
	return p.cache.close()
}

// Ready reports whether the cache is where it was; upstream need not answer.
func (p *Proxy) Ready() error { return inPlace(p.cache.root.Root) }

// ServeHTTP implements [http.Handler].
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name, k, ok := published(w, r, readOnly)
	if !ok {
		return
	}
	var fresh time.Time
	if !k.immutable {
		fresh = time.Now().Add(-p.opts.Fresh)
	}
	if f, x, err := p.cache.open(name, fresh); err == nil {
		defer f.Close()
		k.headers(w, x.tag)
		w.Header().Set("X-Cache", string(hit))
		serveFile(w, r, f, x.size, time.Time{})
		return
	}
	f := p.join(name, k)
	defer f.release()
	select {
	case <-f.done:
	case <-f.begun:
	case <-r.Context().Done():
		return // nobody listens
	}
	select {
	case <-f.begun:
		k.headers(w, contentTag(name, f.size))
		w.Header().Set("X-Cache", string(f.as))
		http.ServeContent(w, r, "", time.Time{}, &arriving{ctx: r.Context(), flight: f})
		return
	default:
	}
	switch {
	case errors.Is(f.err, store.ErrNotFound):
		fail(w, http.StatusNotFound)
		return
	case f.err != nil:
		fail(w, http.StatusBadGateway)
		return
	}
	k.headers(w, k.tagOf(name, f.data))
	w.Header().Set("X-Cache", string(f.from))
	if f.from == stale {
		w.Header().Set("Warning", `110 - "Response is Stale"`)
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(f.data))
}

// join returns the fetch of an object, begun for this request or for another one.
func (p *Proxy) join(name string, k *kind) *flight {
	p.mu.Lock()
	defer p.mu.Unlock()
	f, ok := p.flights[name]
	if !ok {
		f = newFlight(p.opts.MaxObject, func(size int64) (*spooled, error) { return p.cache.spool(name, size) })
		p.flights[name] = f
		p.busy.Go(func() {
			defer f.release()
			f.data, f.from, f.err = p.fetch(f, name, k)
			if f.err != nil && !errors.Is(f.err, store.ErrNotFound) {
				p.opts.Logger.Error("cannot fetch from upstream", "name", name, "error", f.err)
			}
			p.mu.Lock()
			delete(p.flights, name)
			p.mu.Unlock()
			close(f.done)
		})
	}
	f.use()
	return f
}

// fetch fetches an object and keeps it. It does not end with the client that
// asked for it: others may wait, and what has begun is soon wanted again.
func (p *Proxy) fetch(f *flight, name string, k *kind) ([]byte, source, error) {
	if k.immutable {
		data, err := p.adopt(f, name, k)
		if err == nil {
			return data, hit, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			p.opts.Logger.Warn("what is in the cache is damaged, it is fetched again", "name", name, "error", err)
		}
	}
	data, err := p.read(f, name, k)
	if f.size > 0 {
		return nil, miss, p.keep(f, name, err)
	}
	if err == nil {
		err = k.verify(name, data)
	}
	switch {
	case err == nil:
		if kerr := p.cache.put(name, data, k.tagOf(name, data), !k.immutable); kerr != nil { // it can be served all the same
			p.opts.Logger.Error("cannot cache an object", "name", name, "error", kerr)
		}
		return data, miss, nil
	case errors.Is(err, store.ErrNotFound):
		p.cache.remove(name)
	case !k.immutable:
		if old, oerr := p.cache.read(name); oerr == nil {
			p.opts.Logger.Warn("upstream does not answer, a copy is served", "name", name, "error", err)
			return old, stale, nil
		}
	}
	return nil, "", err
}

// adopt returns an object that another process has left in the cache, or streams it.
func (p *Proxy) adopt(f *flight, name string, k *kind) ([]byte, error) {
	if k == blobKind {
		file, size, err := p.cache.adoptLarge(name)
		if file != nil {
			f.onDisk = size
			f.stream(file, size, hit)
		}
		if file != nil || err != nil {
			return nil, err
		}
	}
	return p.cache.adopt(name, k.tagOf, func(b []byte) error { return k.verify(name, b) })
}

// keep keeps what was streamed, if it is all there and what it is named, which it returns.
func (p *Proxy) keep(f *flight, name string, err error) error {
	if err == nil {
		err = f.verify(name)
	}
	if f.file == nil {
		return err
	}
	if kerr := f.file.keep(name, contentTag(name, f.size), f.size, err == nil && len(f.part) == 0); kerr != nil {
		p.opts.Logger.Error("cannot cache an object", "name", name, "error", kerr)
	}
	return err
}

// read reads an object from upstream.
func (p *Proxy) read(f *flight, name string, k *kind) ([]byte, error) {
	from, ok := p.upstream.(Streamer)
	if !ok || k != blobKind { // a chunk is short, and the others are not verified
		return p.upstream.ReadFile(p.life, name, p.opts.MaxObject)
	}
	err := from.Copy(p.life, name, f, f.begin)
	return f.part, err
}
