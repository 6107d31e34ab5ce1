package httpstore

import (
	"context"
	"sync"
	"time"
)

// window bounds the requests in flight to what the link has use for: the product
// of its bandwidth and its delay, which it finds by trying. While more requests
// wait than it lets through, it compares the bytes per second of one period with
// those of the period before: more requests that brought more bytes call for
// still more, and those that brought none are taken back. On a slow link few
// requests share it, so that each ends soon and little is lost when it is cut; on
// a long one there are as many as it takes to fill it.
type window struct {
	mu      sync.Mutex
	most    int
	size    int
	flying  int
	waiting []chan struct{} // closed when its owner may go

	since   time.Time // begin of the period
	bytes   int64     // that came in it
	ended   int       // requests that did
	full    bool      // something waited in it
	rate    float64   // bytes per second of the best period at this size or below
	settled int       // periods since growing brought nothing
	found   bool      // growing has brought nothing before
}

const (
	firstWindow = 8
	minPeriod   = 250 * time.Millisecond
	growth      = 1.08 // that more requests must bring to be worth it
	retryAfter  = 16   // periods until it is tried again
)

func newWindow(most int) *window {
	return &window{most: most, size: min(firstWindow, most)}
}

// enter waits until another request may be made.
func (w *window) enter(ctx context.Context) error {
	w.mu.Lock()
	if w.flying < w.size {
		if w.flying == 0 { // idle before: what it measured is of another time
			w.since, w.bytes, w.ended, w.full = time.Now(), 0, 0, false
		}
		w.flying++
		w.mu.Unlock()
		return nil
	}
	turn := make(chan struct{})
	w.waiting = append(w.waiting, turn)
	w.full = true
	w.mu.Unlock()
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, ch := range w.waiting {
		if ch == turn {
			w.waiting = append(w.waiting[:i], w.waiting[i+1:]...)
			return ctx.Err()
		}
	}
	w.flying-- // it was let through at the same moment
	w.admit()
	return ctx.Err()
}

// leave notes that a request has ended and brought n bytes.
func (w *window) leave(n int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.flying--
	w.bytes += n
	w.ended++
	w.judge(time.Now())
	w.admit()
}

// admit lets those through for whom there is room.
func (w *window) admit() {
	for len(w.waiting) > 0 && w.flying < w.size {
		close(w.waiting[0])
		w.waiting = w.waiting[1:]
		w.flying++
	}
}

// judge ends the period if it is long enough: as many requests have ended as are
// in flight, so that each that began with this size is in it.
func (w *window) judge(now time.Time) {
	took := now.Sub(w.since)
	if took < minPeriod || w.ended < w.size {
		return
	}
	rate := float64(w.bytes) / took.Seconds()
	if w.full {
		switch {
		case rate > w.rate*growth:
			step := w.size // doubled at first, to be there soon
			if w.found {
				step = max(w.size/2, 1)
			}
			w.size, w.settled = min(w.size+step, w.most), 0
			w.rate = rate
		case w.settled == 0: // the last step brought nothing
			w.size, w.settled, w.found = max(w.size*2/3, min(firstWindow/2, w.most)), 1, true
		case w.settled < retryAfter:
			w.settled++
		default: // the link may have changed
			w.rate, w.settled = 0, 0
		}
	}
	w.since, w.bytes, w.ended, w.full = now, 0, 0, len(w.waiting) > 0
}
