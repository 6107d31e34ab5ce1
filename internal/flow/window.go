// Package flow bounds what a client has in flight to what the link to its server has
// use for.
package flow

import (
	"cmp"
	"context"
	"sync"
	"time"
)

// Window bounds what is in flight to what the link has use for: twice the product of
// its bandwidth and its delay, both measured. It counts bytes, as chunks differ in
// size and their sizes are known beforehand: on a slow link few requests share it, so
// that each ends soon and little is lost when it is cut; on a long one there are as
// many as it takes to fill it.
//
// The bandwidth is the most that arrived in one of the last periods, a period being a
// round trip. The delay is the least time from a request to its answer. Bytes that
// wait in a queue on the way delay answers too, so a delay that has not been seen for
// long is measured anew with so few bytes in flight that none wait: it may be that the
// way has become longer.
//
// It may be used by several goroutines at once.
type Window struct {
	mu      sync.Mutex
	most    int // requests
	waiting []*waiter

	flying int     // requests
	load   int64   // bytes that they are expected to bring
	limit  int64   // of load
	share  float64 // of their limits that requests bring

	since  time.Time // begin of the period; zero: nothing has come in it
	last   time.Time // when something came
	bytes  int64     // that came in it
	full   bool      // something waited in it
	rates  [10]float64
	period int
	flat   int // periods since the bandwidth grew

	delay   time.Duration // 0: unknown
	guess   time.Duration // what it may be, while it is unknown
	usual   time.Duration // the delay that is usual, with what waits
	seen    time.Time     // when delay was seen
	trust   time.Duration // how long delay is believed without being seen
	probing time.Time     // until when it is measured; zero: it is not
	least   time.Duration // delay seen meanwhile
}

// waiter is a request that waits for its turn.
type waiter struct {
	limit int64
	cost  int64         // set when it may go
	turn  chan struct{} // closed when it may go
}

const (
	firstWindow = 256 << 10              // bytes, until something is known
	looseLimit  = 1 << 20                // bytes: a greater limit is one of metadata, and tells little
	fewest      = 4                      // requests that are always let through
	minPeriod   = 100 * time.Millisecond // of a measurement
	minDelay    = 4 * time.Millisecond   // that the window has room for: pauses of either side
	growth      = 1.15                   // of the bandwidth, by which it is not found yet
	flatPeriods = 3                      // without growth, by which it is
	firstTrust  = 2 * time.Second        // of the delay: what is asked for first may be answered sooner than the rest
	mostTrust   = 20 * time.Second
)

// New returns a window that lets at most so many requests through at a time.
func New(most int) *Window {
	return &Window{most: most, limit: firstWindow, share: 1, trust: firstTrust}
}

// Enter waits until a request that brings at most limit bytes may be made. What it
// returns is for Leave.
func (w *Window) Enter(ctx context.Context, limit int64) (cost int64, err error) {
	w.mu.Lock()
	if w.flying == 0 { // idle before: the period ended with what came last
		w.measure(w.last.Sub(w.since))
		w.since, w.full = time.Time{}, false
	}
	turn := &waiter{limit: limit, turn: make(chan struct{})}
	w.waiting = append(w.waiting, turn)
	w.release()
	w.full = w.full || len(w.waiting) > 0
	w.mu.Unlock()
	select {
	case <-turn.turn:
		return turn.cost, nil
	case <-ctx.Done():
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, one := range w.waiting {
		if one == turn {
			w.waiting = append(w.waiting[:i], w.waiting[i+1:]...)
			return 0, ctx.Err()
		}
	}
	w.dismiss(turn.cost) // it was let through at the same moment
	return 0, ctx.Err()
}

// dismiss takes a request out.
func (w *Window) dismiss(cost int64) {
	w.flying--
	w.load -= cost
	w.release()
}

// release lets those through for whom there is room.
func (w *Window) release() {
	for len(w.waiting) > 0 && w.flying < w.most {
		next := w.waiting[0]
		next.cost = max(int64(float64(next.limit)*w.share), 1)
		if w.load+next.cost > w.limit && w.flying >= fewest {
			return
		}
		w.flying++
		w.load += next.cost
		close(next.turn)
		w.waiting = w.waiting[1:]
	}
}

// Leave notes that a request has ended, which was allowed to bring limit bytes, and
// brought n: none where there was nothing to bring. n is negative if it failed, which
// says nothing.
func (w *Window) Leave(cost, limit, n int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if n >= 0 && limit <= looseLimit {
		w.share += (min(float64(n)/float64(max(limit, 1)), 1) - w.share) / 4
	}
	w.dismiss(cost)
}

// Answered notes how long the answer to a request took to begin.
func (w *Window) Answered(took time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	took = max(took, 1)
	if w.usual == 0 {
		w.usual = took
	}
	w.usual += (took - w.usual) / 8
	if w.delay == 0 || took <= w.delay+w.delay/10 {
		w.seen = time.Now()
	}
	if w.delay == 0 || took < w.delay {
		w.delay = took
	}
	w.least = min(w.least, took)
}

// Guess says what the delay may be, for the time until an answer has been seen. Only the
// first guess counts.
func (w *Window) Guess(delay time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.guess = cmp.Or(w.guess, delay)
}

// Arrived notes that bytes have.
func (w *Window) Arrived(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.last = time.Now()
	if w.since.IsZero() {
		w.since = w.last
	}
	w.bytes += int64(n)
	if took := w.last.Sub(w.since); w.delay > 0 && took >= max(minPeriod, w.delay) {
		w.measure(took)
		w.since, w.full = w.last, len(w.waiting) > 0
		w.release()
	}
}

// measure ends a period.
func (w *Window) measure(took time.Duration) {
	if w.bytes == 0 {
		return
	}
	rate := float64(w.bytes) / max(took, minPeriod).Seconds()
	switch {
	case w.flat >= flatPeriods: // found for good: twice the product finds what comes later
	case rate > w.bandwidth()*growth:
		w.flat = 0
	case w.full:
		w.flat++
	}
	w.rates[w.period%len(w.rates)] = rate
	w.period++
	w.bytes = 0
	w.adjust(w.last)
}

// bandwidth returns that of the link in bytes per second, 0 if it is not known.
func (w *Window) bandwidth() float64 {
	best := w.rates[0]
	for _, r := range w.rates {
		best = max(best, r)
	}
	return best
}

// adjust sets the limit by what is known.
func (w *Window) adjust(now time.Time) {
	if !w.probing.IsZero() && now.After(w.probing) {
		w.probing = time.Time{}
		if w.least != never {
			w.delay = w.least
		}
		w.trust = min(2*w.trust, mostTrust)
		w.seen = now
	}
	bandwidth := w.bandwidth()
	delay := cmp.Or(w.delay, w.guess)
	if bandwidth == 0 || delay == 0 {
		return
	}
	product := func(times float64) int64 { return int64(times * bandwidth * max(delay, minDelay).Seconds()) }
	switch {
	case !w.probing.IsZero():
		return
	case now.Sub(w.seen) > w.trust && w.full:
		w.probing, w.least = now.Add(2*w.usual), never
		w.limit = product(1)
	case w.flat < flatPeriods:
		w.limit = max(product(3), firstWindow)
	default:
		w.limit = product(2)
	}
}

// never is longer than any delay.
const never = time.Duration(1<<63 - 1)
