package chunkserver

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/ociv2-sync/ociv2-sync/chunk"
	"github.com/ociv2-sync/ociv2-sync/store"
)

// Upstream is the repository, or chunk store, that a proxy stands for.
type Upstream interface {
	// ReadFile returns the contents of the file at path, slash-separated. The
	// error wraps store.ErrNotFound when there is none and store.ErrTooLarge when
	// it is longer than limit bytes. It may be called from several goroutines.
	ReadFile(ctx context.Context, path string, limit int64) ([]byte, error)
}

// ProxyOptions say how a proxy behaves.
type ProxyOptions struct {
	// MaxBytes is the most that the cache may hold: what was asked for least
	// recently gives way. 0 means 10 GiB.
	MaxBytes int64
	// MaxObject is the length in bytes of the largest object that is served. An
	// object is in memory while it is fetched. 0 means 256 MiB.
	MaxObject int64
	// Fresh is how long the copy of a file that may change is served without
	// asking upstream. 0 means 2 s: for those who ask at once.
	Fresh time.Duration
	// Logger is told about failures. nil means nobody is.
	Logger *slog.Logger
}

// Proxy is an [http.Handler] that serves the files of an upstream from a cache
// in a directory. It fetches each object once, however many clients wait for it,
// and verifies what is named by its content before it keeps it. (A chunk that is
// not compressed by zstd is passed on and not kept.) Files that may
// change are asked for upstream each time, but for ProxyOptions.Fresh; when
// upstream does not answer, the copy that is there is served with the header
// "Warning: 110".
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

// flight is a fetch that is under way. Its results are set when done is closed.
type flight struct {
	done  chan struct{}
	data  []byte
	stale bool
	err   error
}

// NewProxy returns a proxy with its cache in dir, which must be empty or have been
// one before. Call [Proxy.Close] when no request is served any more.
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

// ServeHTTP implements [http.Handler].
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name, k, ok := published(w, r)
	if !ok {
		return
	}
	var fresh time.Time
	if !k.immutable {
		fresh = time.Now().Add(-p.opts.Fresh)
	}
	if f, fi, err := p.cache.open(name, fresh); err == nil {
		defer f.Close()
		k.headers(w, name, fi)
		w.Header().Set("X-Cache", "hit")
		http.ServeContent(w, r, "", fi.ModTime(), f)
		return
	}
	got := p.get(r.Context(), name, k)
	switch {
	case r.Context().Err() != nil:
		return // nobody listens
	case errors.Is(got.err, store.ErrNotFound):
		fail(w, http.StatusNotFound)
		return
	case got.err != nil:
		p.opts.Logger.Error("cannot fetch from upstream", "name", name, "error", got.err)
		fail(w, http.StatusBadGateway)
		return
	}
	w.Header().Set("Content-Type", k.contentType)
	w.Header().Set("Cache-Control", k.cacheControl)
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("X-Cache", "miss")
	if got.stale {
		w.Header().Set("Warning", `110 - "Response is Stale"`)
		w.Header().Set("X-Cache", "stale")
	}
	if k.immutable {
		w.Header().Set("ETag", contentTag(name, int64(len(got.data))))
	} else {
		sum := sha256.Sum256(got.data)
		w.Header().Set("ETag", `"`+hex.EncodeToString(sum[:16])+`"`)
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(got.data))
}

// get returns an object from upstream, fetched by this request or by another one
// that began before.
func (p *Proxy) get(ctx context.Context, name string, k *kind) *flight {
	p.mu.Lock()
	f, ok := p.flights[name]
	if !ok {
		f = &flight{done: make(chan struct{})}
		p.flights[name] = f
		p.busy.Go(func() {
			f.data, f.stale, f.err = p.fetch(name, k)
			p.mu.Lock()
			delete(p.flights, name)
			p.mu.Unlock()
			close(f.done)
		})
	}
	p.mu.Unlock()
	select {
	case <-f.done:
		return f
	case <-ctx.Done():
		return &flight{err: ctx.Err()}
	}
}

// fetch fetches an object and keeps it. It does not end with the client that
// asked for it: others may wait, and what has begun is soon wanted again.
func (p *Proxy) fetch(name string, k *kind) (data []byte, stale bool, err error) {
	data, err = p.upstream.ReadFile(p.life, name, p.opts.MaxObject)
	if err == nil {
		err = k.verify(name, data)
	}
	switch {
	case errors.Is(err, errors.ErrUnsupported):
		return data, false, nil // it cannot be verified here, so it is not kept
	case err == nil:
		if kerr := p.cache.put(name, data); kerr != nil { // it can be served all the same
			p.opts.Logger.Error("cannot cache an object", "name", name, "error", kerr)
		}
		return data, false, nil
	case errors.Is(err, store.ErrNotFound):
		p.cache.remove(name)
	case !k.immutable:
		if old, oerr := p.cache.read(name); oerr == nil {
			p.opts.Logger.Warn("upstream does not answer, a copy is served", "name", name, "error", err)
			return old, true, nil
		}
	}
	return nil, false, err
}

// verify checks that what is named by its content is what it is named.
func (k *kind) verify(name string, data []byte) error {
	base := path.Base(name)
	switch k {
	case blobKind:
		if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != base {
			return fmt.Errorf("chunkserver: %s: upstream sends other contents", name)
		}
	case chunkKind:
		p := store.Packed{Form: store.Raw, Data: data}
		if plain, ok := strings.CutSuffix(base, ".cacnk"); ok {
			base, p.Form = plain, store.Compressed
		}
		id, err := chunk.ParseID(base)
		if err != nil {
			return err
		}
		return store.Verify(p, id)
	}
	return nil
}

// published returns the file that a request is for, unless it is none, or the
// request not one that is answered with a file: that is then said.
func published(w http.ResponseWriter, r *http.Request) (name string, k *kind, ok bool) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		fail(w, http.StatusMethodNotAllowed)
		return "", nil, false
	}
	name, ok = strings.CutPrefix(r.URL.Path, "/")
	if k = kindOf(name); !ok || k == nil {
		fail(w, http.StatusNotFound)
		return "", nil, false
	}
	return name, k, true
}

// headers sets what goes with a file.
func (k *kind) headers(w http.ResponseWriter, name string, fi os.FileInfo) {
	h := w.Header()
	h.Set("Content-Type", k.contentType)
	h.Set("Cache-Control", k.cacheControl)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("ETag", k.etag(name, fi))
}
