package chunkserver

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"time"
)

// MonitorOptions say how a monitor behaves. The zero value lets everybody in and
// logs nothing.
type MonitorOptions struct {
	// AccessLog is told about every request. nil means nobody is.
	AccessLog *slog.Logger
	// Token, if it is set, says whether a token may come in, that a request brings as
	// "Authorization: Bearer TOKEN". /healthz and /readyz need none.
	Token func(token string) bool
	// Login, if it is set, says whether a user and a password may come in, too.
	Login func(user, password string) bool
	// Ready reports whether requests can be served. nil means always.
	Ready func() error
}

// Monitor is an [http.Handler] around another one, which it lets be watched: it
// counts and logs requests, and answers by itself
//
//	/healthz   200, as long as the process serves at all
//	/readyz    200, or 503 while MonitorOptions.Ready fails
//	/metrics   the counts, in the text format of Prometheus
type Monitor struct {
	next http.Handler
	opts MonitorOptions

	codes                              [600]atomic.Int64
	hits, misses, stale                atomic.Int64
	bytes, flying, nanoseconds, served atomic.Int64
	buckets                            [len(bounds)]atomic.Int64
}

// bounds are those of the latency histogram, in milliseconds.
var bounds = [...]int64{1, 5, 25, 100, 500, 2500, 10_000, 60_000}

// NewMonitor returns a monitor of next.
func NewMonitor(next http.Handler, o MonitorOptions) *Monitor {
	return &Monitor{next: next, opts: o}
}

// ServeHTTP implements [http.Handler].
func (m *Monitor) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/healthz", "/readyz":
		if r.URL.Path == "/readyz" && m.opts.Ready != nil {
			if err := m.opts.Ready(); err != nil {
				// Not the reason: it names places on this machine, and anybody may ask.
				fail(w, http.StatusServiceUnavailable)
				return
			}
		}
		w.Header().Set("Cache-Control", "no-store")
		_, _ = io.WriteString(w, "ok\n") // or nobody listens
		return
	}
	begin := time.Now()
	m.flying.Add(1)
	rec := &recorder{ResponseWriter: w}
	defer func() {
		m.flying.Add(-1)
		m.note(rec, r, time.Since(begin))
	}()
	switch {
	case !m.allowed(r):
		if m.opts.Token != nil {
			rec.Header().Add("WWW-Authenticate", "Bearer")
		}
		if m.opts.Login != nil {
			rec.Header().Add("WWW-Authenticate", `Basic realm="ociv2-sync"`)
		}
		fail(rec, http.StatusUnauthorized)
	case r.URL.Path == "/metrics":
		m.metrics(rec)
	default:
		m.next.ServeHTTP(rec, r)
	}
}

// allowed reports whether a request brings what lets it in.
func (m *Monitor) allowed(r *http.Request) bool {
	if m.opts.Token == nil && m.opts.Login == nil {
		return true
	}
	if user, password, ok := r.BasicAuth(); ok {
		return m.opts.Login != nil && m.opts.Login(user, password)
	}
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	return ok && m.opts.Token != nil && m.opts.Token(token)
}

// note counts and logs a request that has ended.
func (m *Monitor) note(rec *recorder, r *http.Request, took time.Duration) {
	if rec.code == 0 {
		rec.code = http.StatusOK
	}
	if rec.code < len(m.codes) {
		m.codes[rec.code].Add(1)
	}
	m.bytes.Add(rec.bytes)
	m.nanoseconds.Add(int64(took))
	m.served.Add(1)
	for i, ms := range bounds {
		if took <= time.Duration(ms)*time.Millisecond {
			m.buckets[i].Add(1)
			break
		}
	}
	cache := rec.Header().Get("X-Cache")
	switch cache {
	case "hit":
		m.hits.Add(1)
	case "miss":
		m.misses.Add(1)
	case "stale":
		m.stale.Add(1)
	}
	if m.opts.AccessLog != nil {
		m.opts.AccessLog.LogAttrs(r.Context(), slog.LevelInfo, "request",
			slog.String("remote", r.RemoteAddr), slog.String("method", r.Method), slog.String("path", r.URL.Path),
			slog.Int("status", rec.code), slog.Int64("bytes", rec.bytes), slog.Duration("took", took), slog.String("cache", cache))
	}
}

// metrics writes the counts.
func (m *Monitor) metrics(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	b := bufio.NewWriter(w)
	defer b.Flush()
	const prefix = "ociv2_sync_http_"
	metric := func(name, kind, help string) {
		fmt.Fprintf(b, "# HELP %s%s %s\n# TYPE %s%s %s\n", prefix, name, help, prefix, name, kind)
	}
	metric("requests_total", "counter", "Requests answered, by status.")
	for code := range m.codes {
		if n := m.codes[code].Load(); n > 0 {
			fmt.Fprintf(b, "%srequests_total{code=\"%d\"} %d\n", prefix, code, n)
		}
	}
	metric("cache_total", "counter", "Requests that a proxy answered from its cache, from upstream, or from the cache because upstream did not answer.")
	for _, c := range []struct {
		result string
		n      *atomic.Int64
	}{{"hit", &m.hits}, {"miss", &m.misses}, {"stale", &m.stale}} {
		fmt.Fprintf(b, "%scache_total{result=%q} %d\n", prefix, c.result, c.n.Load())
	}
	metric("response_bytes_total", "counter", "Bytes of response bodies sent.")
	fmt.Fprintf(b, "%sresponse_bytes_total %d\n", prefix, m.bytes.Load())
	metric("requests_in_flight", "gauge", "Requests being answered.")
	fmt.Fprintf(b, "%srequests_in_flight %d\n", prefix, m.flying.Load())
	metric("request_duration_seconds", "histogram", "Time from the header of a request to the end of its response.")
	sum := int64(0)
	for i, ms := range bounds {
		sum += m.buckets[i].Load()
		fmt.Fprintf(b, "%srequest_duration_seconds_bucket{le=\"%g\"} %d\n", prefix, float64(ms)/1000, sum)
	}
	n := max(m.served.Load(), sum)
	fmt.Fprintf(b, "%srequest_duration_seconds_bucket{le=\"+Inf\"} %d\n", prefix, n)
	fmt.Fprintf(b, "%srequest_duration_seconds_sum %g\n", prefix, time.Duration(m.nanoseconds.Load()).Seconds())
	fmt.Fprintf(b, "%srequest_duration_seconds_count %d\n", prefix, n)
}

// recorder notes what is answered. It lets files through to the system's sendfile.
type recorder struct {
	http.ResponseWriter
	code  int
	bytes int64
}

func (r *recorder) WriteHeader(code int) {
	if r.code == 0 && code >= 200 {
		r.code = code
	}
	r.ResponseWriter.WriteHeader(code)
}

func (r *recorder) Write(p []byte) (int, error) {
	n, err := r.ResponseWriter.Write(p)
	r.bytes += int64(n)
	return n, err
}

// ReadFrom implements [io.ReaderFrom].
func (r *recorder) ReadFrom(src io.Reader) (int64, error) {
	n, err := io.Copy(r.ResponseWriter, src)
	r.bytes += n
	return n, err
}

// Unwrap is for [http.ResponseController].
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }
